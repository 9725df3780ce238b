"""The embedding's gradient in the engine's buffer against torch's own, made dense."""

from typing import Any

import pytest
import torch

from modellink_rm.model.layers.embedding import _RowsOf, scale_of_embeddings

IDS = torch.tensor([[3], [0], [3], [7], [3]])


def weight_and_gradient() -> tuple[Any, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    weight = torch.nn.Parameter(torch.randn(9, 4, generator=generator))
    return weight, torch.randn(5, 1, 4, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_added_to_the_buffer_and_no_gradient_is_made(dtype: torch.dtype) -> None:
    weight, gradient = weight_and_gradient()
    weight.data, gradient = weight.detach().to(dtype), gradient.to(dtype)
    dense: Any = weight.detach().float().requires_grad_()
    torch.nn.functional.embedding(IDS, dense).backward(gradient.float())
    before = torch.randn(9, 4, generator=torch.Generator().manual_seed(6))
    weight.main_grad, weight.grad_added_to_main_grad = before.clone(), False
    output = _RowsOf.apply(weight, IDS)
    assert torch.equal(output, torch.nn.functional.embedding(IDS, weight))
    for _ in range(2):  # as two micro-batches do
        output.backward(gradient, retain_graph=True)
    torch.testing.assert_close(weight.main_grad, before + 2 * dense.grad)
    assert weight.grad_added_to_main_grad
    assert weight.grad.untyped_storage().nbytes() <= 4  # what the engine's hook takes away


def test_without_a_buffer_the_gradient_is_torchs() -> None:
    weight, gradient = weight_and_gradient()
    dense = weight.detach().clone().requires_grad_()
    torch.nn.functional.embedding(IDS, dense).backward(gradient)
    _RowsOf.apply(weight, IDS).backward(gradient)
    torch.testing.assert_close(weight.grad, dense.grad)


def test_scale_of_gemma_is_rounded_to_the_dtype_of_its_weights() -> None:
    # bfloat16 has 8 bits: above 32 every fourth of a whole number.
    assert scale_of_embeddings(3584, torch.bfloat16) == 59.75
    assert scale_of_embeddings(3584, torch.float32) == pytest.approx(59.8665, abs=1e-4)
