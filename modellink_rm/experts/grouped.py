"""Linear layers of several experts at once."""

import torch
from torch import Tensor
from torch.nn import functional

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
