"""Adapters: low-rank updates of linear layers whose own weights stay as they are, or are held in 4 bits."""
