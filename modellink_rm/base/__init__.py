"""What every room stands on: errors, flags, files, logging and the platform."""
