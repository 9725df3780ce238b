"""Evaluation of a trained model on held-out sets and public benchmarks."""
