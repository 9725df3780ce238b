"""The foundation of every other room: errors, flags, files, logging and the platform."""
