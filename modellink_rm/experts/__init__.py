"""Mixtures of experts: their shape, rows on the way to them, their products, and their balance."""
