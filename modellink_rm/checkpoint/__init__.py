"""Loading and saving: Hugging Face directories, distributed checkpoints, the inference contract."""
