"""One file per verb: flags in, the work called, figures out."""
