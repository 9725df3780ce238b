"""How blocks of records are shared by processes."""
