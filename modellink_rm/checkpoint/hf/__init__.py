"""Reading and writing Hugging Face directories with the same tables."""
