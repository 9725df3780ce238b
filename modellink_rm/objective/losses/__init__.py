"""Losses of preference pairs, one per file; --loss-type chooses one."""
