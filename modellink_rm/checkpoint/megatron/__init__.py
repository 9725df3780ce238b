"""Checkpoints of ModelLink 1.0 and Megatron-LM in their own format, a file for each rank."""
