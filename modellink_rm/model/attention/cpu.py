"""Attention on a CPU, without masks, of blocks of queries whose keys are cut into parts (`blocks.py`).

The results of the parts are merged by their log-sum-exp, to which a sink adds; with the merged output and
log-sum-exp the backward pass of each part gives its gradients exactly (as in ring attention, arXiv
2310.01889). Compared with one call with a mask [n, keys], this needs no memory for the mask and does not
compute masked products.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modellink_rm.base.megatron_compat import cpu_flash_attention, without_function_modes
from modellink_rm.model.attention.blocks import Block, Part
from modellink_rm.model.attention.pieces import Ranges
from modellink_rm.model.attention.softmax import Softmax

_forward, _backward = cpu_flash_attention()


def attention_of_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax: Softmax,
    blocks: Sequence[Block],
) -> Tensor:
    """Attention output [n, heads, head_dim].

    Args:
        query: [n, heads, head_dim].
        key: [m, groups, head_dim].
        value: [m, groups, head_dim].
        softmax: without dropout.
        blocks: cover the n queries in order.
    """
    assert not softmax.dropout
    tensors = (query, key, value, softmax.sinks)  # where autograd sees them
    output: Tensor = _Blocks.apply(*tensors, softmax, blocks)  # type: ignore[no-untyped-call]
    return output


class _Blocks(torch.autograd.Function):
    @staticmethod
    @without_function_modes()
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        softmax: Softmax,
        blocks: Sequence[Block],
    ) -> Tensor:
        outputs, totals = [], []  # of each block: [1, heads, n, head_dim], [1, heads, n]
        for block in blocks:
            rows = query[slice(*block.queries)]
            results = [
                _part_forward(
                    part,
                    _states(rows, (part.queries,), part.order),
                    _states(key, part.keys, part.order),
                    _states(value, part.keys, part.order),
                    softmax,
                )
                for part in block.parts
            ]
            output, total = results[0] if len(results) == 1 else _merged(block, results)
            if sinks is not None:
                with_sink = torch.logaddexp(total, sinks[:, None].to(total.dtype))
                output = output * (total - with_sink).exp()[..., None]
                total = with_sink
            outputs.append(output[0].transpose(0, 1).to(query.dtype))
            totals.append(total)
        output = torch.cat(outputs)
        ctx.save_for_backward(query, key, value, sinks, output, *totals)
        ctx.blocks = blocks
        ctx.softmax = dataclasses.replace(softmax, sinks=None)  # saved above
        return output

    @staticmethod
    @without_function_modes()
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, output, *totals = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_query, of_key, of_value = (torch.zeros_like(states) for states in (query, key, value))
        of_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=totals[0].dtype)
        for block, total in zip(ctx.blocks, totals, strict=True):
            rows = slice(*block.queries)
            for part in block.parts:
                start, end = part.queries
                log_sum = total[..., start:end]
                gradients = _part_backward(
                    part,
                    [
                        _states(states[rows], (part.queries,), part.order)
                        for states in (gradient, query, output)
                    ],
                    [_states(states, part.keys, part.order) for states in (key, value)],
                    log_sum.flip(2) if part.order == "reversed" else log_sum,
                    ctx.softmax,
                )
                _add(of_query[rows], gradients[0], (part.queries,), part.order)
                _add(of_key, gradients[1], part.keys, part.order)
                _add(of_value, gradients[2], part.keys, part.order)
            if of_sinks is not None:
                # A sink's weight only shrinks the output: d/dsink output = -weight * output.
                weights = (sinks[:, None] - total[0]).exp()  # [heads, n]
                of_sinks -= (weights.T * (gradient[rows] * output[rows]).sum(-1)).sum(0)
        of_sinks = None if of_sinks is None else of_sinks.to(sinks.dtype)
        return of_query, of_key, of_value, of_sinks, None, None


def _merged(block: Block, results: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of a block, of those of its parts; the last part has all queries."""
    *others, (last, last_log_sum) = results
    parts = [slice(*part.queries) for part in block.parts[:-1]]
    total = last_log_sum.clone()
    for queries, (_, log_sum) in zip(parts, others, strict=True):
        total[..., queries] = torch.logaddexp(total[..., queries], log_sum)
    output = last * (last_log_sum - total).exp()[..., None]
    for queries, (one, log_sum) in zip(parts, others, strict=True):
        output[:, :, queries] += one * (log_sum - total[..., queries]).exp()[..., None]
    return output, total


def _states(states: Tensor, ranges: Ranges, order: str) -> Tensor:
    """[1, heads, n, head_dim] of the rows in the ranges of [t, heads, head_dim]."""
    parts = [states[start:end] for start, end in ranges]
    rows = (parts[0] if len(parts) == 1 else torch.cat(parts)).transpose(0, 1)[None]
    return rows.flip(2) if order == "reversed" else rows


def _add(total: Tensor, gradient: Tensor, ranges: Ranges, order: str) -> None:
    """Add a gradient [1, heads, n, head_dim] to the rows in the ranges of [t, heads, head_dim]."""
    rows = (gradient.flip(2) if order == "reversed" else gradient)[0].transpose(0, 1)
    offset = 0
    for start, end in ranges:
        total[start:end] += rows[offset : offset + end - start]
        offset += end - start


def _part_forward(
    part: Part, query: Tensor, key: Tensor, value: Tensor, softmax: Softmax
) -> tuple[Tensor, Tensor]:
    """Output [1, heads, n, head_dim] and log-sum-exp [1, heads, n], both in the order of the block."""
    is_causal = part.order != "all"
    if softmax.softcap is None:
        output, log_sum = _forward(query, key, value, 0.0, is_causal, scale=softmax.scale)
    else:
        logits, _ = _capped_logits(query, key, softmax, is_causal=is_causal)
        log_sum = logits.logsumexp(-1)
        weights = (logits - log_sum[..., None]).exp()
        output = (weights @ value[:, :, None].to(weights.dtype)).flatten(1, 2)
        log_sum = log_sum.flatten(1, 2)
    return (output.flip(2), log_sum.flip(2)) if part.order == "reversed" else (output, log_sum)


def _part_backward(
    part: Part,
    of_queries: Sequence[Tensor],
    of_keys: Sequence[Tensor],
    log_sum: Tensor,
    softmax: Softmax,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    Args:
        of_queries: gradient of the output, query and output, each [1, heads, n, head_dim], in its order.
        of_keys: key and value, each [1, groups, m, head_dim].
        log_sum: [1, heads, n], of all parts and the sink.
    """
    is_causal = part.order != "all"
    gradient, query, output = of_queries
    key, value = of_keys
    if softmax.softcap is None:
        states = (gradient, query, key, value, output, log_sum)
        gradients: tuple[Tensor, Tensor, Tensor] = _backward(*states, 0.0, is_causal, scale=softmax.scale)
        return gradients
    logits, slope = _capped_logits(query, key, softmax, is_causal=is_causal)
    by_group = logits.shape[:3]
    weights = (logits - log_sum.reshape(*by_group, -1, 1)).exp()
    gradient, query, output = (
        states.reshape(*by_group, *states.shape[2:]).to(weights.dtype) for states in of_queries
    )
    key, value = (states[:, :, None].to(weights.dtype) for states in of_keys)
    of_weights = gradient @ value.mT - (gradient * output).sum(-1, keepdim=True)
    of_logits = weights * of_weights * slope * softmax.scale
    of_query = (of_logits @ key).flatten(1, 2)
    return of_query, (of_logits.mT @ query).sum(2), (weights.mT @ gradient).sum(2)


def _capped_logits(query: Tensor, key: Tensor, softmax: Softmax, *, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Capped logits [1, groups, heads per group, n, m], and the slope of the cap there; float32 at least."""
    assert softmax.softcap is not None
    dtype = torch.promote_types(query.dtype, torch.float32)
    by_group = query.reshape(1, key.shape[1], -1, *query.shape[2:]).to(dtype)
    capped = (by_group @ key[:, :, None].mT.to(dtype) * (softmax.scale / softmax.softcap)).tanh()
    logits = capped * softmax.softcap
    if is_causal:
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(hidden, -torch.inf)
    return logits, 1 - capped.square()
