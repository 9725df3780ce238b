"""Products with several experts' matrices, by one kernel or one by one."""

import pytest
import torch
from torch.nn import functional

from modellink_rm.adapters.nf4 import BLOCK, NF4Weight
from modellink_rm.experts import grouped
from modellink_rm.experts.grouped import grouped_linear, grouped_nf4_linear


@pytest.mark.parametrize("counts", [(3, 0, 4), (0, 0, 7), (0, 0, 0)])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_grouped", [False, True])
def test_each_row_is_multiplied_by_the_matrix_of_its_expert(
    counts: tuple[int, ...], is_grouped: bool, has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_grouped and not hasattr(functional, "grouped_mm"):
        pytest.skip("torch has no grouped product before 2.10")
    monkeypatch.setattr(grouped, "has_grouped_product", lambda *_: is_grouped)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(sum(counts), 8, generator=generator, requires_grad=True)
    weight = torch.randn(3, 16, 8, generator=generator, requires_grad=True)
    bias = torch.randn(3, 16, generator=generator, requires_grad=True) if has_bias else None
    output = grouped_linear(rows, weight, torch.tensor(counts), bias)
    experts = [number for number, count in enumerate(counts) for _ in range(count)]
    expected = torch.einsum("mi,moi->mo", rows, weight[experts])
    inputs = [rows, weight]
    if bias is not None:
        expected = expected + bias[experts]
        inputs.append(bias)
    torch.testing.assert_close(output, expected)
    gradient = torch.randn(output.shape, generator=generator)
    found = torch.autograd.grad(output, inputs, gradient)
    for ours, theirs in zip(found, torch.autograd.grad(expected, inputs, gradient), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_matrices_in_4_bits_multiply_as_their_dense_form_and_keep_none() -> None:
    counts = torch.tensor([3, 0, 2])
    matrices = torch.randn(3 * 16, BLOCK, generator=torch.Generator().manual_seed(1))
    weight = NF4Weight(*matrices.shape, dtype=torch.float32, device=torch.device("cpu"))
    weight.fill(matrices)
    rows = torch.randn(5, BLOCK, generator=torch.Generator().manual_seed(2), requires_grad=True)
    bias = torch.randn(3, 16)
    kept: list[torch.Tensor] = []

    def keep(one: torch.Tensor) -> torch.Tensor:
        kept.append(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        output = grouped_nf4_linear(rows, weight, counts, bias)
    expected = grouped_linear(rows, weight.dense().view(3, 16, BLOCK), counts, bias)
    torch.testing.assert_close(output, expected)
    assert all(one.numel() < matrices.numel() for one in kept)
    gradient = torch.randn(output.shape)
    (ours,), (theirs,) = (torch.autograd.grad(one, rows, gradient) for one in (output, expected))
    torch.testing.assert_close(ours, theirs)


def test_matrices_of_experts_in_4_bits_are_filled_one_by_one() -> None:
    weight = NF4Weight(4, BLOCK, dtype=torch.float32, device=torch.device("cpu"))
    matrix = torch.randn(2, BLOCK)
    weight.stacked(2)[1].fill(matrix)
    assert not weight.dense()[:2].any()
    torch.testing.assert_close(weight.dense()[2:], matrix, atol=0.5, rtol=0.2)
