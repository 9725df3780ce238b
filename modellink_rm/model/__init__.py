"""The reward model on megatron-core: layers, attention over packed segments, head."""
