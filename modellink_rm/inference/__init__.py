"""Scoring conversations with a trained model."""
