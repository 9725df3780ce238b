"""Model families of Hugging Face directories, one per file: shape, tensors and parts of a model_type."""
