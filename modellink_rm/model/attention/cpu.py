"""Attention on a CPU, without a mask, of queries to earlier keys and to their own."""

from typing import Any

import torch
from torch import Tensor

from modellink_rm.base.megatron_compat import cpu_flash_attention

_forward, _backward = cpu_flash_attention()


def attention_to_earlier_and_own(
    query: Tensor, earlier: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], *, scale: float
) -> Tensor:
    """Attention output [1, heads, n, head_dim] of n queries that see all earlier keys and, causally, n own.

    The two parts are merged by their log-sum-exp; with the merged output and log-sum-exp the backward
    pass of each part gives its gradients exactly (as in ring attention, arXiv 2310.01889). Compared with one
    call with a mask [n, keys], this needs no memory for the mask and does not compute masked products.

    Args:
        query: [1, heads, n, head_dim].
        earlier: keys and values [1, groups, m, head_dim], m at least 1.
        own: keys and values [1, groups, n, head_dim].
    """
    output: Tensor = _EarlierAndOwn.apply(query, *earlier, *own, scale)  # type: ignore[no-untyped-call]
    return output


class _EarlierAndOwn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        earlier_key: Tensor,
        earlier_value: Tensor,
        own_key: Tensor,
        own_value: Tensor,
        scale: float,
    ) -> Tensor:
        parts = (
            _forward(query, earlier_key, earlier_value, 0.0, False, scale=scale),
            _forward(query, own_key, own_value, 0.0, True, scale=scale),
        )
        # Of each query and head, [1, heads, n].
        total = torch.logaddexp(parts[0][1], parts[1][1])
        first, second = (part * (log_sum - total).exp()[..., None] for part, log_sum in parts)
        output: Tensor = (first + second).to(query.dtype)
        ctx.save_for_backward(query, earlier_key, earlier_value, own_key, own_value, output, total)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, earlier_key, earlier_value, own_key, own_value, output, total = ctx.saved_tensors
        rest = (output, total, 0.0)
        of_query, *of_earlier = _backward(
            gradient, query, earlier_key, earlier_value, *rest, False, scale=ctx.scale
        )
        also_of_query, *of_own = _backward(gradient, query, own_key, own_value, *rest, True, scale=ctx.scale)
        return of_query + also_of_query, *of_earlier, *of_own, None
