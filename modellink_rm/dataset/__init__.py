"""Data sets: the indexed files, their manifest, and rows read as examples."""
