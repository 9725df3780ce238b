"""What a stage's routers chose, added up over the micro-batches of a step."""

from typing import Any

import torch
from torch import Tensor

from modellink_rm.experts.balance import RouterTally
from modellink_rm.experts.shape import Experts

NUM_ROUTER_LOSSES = 2


def num_router_sums(experts: Experts, num_layers: int) -> int:
    """The length of what `RouterSums.take` returns, for a model of so many layers."""
    return NUM_ROUTER_LOSSES + num_layers * experts.number


class RouterSums:
    """The sums of a stage's routers.

    Args:
        num_layers: over the whole model.
    """

    def __init__(self, experts: Experts, num_layers: int) -> None:
        self._experts = experts
        self._size = num_router_sums(experts, num_layers)
        self._values: Tensor | None = None

    def add(self, tally: RouterTally, *, is_last_stage: bool, groups: list[Any]) -> None:
        """Add the choices of a micro-batch, and on the last stage its losses.

        Args:
            groups: process groups over which its tokens are divided.
        """
        if self._values is None:
            self._values = torch.zeros(self._size, dtype=torch.float64, device=tally.sums.device)
        if is_last_stage and self._experts.balances:
            self._values[:NUM_ROUTER_LOSSES] += tally.finish(groups)
        loads = self._values[NUM_ROUTER_LOSSES:].view(-1, self._experts.number)
        for layer, load in tally.loads.items():
            loads[layer] += load

    def take(self) -> Tensor | None:
        """The sums since the last call; None if there was no micro-batch.

        Returns:
            float64 [2 + layers * E]: the load-balancing loss and the z-loss over examples, on the last stage;
            and of each layer of this stage the choices of each expert by this process's rows.
        """
        values, self._values = self._values, None
        return values
