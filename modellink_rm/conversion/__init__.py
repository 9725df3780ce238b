"""Checkpoints as Hugging Face directories, and the other way round."""
