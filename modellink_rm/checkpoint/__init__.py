"""Weights in and out: Hugging Face directories, distributed checkpoints, the inference contract."""
