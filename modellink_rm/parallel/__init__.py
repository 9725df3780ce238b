"""Process groups, and running batches through the stages of a pipeline."""
