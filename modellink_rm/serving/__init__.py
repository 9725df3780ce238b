"""A reward model behind HTTP: requests to token ids, to batches, to scores."""
