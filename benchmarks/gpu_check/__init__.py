"""The first half hour on a GPU, by itself: `make gpu-check`."""
