"""Matrices in 4 bits: NormalFloat with a scale for each 64 numbers of a row (QLoRA, arXiv 2305.14314).

The 16 levels are the quantiles of a normal distribution, scaled to [-1, 1] (section 3 and appendix E).
bitsandbytes 0.50 without double quantization gives the same bits; where it is installed, its kernel makes
the numbers of a matrix again on a GPU.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 64
_PIECE = 1 << 22  # numbers that are made again at a time, where no kernel does it
# bitsandbytes 0.50, functional.py, get_4bit_type.
LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


class NF4Weight(nn.Module):
    """A matrix [rows, columns] in 4 bits a number and a float32 for each `BLOCK` of them.

    Attributes:
        codes: uint8 [rows, columns / 2], two numbers a byte, the first in the high bits.
        scales: float32 [rows, columns / BLOCK], the largest absolute value of each block.
        dtype: of the numbers that are made again.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> None:
        """A matrix of zeros."""
        super().__init__()
        assert columns % BLOCK == 0
        self.dtype = dtype
        codes = torch.full((rows, columns // 2), 0x77, dtype=torch.uint8, device=device)
        scales = torch.zeros(rows, columns // BLOCK, dtype=torch.float32, device=device)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.codes), 2 * self.codes.shape[1]

    @torch.no_grad()
    def fill(self, matrix: Tensor) -> None:
        """Quantize a matrix [rows, columns] of any type, on this device or another."""
        codes, scales = quantized(matrix.to(self.codes.device))
        self.codes.copy_(codes)
        self.scales.copy_(scales)

    def dense(self) -> Tensor:
        """The matrix [rows, columns]."""
        return dequantized(self.codes, self.scales, self.dtype)

    def rows(self, first: slice, by_head: tuple[int, ...]) -> "NF4Weight":
        """The rows of some heads of each group, as a matrix of its own.

        Args:
            first: heads of each group.
            by_head: the rows as (groups, heads of a group, rows of a head).
        """
        return self._made_of(lambda tensor: tensor.view(*by_head, tensor.shape[1])[:, first].flatten(0, 2))

    def stacked(self, number: int) -> list["NF4Weight"]:
        """The `number` equally large matrices that lie one after another in this one, which they share."""
        size = len(self.codes) // number
        return [
            self._made_of(lambda tensor, start=start: tensor[start : start + size])  # type: ignore[misc]
            for start in range(0, number * size, size)
        ]

    def _made_of(self, rows: Callable[[Tensor], Tensor]) -> "NF4Weight":
        """A matrix of some of the rows of the codes, and of those of the scales."""
        part = NF4Weight.__new__(NF4Weight)
        nn.Module.__init__(part)
        part.dtype = self.dtype
        for name, tensor in (("codes", self.codes), ("scales", self.scales)):
            part.register_buffer(name, rows(tensor), persistent=False)
        return part


def quantized(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The codes and the scales of a matrix [rows, columns], as `NF4Weight` holds them."""
    blocks = matrix.float().view(len(matrix), -1, BLOCK)
    scales = blocks.abs().amax(dim=-1)
    # Of a block of zeros every number becomes the level 0.
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    codes = torch.bucketize(blocks * inverse[..., None], _bounds(matrix.device)).to(torch.uint8).flatten(1)
    return (codes[:, 0::2] << 4) | codes[:, 1::2], scales


def dequantized(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix [rows, columns] of codes and scales."""
    kernel = _kernel() if codes.is_cuda else None
    if kernel is not None:
        dense: Tensor = kernel(codes, scales, dtype)
        return dense
    # In float32 to the end, as the kernel has it, and a piece at a time: that takes several times the memory.
    dense = torch.empty(len(codes), 2 * codes.shape[1], dtype=dtype, device=codes.device)
    num_rows = max(1, _PIECE // dense.shape[1])
    for part in (slice(start, start + num_rows) for start in range(0, len(codes), num_rows)):
        pairs = functional.embedding(codes[part].int(), _pairs(codes.device))  # [rows, columns / 2, 2]
        blocks = pairs.view(len(pairs), -1, BLOCK).mul_(scales[part, :, None])
        dense[part] = blocks.flatten(1)
    return dense


def nf4_linear(states: Tensor, weight: NF4Weight) -> Tensor:
    """states [t, 1, in] times the transposed matrix, [t, 1, out].

    The matrix is made again for the backward pass: only its codes and scales are kept.
    """
    output: Tensor = _Product.apply(states, weight.codes, weight.scales)  # type: ignore[no-untyped-call]
    return output


class _Product(torch.autograd.Function):
    """The product with a matrix that is not updated."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return functional.linear(states, dequantized(codes, scales, states.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        codes, scales = ctx.saved_tensors
        return gradient @ dequantized(codes, scales, gradient.dtype), None, None


@functools.cache
def _levels(device: torch.device) -> Tensor:
    return torch.tensor(LEVELS, dtype=torch.float32).to(device)


@functools.cache
def _bounds(device: torch.device) -> Tensor:
    """Between which levels a number lies: the middles between neighbours."""
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    return ((levels[1:] + levels[:-1]) / 2).float().to(device)


@functools.cache
def _pairs(device: torch.device) -> Tensor:
    """The two levels of each byte, float32 [256, 2]."""
    codes = torch.arange(256)
    levels = torch.tensor(LEVELS, dtype=torch.float32)
    return torch.stack((levels[codes >> 4], levels[codes & 15]), dim=1).to(device)


@functools.cache
def _kernel() -> Any:
    """bitsandbytes' dequantization, (codes, scales, dtype) -> matrix; None where it is not installed."""
    try:
        from bitsandbytes import functional as kernels
    except ImportError:
        return None

    def dense(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        state = kernels.QuantState(
            absmax=scales.flatten(),
            shape=torch.Size((len(codes), 2 * codes.shape[1])),
            code=_levels(codes.device),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
        )
        matrix: Tensor = kernels.dequantize_4bit(codes.flatten()[:, None], state)
        return matrix

    return dense
