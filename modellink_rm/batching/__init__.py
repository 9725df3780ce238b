"""Examples to packed micro-batches, planned and prefetched."""
