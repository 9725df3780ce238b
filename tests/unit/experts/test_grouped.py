"""Products with several experts' matrices, by one kernel or one by one."""

import pytest
import torch
from torch.nn import functional

from modellink_rm.experts import grouped
from modellink_rm.experts.grouped import grouped_linear


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
