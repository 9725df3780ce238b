"""Model families of Hugging Face directories, a file each: shape, tensors and parts of a model_type."""
