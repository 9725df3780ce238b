"""The memory of a GPU."""

import torch


def device_memory(device: torch.device) -> int:
    """All bytes of a GPU's memory, used or free: the same in every run on such a GPU."""
    return int(torch.cuda.get_device_properties(device).total_memory)
