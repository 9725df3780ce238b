"""Losses of preference pairs, a file each: what --loss-type names."""
