"""Attention over pieces of a packed sequence: a reference, and a kernel per library.

A kernel is created once per micro-batch, from its pieces, and called in every layer. No kernel creates a
tensor of size t x t.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention

from modellink_rm.base.platform import is_cpu, tensor_on
from modellink_rm.base.registry import Registry
from modellink_rm.model.attention.blocks import blocks_of_pieces
from modellink_rm.model.attention.copied_rows import CopiedRows, rows_of_ranges
from modellink_rm.model.attention.cpu import attention_of_blocks
from modellink_rm.model.attention.pieces import Piece, blocks_of
from modellink_rm.model.attention.softmax import Softmax
from modellink_rm.model.layers.elementwise import compiled_for_all_sizes


class AttentionKernel(Protocol):
    """Attention of one micro-batch's pieces."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, softmax: Softmax) -> Tensor:
        """Output [n, heads, head_dim] of query [n, heads, head_dim], key and value [m, groups, head_dim]."""


# (pieces that cover n queries in order, device, dtype) -> kernel. All kernels take pieces with windows;
# `modellink_rm.model.kernel_choice` knows which one takes dropout, a softcap or sinks.
MakeKernel = Callable[[Sequence[Piece], torch.device, torch.dtype], AttentionKernel]

ATTENTION_KERNELS: Registry[MakeKernel] = Registry("--attention-backend")


class ReferenceAttention:
    """The reference: the formula softmax(query key^T scale) value, piece by piece, with softcap and sinks."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> None:
        self._pieces = tuple(pieces)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, softmax: Softmax) -> Tensor:
        """Output, as `AttentionKernel` says."""
        repeats = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
        outputs = []
        for piece in self._pieces:
            rows, keys = query[slice(*piece.queries)], _rows(key, piece.keys)
            logits = torch.einsum("qhd,khd->hqk", rows, keys) * softmax.scale
            if softmax.softcap is not None:
                logits = (logits / softmax.softcap).tanh() * softmax.softcap
            logits = logits + _mask(piece, logits.device, logits.dtype)
            if softmax.sinks is not None:
                sinks = softmax.sinks.to(logits.dtype)[:, None, None].expand(-1, piece.num_queries, 1)
                logits = torch.cat((logits, sinks), dim=-1)
            weights = drop(torch.softmax(logits, dim=-1)[..., : piece.num_keys], softmax.dropout)
            outputs.append(torch.einsum("hqk,khd->qhd", weights, _rows(value, piece.keys)))
        return torch.cat(outputs)


class SdpaAttention:
    """torch's scaled dot product, by piece; on a CPU without dropout its flash kernel, without masks."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> None:
        self._pieces = tuple(pieces)
        # Made once for all layers.
        self._make_mask = functools.cache(lambda piece: _mask(piece, device, dtype))
        self._make_blocks = functools.cache(
            lambda is_capped: blocks_of_pieces(self._pieces, is_capped=is_capped)
        )

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, softmax: Softmax) -> Tensor:
        """Output, as `AttentionKernel` says."""
        if is_cpu(query.device) and not softmax.dropout:
            blocks = self._make_blocks(softmax.softcap is not None)
            return attention_of_blocks(query, key, value, softmax, blocks)
        assert softmax.softcap is None
        assert softmax.sinks is None
        # Of torch's kernels for a GPU flash attention takes grouped queries, but neither masks nor float32,
        # and the memory-efficient one takes no groups: these would go to the one that makes a tensor of t x t
        # (torch 2.13, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp).
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
        outputs = []
        for piece in self._pieces:
            for block in blocks_of(piece, piece.window or piece.num_queries):
                has_mask = 1 < block.num_queries < block.num_keys or block.window is not None
                output = scaled_dot_product_attention(
                    _by_head(query[slice(*block.queries)]),
                    _by_head(_rows(key, block.keys)),
                    _by_head(_rows(value, block.keys)),
                    attn_mask=self._make_mask(block) if has_mask else None,
                    dropout_p=softmax.dropout,
                    is_causal=not has_mask and block.num_queries == block.num_keys,
                    scale=softmax.scale,
                )
                outputs.append(output[0].transpose(0, 1))
        return torch.cat(outputs)


def _by_head(states: Tensor) -> Tensor:
    """[1, heads, n, head_dim] of [n, heads, head_dim], no copy."""
    return states.transpose(0, 1)[None]


class _KeysByPiece:
    """Keys in the order of the pieces, with a copy of a shared prefix for each piece that sees it.

    So each piece becomes a sequence of its own, whose queries are aligned with the end of its keys: the
    causal mask of flash attention for different lengths. The prefix is copied, not recomputed.
    """

    def __init__(self, pieces: Sequence[Piece], device: torch.device) -> None:
        assert pieces[0].queries[0] == 0
        num_queries = [piece.num_queries for piece in pieces]
        num_keys = [piece.num_keys for piece in pieces]
        self._rows = CopiedRows(rows_of_ranges([keys for piece in pieces for keys in piece.keys]), device)
        self.query_starts = tensor_on(device, np.cumsum([0, *num_queries], dtype=np.int32))
        self.key_starts = tensor_on(device, np.cumsum([0, *num_keys], dtype=np.int32))
        self.longest_query, self.longest_key = max(num_queries), max(num_keys)
        # The number of earlier keys that a query sees at most, as flash attention counts; -1 for all.
        self.num_earlier = max((piece.window - 1 for piece in pieces if piece.window), default=-1)

    def take(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [sum of num_keys, groups, head_dim]."""
        return self._rows.take(key, value)

    def arguments(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Any, ...]:
        """The arguments of flash attention over sequences of different lengths, in its order."""
        starts = (self.query_starts, self.key_starts)
        return (query, *self.take(key, value), *starts, self.longest_query, self.longest_key)


class VarlenAttention:
    """torch.nn.attention.varlen: torch's own flash attention, for bfloat16 on a GPU."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> None:
        self._keys = _KeysByPiece(pieces, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, softmax: Softmax) -> Tensor:
        """Output, as `AttentionKernel` says."""
        from torch.nn.attention.varlen import varlen_attn

        output = varlen_attn(
            *self._keys.arguments(query, key, value),
            scale=softmax.scale,
            window_size=(self._keys.num_earlier, 0),  # causal
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(output, Tensor)
        return output


class FlashAttention:
    """The package flash-attn (2.1 or newer, whose causal mask is aligned with the end of the keys)."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> None:
        self._keys = _KeysByPiece(pieces, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, softmax: Softmax) -> Tensor:
        """Output, as `AttentionKernel` says."""
        from flash_attn import flash_attn_varlen_func

        num_earlier, softcap = self._keys.num_earlier, softmax.softcap
        output: Tensor = flash_attn_varlen_func(
            *self._keys.arguments(query, key, value),
            dropout_p=softmax.dropout,
            softmax_scale=softmax.scale,
            causal=True,
            # Versions before 2.3, 2.6 and 2.4.1 do not have these.
            **({} if num_earlier < 0 else {"window_size": (num_earlier, 0)}),
            **({} if softcap is None else {"softcap": softcap}),
            **({"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}),
        )
        return output


class FlexAttention:
    """torch's FlexAttention with a block mask of pieces; compiled on a GPU, without gradients on a CPU."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> None:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        numbers = range(len(pieces))
        num_queries = [piece.num_queries for piece in pieces]
        num_keys = [piece.num_keys for piece in pieces]
        self._keys = _KeysByPiece(pieces, device)
        query_piece = tensor_on(device, np.repeat(numbers, num_queries))
        key_piece = tensor_on(device, np.repeat(numbers, num_keys))
        # Index of a key in its piece, and of the first and the last key that a query sees.
        place = tensor_on(device, np.concatenate([np.arange(count) for count in num_keys]))
        lasts = [np.arange(piece.num_keys - piece.num_queries, piece.num_keys) for piece in pieces]
        windows = [piece.window or piece.num_keys for piece in pieces]
        firsts = [last + 1 - window for last, window in zip(lasts, windows, strict=True)]
        first, last = (tensor_on(device, np.concatenate(parts)) for parts in (firsts, lasts))

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            is_visible = (first[query] <= place[key]) & (place[key] <= last[query])
            return (query_piece[query] == key_piece[key]) & is_visible

        make_mask = create_block_mask if is_cpu(device) else compiled_for_all_sizes(create_block_mask)
        self._attend = flex_attention if is_cpu(device) else compiled_for_all_sizes(flex_attention)
        self._mask = make_mask(sees, None, None, sum(num_queries), sum(num_keys), device=device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, softmax: Softmax) -> Tensor:
        """Output, as `AttentionKernel` says."""
        from torch.nn.attention.flex_attention import AuxRequest

        query, key, value = (states.transpose(0, 1)[None] for states in (query, *self._keys.take(key, value)))
        sinks = softmax.sinks
        result = self._attend(
            query,
            key,
            value,
            score_mod=None if softmax.softcap is None else _capping(softmax.softcap),
            block_mask=self._mask,
            scale=softmax.scale,
            enable_gqa=query.shape[1] != key.shape[1],
            return_aux=None if sinks is None else AuxRequest(lse=True),
        )
        if sinks is not None:  # its weight only shrinks the output
            output, auxiliary = result
            shares = torch.sigmoid(auxiliary.lse - sinks[:, None])  # [1, heads, n]
            result = output * shares[..., None].to(output.dtype)
        rows: Tensor = result[0].transpose(0, 1)
        return rows


@functools.cache  # one function for each cap: a new one would be compiled anew
def _capping(softcap: float) -> Callable[..., Tensor]:
    """A logit's change by a softcap, as FlexAttention takes it."""

    def capped(logit: Tensor, *place: Tensor) -> Tensor:
        return softcap * torch.tanh(logit / softcap)

    return capped


ATTENTION_KERNELS.add(ReferenceAttention, "reference")
ATTENTION_KERNELS.add(SdpaAttention, "sdpa")
ATTENTION_KERNELS.add(FlexAttention, "flex")
ATTENTION_KERNELS.add(VarlenAttention, "varlen")
ATTENTION_KERNELS.add(FlashAttention, "flash")


def _rows(states: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """The rows in the ranges; not copied if there is only one range."""
    parts = [states[start:end] for start, end in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _mask(piece: Piece, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The mask to add to the logits [num_queries, num_keys]: 0 where the query sees the key, else -inf."""
    hidden = torch.full((piece.num_queries, piece.num_keys), -torch.inf, dtype=dtype, device=device)
    num_earlier = piece.num_keys - piece.num_queries
    later = hidden.triu(num_earlier + 1)
    return later if piece.window is None else later + hidden.tril(num_earlier - piece.window)
