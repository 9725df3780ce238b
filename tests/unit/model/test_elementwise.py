"""The operations of a layer in bfloat16, as transformers computes them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.testing import CompileCounter
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

from modellink_rm.base.megatron_compat import bound_recompiles
from modellink_rm.model.layers.elementwise import (
    compiled,
    compiled_for_all_sizes,
    offset_rms_norm,
    offset_rms_norm_for_inference,
    rms_norm,
    rms_norm_for_inference,
    rotate,
    rotate_interleaved,
    rotate_to_neighbours,
    swiglu,
)


def test_norm_of_gemma_adds_1_to_its_weight_in_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden_states = torch.randn(50, 64, generator=generator).bfloat16()
    theirs = Gemma2RMSNorm(64, eps=1e-6)
    # Below half of the step from 1 to the next bfloat16: the sum would be 1.
    theirs.weight.data = torch.full((64,), 0.003).bfloat16()
    found = offset_rms_norm(hidden_states, theirs.weight, 1e-6)
    expected = theirs(hidden_states)
    assert found.dtype == expected.dtype == torch.bfloat16
    # A product may lie so close to the middle of two bfloat16 that its last float32 bit decides.
    assert (found == expected).double().mean() > 0.99


@pytest.mark.parametrize("function", [rotate, rotate_interleaved])
@pytest.mark.parametrize("num_channels", [32, 44])
def test_rotation_without_gradients_is_that_of_training(
    function: Callable[..., torch.Tensor], num_channels: int
) -> None:
    generator = torch.Generator().manual_seed(3)
    angles = torch.randn(9, 1, 16, generator=generator)
    # Queries are a part of the projection's output: their heads do not follow one another.
    states = torch.randn(9, 6, num_channels, generator=generator)[:, :4]
    given, before = (states, angles.cos(), angles.sin()), states.clone()
    expected = function(*given)
    with torch.no_grad():
        found = function(*given)
        rounded = function(*(one.bfloat16() for one in given))
    assert torch.equal(found, expected)
    assert torch.equal(states, before)
    assert torch.equal(rounded, function(*(one.bfloat16() for one in given)))


@pytest.mark.parametrize(
    ("formula", "reference"),
    [(rms_norm_for_inference, rms_norm), (offset_rms_norm_for_inference, offset_rms_norm)],
)
@pytest.mark.parametrize("num_channels", [8, 64, 4096])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_norms_for_inference_are_those_of_training(
    formula: Callable[..., torch.Tensor],
    reference: Callable[..., torch.Tensor],
    num_channels: int,
    scale: float,
) -> None:
    generator = torch.Generator().manual_seed(3)
    states = scale * torch.randn(20, 1, num_channels, generator=generator)
    states[3] = 0
    weight, before = torch.randn(num_channels, generator=generator), states.clone()
    with torch.no_grad():
        found = formula(states, weight, 1e-6)
    expected = reference(states.double(), weight.double(), 1e-6).float()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # some roundings of float32
    assert torch.equal(states, before)


@pytest.mark.parametrize("num_channels", [32, 44])
def test_rotation_for_inference_gives_the_products_of_queries_and_keys(num_channels: int) -> None:
    generator = torch.Generator().manual_seed(3)
    angles = torch.randn(9, 1, 16, generator=generator)
    both = torch.randn(9, 6, num_channels, generator=generator)
    before, cos, sin = both.clone(), angles.cos(), angles.sin()
    logits = []
    with torch.no_grad():
        for function in (rotate, rotate_to_neighbours):
            query, key = (function(part, cos, sin) for part in (both[:, :4], both[:, 4:]))
            assert query.shape == (9, 4, num_channels)
            logits.append(torch.einsum("qhd,kgd->hgqk", query, key))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(both, before)


def test_a_rotation_that_is_compiled_writes_over_nothing() -> None:
    """Its kernel would read the products that it has just written: three times as long on a CPU."""
    code = []

    def backend(module: Any, _: Any) -> Any:
        code.append(module.code)
        return module.forward

    torch._dynamo.reset()
    angles = torch.randn(9, 1, 16)
    with torch.no_grad():
        torch.compile(rotate, backend=backend)(torch.randn(9, 4, 44), angles.cos(), angles.sin())
    torch._dynamo.reset()
    assert "cat(" in code[0]
    assert "sub_(" not in code[0]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """Counts the variants that torch.compile makes of what is compiled in the test; they run as they are."""
    counter = CompileCounter()
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **words: compile_(function, backend=counter, **words)
    )
    with torch._dynamo.config.patch():
        torch._dynamo.reset()
        yield counter
    torch._dynamo.reset()


LENGTHS = (5, 64, 9, 2, 33, 64)


def calls_of_norm(size: int) -> list[tuple[Any, ...]]:
    return [(torch.randn(length, 1, size), torch.ones(size), 1e-5) for length in LENGTHS]


@pytest.mark.parametrize(
    ("function", "calls", "variants"),
    [
        (rms_norm, calls_of_norm(64), 1),
        (rms_norm, calls_of_norm(64) + calls_of_norm(32), 2),  # the size is a constant of the kernel
        (swiglu, [(torch.randn(length, 1, 64),) for length in LENGTHS], 1),
        (rotate, [(torch.randn(n, 4, 32), torch.randn(n, 1, 16), torch.randn(n, 1, 16)) for n in LENGTHS], 1),
        (rms_norm, [(torch.randn(length, 1, 64), torch.ones(64), 1e-5) for length in (0, 1)], 0),
    ],
)
def test_one_variant_serves_all_numbers_of_tokens(
    function: Callable[..., Any], calls: list[tuple[Any, ...]], variants: int, counter: CompileCounter
) -> None:
    kernel = compiled.__wrapped__(function)
    for arguments in calls:
        torch.testing.assert_close(kernel(*arguments), function(*arguments))
    assert counter.frame_count == variants


def test_more_variants_than_the_bound_are_an_error_not_a_slow_fallback(counter: CompileCounter) -> None:
    kernel = compiled_for_all_sizes.__wrapped__(lambda states, number: states * len(number))
    bound_recompiles(3)
    for length in range(2, 5):
        kernel(torch.ones(4), "x" * length)
    with pytest.raises(FailOnRecompileLimitHit):
        kernel(torch.ones(4), "xxxxx")
