"""Tokenizers: one interface, a file per kind of vocabulary."""
