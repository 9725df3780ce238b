"""The commands, one per file: parse flags, call the work, print results."""
