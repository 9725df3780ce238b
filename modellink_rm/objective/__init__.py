"""Losses and metrics of a batch of scores."""
