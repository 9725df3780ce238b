"""Weight gradients that a product adds to its buffer, against separate products and sums."""

from typing import Any

import pytest
import torch

from tests.distributed import Workers

NUM_ROWS, INPUTS, OUTPUTS = 12, 6, 8


def gradients_of_a_linear(is_fused: bool) -> tuple[Any, Any]:
    """The buffer, and the gradient of the input, of one of the engine's linears after two backward passes."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear
    from megatron.core.transformer.transformer_config import TransformerConfig

    from modellink_rm.base.megatron_compat import use_weight_gradient
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.config.parallel import ParallelConfig
    from modellink_rm.model.layers.weight_gradient import add_weight_gradient
    from modellink_rm.parallel.groups import process_groups

    with process_groups(ParallelConfig(), detect_platform(), seed=1):
        if is_fused:
            use_weight_gradient(add_weight_gradient)
        config = TransformerConfig(
            num_layers=1, hidden_size=INPUTS, num_attention_heads=1, gradient_accumulation_fusion=is_fused
        )
        linear = ColumnParallelLinear(
            INPUTS, OUTPUTS, config=config, init_method=torch.nn.init.normal_, bias=False, skip_bias_add=False
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(OUTPUTS, INPUTS, generator=generator))
        linear.weight.main_grad = torch.zeros(OUTPUTS, INPUTS)
        for _ in range(2):
            states = torch.randn(NUM_ROWS, 1, INPUTS, generator=generator, requires_grad=True)
            output, _ = linear(states)
            output.backward(torch.randn(output.shape, generator=generator))
        if not is_fused:
            linear.weight.main_grad += linear.weight.grad
        return linear.weight.main_grad.tolist(), states.grad.tolist()


def test_the_engines_linears_add_up_the_gradients_of_separate_products(workers: Workers) -> None:
    (plain,), (fused,) = (workers.run(gradients_of_a_linear, 1, is_fused) for is_fused in (False, True))
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(torch.tensor(other), torch.tensor(one), rtol=1e-6, atol=1e-6)


def test_a_gradient_of_another_dtype_is_added_in_the_dtype_of_the_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from modellink_rm.model.layers.weight_gradient import add_weight_gradient

    def product(total: Any, left: Any, right: Any, *, out_dtype: Any, out: Any) -> None:
        """What a GPU computes; torch has it for no CPU (2.13)."""
        assert (total is out, out_dtype) == (True, torch.float32)
        out += left.float() @ right.float()

    monkeypatch.setattr(torch, "addmm", product)
    generator = torch.Generator().manual_seed(0)
    states, gradient = (
        torch.randn(NUM_ROWS, size, generator=generator).bfloat16() for size in (INPUTS, OUTPUTS)
    )
    total = torch.full((OUTPUTS, INPUTS), 1 / 3)
    add_weight_gradient(states, gradient, total)
    torch.testing.assert_close(total, 1 / 3 + gradient.float().t() @ states.float())


def test_the_product_is_tried_before_it_is_used() -> None:
    from modellink_rm.model.layers.weight_gradient import _works

    assert _works(torch.device("cpu"), torch.float32)
    assert not _works(torch.device("cpu"), torch.bfloat16)  # torch 2.13 has it for GPUs alone


def test_a_cpu_keeps_its_numbers() -> None:
    from modellink_rm.model.layers.weight_gradient import fuse_weight_gradients

    assert not fuse_weight_gradients(torch.device("cpu"), torch.float32)
