"""Hugging Face directories: read."""
