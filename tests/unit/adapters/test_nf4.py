"""Matrices in 4 bits: the levels, the bits, and a product that keeps no dense matrix."""

from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modellink_rm.adapters.nf4 import BLOCK, LEVELS, NF4Weight, dequantized, nf4_linear, quantized

CPU = torch.device("cpu")


def filled(matrix: torch.Tensor, dtype: torch.dtype = torch.float32) -> NF4Weight:
    rows, columns = matrix.shape
    weight = NF4Weight(rows, columns, dtype=dtype, device=CPU)
    weight.fill(matrix)
    return weight


def test_levels_are_those_of_the_paper() -> None:
    # Appendix E of arXiv 2305.14314, as its authors compute them: quantiles of N(0, 1), scaled to 1.
    offset, quantile = 0.9677083, NormalDist().inv_cdf
    positive = [quantile(offset + (0.5 - offset) * step / 8) for step in range(8)]
    negative = [-quantile(offset + (0.5 - offset) * step / 7) for step in range(7)]
    levels = sorted([*positive, 0.0, *negative])
    assert pytest.approx([level / max(levels) for level in levels], abs=1e-6) == LEVELS


def test_each_number_becomes_the_nearest_level_of_its_block() -> None:
    matrix = torch.randn(6, 2 * BLOCK, generator=torch.Generator().manual_seed(1))
    codes, scales = quantized(matrix)
    assert codes.shape == (6, BLOCK)
    assert torch.equal(scales, matrix.view(6, 2, BLOCK).abs().amax(-1))
    levels = torch.tensor(LEVELS)
    expected = torch.empty_like(matrix)
    for row in range(6):
        for column in range(2 * BLOCK):
            scale = scales[row, column // BLOCK]
            nearest = (matrix[row, column] / scale - levels).abs().argmin()
            expected[row, column] = levels[nearest] * scale
    assert torch.equal(dequantized(codes, scales, torch.float32), expected)


def test_levels_and_zeros_are_kept() -> None:
    block = torch.tensor(LEVELS * 4)
    matrix = torch.stack((3 * block, 0 * block))
    assert torch.equal(filled(matrix).dense(), matrix)
    assert set(filled(matrix).codes[1].tolist()) == {0x77}  # twice the level 0
    assert torch.equal(NF4Weight(2, BLOCK, dtype=torch.float32, device=CPU).dense(), torch.zeros(2, BLOCK))


def test_bits_are_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    matrix = torch.randn(64, 256, generator=torch.Generator().manual_seed(2)) * 0.02
    packed, state = functional.quantize_4bit(
        matrix, quant_type="nf4", blocksize=BLOCK, compress_statistics=False
    )
    codes, scales = quantized(matrix)
    assert torch.equal(codes.flatten(), packed.flatten())
    assert torch.equal(scales.flatten(), state.absmax)
    assert torch.equal(dequantized(codes, scales, torch.float32), functional.dequantize_4bit(packed, state))


@pytest.mark.parametrize("part", [slice(0, 3), slice(3, None)])
def test_rows_of_heads_are_those_of_the_matrix(part: slice) -> None:
    matrix = torch.randn(2 * 5 * 4, BLOCK, generator=torch.Generator().manual_seed(3))
    weight = filled(matrix)
    heads = weight.dense().view(2, 5, 4, BLOCK)[:, part].flatten(0, 2)
    assert torch.equal(weight.rows(part, (2, 5, 4)).dense(), heads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_is_that_with_the_dense_matrix(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    weight = filled(torch.randn(48, BLOCK, generator=generator), dtype)
    states = torch.randn(5, 1, BLOCK, generator=generator).to(dtype).requires_grad_()
    output = nf4_linear(states, weight)
    gradient = torch.randn(output.shape, generator=generator).to(dtype)
    (found,) = torch.autograd.grad(output, states, gradient)
    expected = torch.nn.functional.linear(states, weight.dense())
    assert torch.equal(output, expected)
    assert torch.equal(found, torch.autograd.grad(expected, states, gradient)[0])


def test_numbers_are_made_again_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten bytes were held for each number of a bfloat16 matrix, where pages and estimate say two."""
    largest = 0

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            made = op(*args, **(kwargs or {}))
            largest = max(largest, made.nbytes if isinstance(made, torch.Tensor) else 0)
            return made

    weight = filled(torch.randn(10, 2 * BLOCK, generator=torch.Generator().manual_seed(5)), torch.bfloat16)
    whole = weight.dense()
    monkeypatch.setattr("modellink_rm.adapters.nf4._PIECE", 3 * 2 * BLOCK)
    with Noting():
        assert torch.equal(weight.dense(), whole)
    assert largest == whole.nbytes


def test_backward_pass_keeps_no_dense_matrix() -> None:
    weight = filled(torch.randn(96, BLOCK))
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    states = torch.randn(5, 1, BLOCK, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        nf4_linear(states, weight)
    assert not [tensor for tensor in saved if tensor.shape == weight.shape]
    assert sum(tensor.nbytes for tensor in saved) == 96 * BLOCK * 0.5625
