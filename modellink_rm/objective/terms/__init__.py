"""Terms that are added to the loss of an example, one per file."""
