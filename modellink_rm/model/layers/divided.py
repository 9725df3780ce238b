"""Vectors of which each tensor-parallel rank holds the elements of its heads."""

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import nn

from modellink_rm.model.config import RewardModelConfig


class DividedVector(nn.Module):
    """A vector [size], of which a rank holds [size/tp]; a checkpoint holds the whole.

    Its gradient is whole on every rank, also under sequence parallelism: attention reads all tokens.
    """

    def __init__(self, config: RewardModelConfig, size: int, *, value: float) -> None:
        super().__init__()
        assert size % config.tensor_model_parallel_size == 0
        self.weight = nn.Parameter(
            torch.full(
                (size // config.tensor_model_parallel_size,),
                value,
                dtype=config.params_dtype,
                device=torch.cuda.current_device(),
            )
        )
        # Without the flag the gradient norm counts the first rank's part alone.
        set_tensor_model_parallel_attributes(self.weight, True, 0, 1)

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What the engine saves, with the part of the vector that this rank holds."""
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=parallel_state.get_tensor_model_parallel_group(),
            dp_cp_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        )
        return sharded
