"""Attention on a CPU of blocks of queries whose keys are cut into parts (`blocks.py`).

The results of the parts are merged by their log-sum-exp, to which a sink adds; with the merged output and
log-sum-exp the backward pass of each part gives its gradients exactly (as in ring attention, arXiv
2310.01889). Compared with one call with a mask [n, keys], this needs no memory for a large mask and computes
few masked products.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modellink_rm.base.megatron_compat import cpu_flash_attention, without_function_modes
from modellink_rm.model.attention.blocks import SHORT, Block, Part
from modellink_rm.model.attention.pieces import Ranges
from modellink_rm.model.attention.softmax import Softmax

_forward, _backward = cpu_flash_attention()

_KEYS_OF_A_REGISTER = 16  # float32 of AVX-512; of shorter registers it is a multiple


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
        outputs, totals = [], []  # of each block: [n, heads, head_dim], [1, heads, n]
        by_head = [_by_head(states) for states in (query, key, value)]
        for block in blocks:
            results = [
                _part_forward(
                    part,
                    _rows(by_head[0], (_among(block, part),), part.order),
                    _rows(by_head[1], part.keys, part.order, num_more=_num_hidden(part, softmax)),
                    _rows(by_head[2], part.keys, part.order, num_more=_num_hidden(part, softmax)),
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
        # Summed over blocks and parts, in float32 at least.
        of_query, of_key, of_value = (
            torch.zeros_like(states, dtype=torch.promote_types(states.dtype, torch.float32))
            for states in (query, key, value)
        )
        of_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=totals[0].dtype)
        of_queries = [_by_head(states) for states in (gradient, query, output)]
        of_keys = [_by_head(states) for states in (key, value)]
        for block, total in zip(ctx.blocks, totals, strict=True):
            rows = slice(*block.queries)
            for part in block.parts:
                queries = _among(block, part)
                log_sum = total[..., slice(*part.queries)]
                num_more = _num_hidden(part, ctx.softmax)
                gradients = _part_backward(
                    part,
                    [_rows(states, (queries,), part.order) for states in of_queries],
                    [_rows(states, part.keys, part.order, num_more=num_more) for states in of_keys],
                    log_sum.flip(2) if part.order == "reversed" else log_sum,
                    ctx.softmax,
                )
                _add(of_query, gradients[0], (queries,), part.order)
                _add(of_key, gradients[1], part.keys, part.order)
                _add(of_value, gradients[2], part.keys, part.order)
            if of_sinks is not None:
                # A sink's weight only shrinks the output: d/dsink output = -weight * output.
                weights = (sinks[:, None] - total[0]).exp()  # [heads, n]
                of_sinks -= (weights.T * (gradient[rows] * output[rows]).sum(-1)).sum(0)
        of_sinks = None if of_sinks is None else of_sinks.to(sinks.dtype)
        of_query, of_key, of_value = (states.to(query.dtype) for states in (of_query, of_key, of_value))
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


def _by_head(states: Tensor) -> Tensor:
    """[1, heads, t, head_dim] of [t, heads, head_dim], no copy."""
    return states.transpose(0, 1)[None]


def _among(block: Block, part: Part) -> tuple[int, int]:
    """The queries of a part among all queries."""
    return block.queries[0] + part.queries[0], block.queries[0] + part.queries[1]


def _rows(states: Tensor, ranges: Ranges, order: str, *, num_more: int = 0) -> Tensor:
    """[1, heads, n, head_dim] of the rows in the ranges of [1, heads, t, head_dim], and zeros after them."""
    parts = [states[:, :, start:end] for start, end in ranges]
    if num_more:
        parts.append(states.new_zeros(()).expand(*states.shape[:2], num_more, states.shape[3]))
    rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
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
    if softmax.softcap is None:
        mask = _mask(part, query, key)
        output, log_sum = _forward(query, key, value, 0.0, **mask, scale=softmax.scale)
    else:
        logits, _ = _capped_logits(part, query, key, softmax)
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
    gradient, query, output = of_queries
    key, value = of_keys
    if softmax.softcap is None:
        states = (gradient, query, key, value, output, log_sum)
        mask = _mask(part, query, key)
        gradients: tuple[Tensor, Tensor, Tensor] = _backward(*states, 0.0, **mask, scale=softmax.scale)
        return gradients
    logits, slope = _capped_logits(part, query, key, softmax)
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


def _num_hidden(part: Part, softmax: Softmax) -> int:
    """Keys of zeros to add behind a part's own, which its queries do not see anyhow.

    So the kernel's products are of whole vector registers, which takes a tenth to a quarter less time.
    """
    if part.order != "causal" or part.num_queries == 1 or softmax.softcap is not None:
        return 0
    return -part.num_keys % _KEYS_OF_A_REGISTER


def _mask(part: Part, query: Tensor, key: Tensor) -> dict[str, Any]:
    """The kernel's arguments for the keys that a part's queries do not see."""
    offset = _first_hidden(part)
    if offset is None or offset == 1:  # the kernel's own form: query i sees the first i + 1 keys
        return {"is_causal": offset == 1}
    return {"is_causal": False, "attn_mask": _later(offset - 1, query.shape[2], key.shape[2], query.dtype)}


def _later(first: int, num_queries: int, num_keys: int, dtype: torch.dtype) -> Tensor:
    """What is added to logits [num_queries, num_keys]: -inf for the keys after `first + i` of query i."""
    triangle = _triangle(dtype)
    if first + num_queries > len(triangle) or num_keys > triangle.shape[1]:
        triangle = torch.full((first + num_queries, num_keys), -torch.inf, dtype=dtype).triu_(1)
    return triangle[first : first + num_queries, :num_keys]


@functools.cache
def _triangle(dtype: torch.dtype) -> Tensor:
    """The masks of all short pieces are parts of it."""
    with torch.inference_mode(mode=False):
        hidden = torch.full((SHORT, SHORT + _KEYS_OF_A_REGISTER), -torch.inf, dtype=dtype)
        return hidden.triu_(1)


def _first_hidden(part: Part) -> int | None:
    """The first key that the first query does not see, in the order of the part; None if each sees all."""
    if part.order == "all" or part.num_queries == 1:
        return None
    return 1 if part.order == "reversed" else 1 + part.num_keys - part.num_queries


def _capped_logits(part: Part, query: Tensor, key: Tensor, softmax: Softmax) -> tuple[Tensor, Tensor]:
    """Capped logits [1, groups, heads per group, n, m], and the slope of the cap there; float32 at least."""
    assert softmax.softcap is not None
    dtype = torch.promote_types(query.dtype, torch.float32)
    by_group = query.reshape(1, key.shape[1], -1, *query.shape[2:]).to(dtype)
    capped = (by_group @ key[:, :, None].mT.to(dtype) * (softmax.scale / softmax.softcap)).tanh()
    logits = capped * softmax.softcap
    offset = _first_hidden(part)
    if offset is not None:
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(offset)
        logits = logits.masked_fill(hidden, -torch.inf)
    return logits, 1 - capped.square()
