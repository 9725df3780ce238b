"""How chunks of records are shared by processes."""
