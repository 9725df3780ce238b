"""Process groups, and running micro-batches through pipeline stages."""
