"""What a batch of scores is worth: losses and metrics."""
