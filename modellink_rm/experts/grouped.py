"""Linear layers of several experts at once."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from modellink_rm.adapters.nf4 import NF4Weight, dequantized

_BYTES_OF_ALIGNMENT = 16


def grouped_linear(rows: Tensor, weight: Tensor, counts: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each row times the matrix of its expert, plus the expert's bias, [m, out].

    Args:
        rows: [m, in], in the order of the experts.
        weight: [E, out, in].
        counts: int64 [E], rows of each expert.
        bias: [E, out].
    """
    if has_grouped_product(rows, weight):
        offsets = counts.cumsum(dim=0).to(torch.int32)
        output = functional.grouped_mm(rows, weight.transpose(-2, -1), offs=offsets)
        return output if bias is None else output + _bias_of_rows(bias, counts, num_rows=len(rows))
    # Without indexing: the gradient of weight[e] would be a tensor of all experts, for each of them.
    biases = [None] * len(weight) if bias is None else bias.unbind(0)
    parts = zip(torch.split(rows, counts.tolist()), weight.unbind(0), biases, strict=True)
    return torch.cat([functional.linear(part, matrix, vector) for part, matrix, vector in parts])


def grouped_nf4_linear(rows: Tensor, weight: NF4Weight, counts: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `grouped_linear`, with the matrices of the experts one after another in 4 bits.

    They are made again for the backward pass: only their codes and scales are kept.
    """
    output: Tensor = _Product.apply(rows, weight.codes, weight.scales, counts)  # type: ignore[no-untyped-call]
    return output if bias is None else output + _bias_of_rows(bias, counts, num_rows=len(rows))


class _Product(torch.autograd.Function):
    """The product with matrices that are not updated."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, codes: Tensor, scales: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales, counts)
        return grouped_linear(rows, _matrices(codes, scales, counts, rows.dtype), counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scales, counts = ctx.saved_tensors
        transposed = _matrices(codes, scales, counts, gradient.dtype).transpose(1, 2)
        return grouped_linear(gradient, transposed, counts), None, None, None


def _matrices(codes: Tensor, scales: Tensor, counts: Tensor, dtype: torch.dtype) -> Tensor:
    """Those of all experts, [E, out, in]."""
    matrices = dequantized(codes, scales, dtype)
    return matrices.view(len(counts), -1, matrices.shape[1])


def _bias_of_rows(bias: Tensor, counts: Tensor, *, num_rows: int) -> Tensor:
    """The bias of each row's expert, [m, out].

    As a product: the gradient of indexing would be added in any order on a GPU.
    """
    numbers = torch.arange(len(bias), device=bias.device)
    experts = numbers.repeat_interleave(counts, output_size=num_rows)
    return (experts[:, None] == numbers).to(bias.dtype) @ bias


def has_grouped_product(rows: Tensor, weight: Tensor) -> bool:
    """Whether one kernel multiplies the rows of all experts, and their numbers stay on the device.

    torch has it for bfloat16 on a GPU, from 2.10 on, with rows of multiples of 16 bytes.
    """
    sizes = [size * weight.element_size() % _BYTES_OF_ALIGNMENT for size in weight.shape[1:]]
    return (
        hasattr(functional, "grouped_mm") and rows.is_cuda and rows.dtype == torch.bfloat16 and not any(sizes)
    )
