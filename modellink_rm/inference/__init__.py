"""Scores of conversations by a trained model."""
