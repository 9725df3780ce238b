"""Heads, which turn hidden states into the scores that an objective reads."""
