"""Hugging Face directories: read and written by the same tables."""
