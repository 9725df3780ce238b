"""Training on a GPU that is not there: which kernels, bytes and waits a step asks of it."""
