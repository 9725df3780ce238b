"""Products of linear layers by oneDNN, where nothing is trained, against the engine's own."""

from typing import Any
from unittest.mock import patch

import pytest
import torch

from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from tests.distributed import Workers
from tests.tiny_data import random_example
from tests.unit.model.test_resolve import TINY, parsed

EXAMPLES = [random_example(0, 5, 7, 3), random_example(1, 4, 2, 6)]


def scores_and_products(tp_size: int, sequence_parallel: bool, flags: str) -> list[tuple[Any, int]]:
    """The scores of a model, and how many products oneDNN had in them, with gradients and without.

    Of a gate and its product there are two in one call.
    """
    from modellink_rm.base.megatron_compat import onednn_gate, onednn_product
    from modellink_rm.base.platform import ONEDNN_ROWS, detect_platform
    from modellink_rm.batching.micro_batches import Packing, micro_batches_of
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels
    from modellink_rm.model.resolve import resolve_shape
    from modellink_rm.model.spec import ModelSpec
    from modellink_rm.parallel.groups import process_groups

    parallel = ParallelConfig(tensor_model_parallel_size=tp_size, sequence_parallel=sequence_parallel)
    platform = detect_platform()
    found = []
    with process_groups(parallel, platform, seed=1) as ranks:
        packing = Packing(max_tokens=100, divisible_by=ONEDNN_ROWS * tp_size, share_prefixes=True)
        (batch,) = (one.to(platform.device) for one in micro_batches_of(EXAMPLES, packing, ranks)[1])
        (model,) = build_model(
            ModelSpec(shape=resolve_shape(parsed(TINY + flags), None), padded_vocab_size=320),
            model=ModelConfig(init_method_std=0.2),
            parallel=parallel,
            precision=PrecisionConfig(),
            kernels=Kernels(attention="sdpa", compiles_elementwise=False, cpu_inference=True),
            seed=1,
            initialize=True,
        )
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        for has_gradients in (True, False):
            with (
                patch("modellink_rm.adapters.linears.onednn_product", wraps=onednn_product) as product,
                patch("modellink_rm.model.layers.dense_mlp.onednn_product", wraps=onednn_product) as out,
                patch("modellink_rm.model.layers.dense_mlp.onednn_gate", wraps=onednn_gate) as gate,
                torch.set_grad_enabled(has_gradients),
            ):
                scores = model(batch)
                assert scores.requires_grad == has_gradients
                assert out.call_count == gate.call_count == (0 if has_gradients or tp_size > 1 else 1)
                found.append((scores.detach().numpy(), product.call_count + 2 * gate.call_count))
    return found


@pytest.mark.parametrize(
    ("tp_size", "sequence_parallel", "flags"),
    [
        (1, False, "--add-qkv-bias --group-query-attention --num-query-groups 4"),
        (2, True, "--add-qkv-bias --group-query-attention --num-query-groups 4"),
        (2, False, "--group-query-attention"),  # both processes share a key head
    ],
)
def test_products_without_gradients_are_onednns_and_give_the_engines_scores(
    tp_size: int, sequence_parallel: bool, flags: str, workers: Workers
) -> None:
    for (expected, none), (scores, number) in workers.run(
        scores_and_products, tp_size, tp_size, sequence_parallel, flags
    ):
        assert none == 0
        # Of the first layer qkv, proj, fc1 (or its halves) and fc2, and what the last one has of all tokens.
        assert number == 5
        torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), rtol=1e-5, atol=1e-5)
