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
from modellink_rm.model.attention.cpu import attention_to_earlier_and_own
from modellink_rm.model.attention.pieces import Piece, ranges_before_last
from modellink_rm.model.layers.elementwise import compiled


class AttentionKernel(Protocol):
    """Attention of one micro-batch's pieces."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float) -> Tensor:
        """Output [n, heads, head_dim] of query [n, heads, head_dim], key and value [m, groups, head_dim]."""


# (pieces that cover n queries in order, device, dtype) -> kernel
MakeKernel = Callable[[Sequence[Piece], torch.device, torch.dtype], AttentionKernel]

ATTENTION_KERNELS: Registry[MakeKernel] = Registry("--attention-backend")


class ReferenceAttention:
    """The reference: the formula softmax(query key^T scale) value, piece by piece."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> None:
        self._pieces = tuple(pieces)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float) -> Tensor:
        """Output, as `AttentionKernel` says."""
        repeats = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
        outputs = []
        for piece in self._pieces:
            logits = (
                torch.einsum("qhd,khd->hqk", query[slice(*piece.queries)], _rows(key, piece.keys)) * scale
            )
            logits = logits + _mask(piece, logits.device, logits.dtype)
            weights = drop(torch.softmax(logits, dim=-1), dropout)
            outputs.append(torch.einsum("hqk,khd->qhd", weights, _rows(value, piece.keys)))
        return torch.cat(outputs)


class SdpaAttention:
    """torch's scaled dot product, piece by piece; on a CPU its flash kernel, without a mask."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> None:
        self._pieces = tuple(pieces)
        self._make_mask = functools.cache(lambda piece: _mask(piece, device, dtype))  # for all layers

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float) -> Tensor:
        """Output, as `AttentionKernel` says."""
        outputs = []
        for piece in self._pieces:
            rows = _by_head(query[slice(*piece.queries)])
            has_mask = 1 < piece.num_queries < piece.num_keys
            if has_mask and not dropout and is_cpu(query.device):
                earlier, own = ranges_before_last(piece.keys, piece.num_queries)
                output = attention_to_earlier_and_own(
                    rows,
                    (_by_head(_rows(key, earlier)), _by_head(_rows(value, earlier))),
                    (_by_head(_rows(key, own)), _by_head(_rows(value, own))),
                    scale=scale,
                )
            else:
                output = scaled_dot_product_attention(
                    rows,
                    _by_head(_rows(key, piece.keys)),
                    _by_head(_rows(value, piece.keys)),
                    attn_mask=self._make_mask(piece) if has_mask else None,
                    dropout_p=dropout,
                    is_causal=piece.num_queries == piece.num_keys,
                    scale=scale,
                    enable_gqa=query.shape[1] != key.shape[1],
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
        index = [np.arange(start, end) for piece in pieces for start, end in piece.keys]
        num_queries = [piece.num_queries for piece in pieces]
        num_keys = [piece.num_keys for piece in pieces]
        self.index = tensor_on(device, np.concatenate(index))
        self.query_starts = tensor_on(device, np.cumsum([0, *num_queries], dtype=np.int32))
        self.key_starts = tensor_on(device, np.cumsum([0, *num_keys], dtype=np.int32))
        self.longest_query, self.longest_key = max(num_queries), max(num_keys)

    def take(self, states: Tensor) -> Tensor:
        """Keys or values [sum of num_keys, groups, head_dim]."""
        return states.index_select(0, self.index)

    def arguments(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Any, ...]:
        """The arguments of flash attention over sequences of different lengths, in its order."""
        starts = (self.query_starts, self.key_starts)
        return (query, self.take(key), self.take(value), *starts, self.longest_query, self.longest_key)


class VarlenAttention:
    """torch.nn.attention.varlen: torch's own flash attention, for bfloat16 on a GPU."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> None:
        self._keys = _KeysByPiece(pieces, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float) -> Tensor:
        """Output, as `AttentionKernel` says."""
        from torch.nn.attention.varlen import varlen_attn

        output = varlen_attn(
            *self._keys.arguments(query, key, value),
            scale=scale,
            window_size=(-1, 0),  # causal
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(output, Tensor)
        return output


class FlashAttention:
    """The package flash-attn (2.1 or newer, whose causal mask is aligned with the end of the keys)."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> None:
        self._keys = _KeysByPiece(pieces, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float) -> Tensor:
        """Output, as `AttentionKernel` says."""
        from flash_attn import flash_attn_varlen_func

        output: Tensor = flash_attn_varlen_func(
            *self._keys.arguments(query, key, value),
            dropout_p=dropout,
            softmax_scale=scale,
            causal=True,
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
        # Index of a key in its piece, and of the last key that a query sees.
        place = tensor_on(device, np.concatenate([np.arange(count) for count in num_keys]))
        last = tensor_on(
            device,
            np.concatenate(
                [np.arange(piece.num_keys - piece.num_queries, piece.num_keys) for piece in pieces]
            ),
        )

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query_piece[query] == key_piece[key]) & (place[key] <= last[query])

        make_mask = create_block_mask if is_cpu(device) else compiled(create_block_mask)
        self._attend = flex_attention if is_cpu(device) else compiled(flex_attention)
        self._mask = make_mask(sees, None, None, sum(num_queries), sum(num_keys), device=device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float) -> Tensor:
        """Output, as `AttentionKernel` says."""
        query, key, value = (
            states.transpose(0, 1)[None] for states in (query, self._keys.take(key), self._keys.take(value))
        )
        output: Tensor = self._attend(
            query, key, value, block_mask=self._mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )
        return output[0].transpose(0, 1)


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
    return hidden.triu(piece.num_keys - piece.num_queries + 1)
