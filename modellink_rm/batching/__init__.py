"""Examples to packed micro-batches: planner, packing and prefetching."""
