"""Scores of responses by a trained model; imports nothing from `train`."""
