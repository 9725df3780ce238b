"""Heads: hidden states to what an objective reads."""
