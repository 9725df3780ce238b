"""The last layer, computed for scored rows only, against the engine's own layer for all tokens."""

import dataclasses
from typing import Any

import pytest
import torch

from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from tests.distributed import Workers
from tests.tiny_data import random_example
from tests.unit.model.test_resolve import TINY, parsed

EXAMPLES = [random_example(0, 5, 7, 3), random_example(1, 4, 2, 6)]


def rows_and_gradients(tp_size: int, flags: str, has_head_norm: bool) -> dict[str, tuple[Any, ...]]:
    """Of the scored rows and of all tokens: the rows, and the gradients of the last layer's weights."""
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.batching.micro_batches import Packing, micro_batches_of
    from modellink_rm.model.attention.packed import layout_of
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels
    from modellink_rm.model.families.registry import FAMILIES
    from modellink_rm.model.layers.block import decoder_layer
    from modellink_rm.model.resolve import resolve_shape
    from modellink_rm.model.spec import ModelSpec
    from modellink_rm.parallel.groups import process_groups

    layers: dict[str, Any] = {
        "scored_rows": decoder_layer,
        "all_tokens": lambda spec, number, *, scores_rows: decoder_layer(spec, number, scores_rows=False),
    }
    parallel, platform = ParallelConfig(tensor_model_parallel_size=tp_size), detect_platform()
    found, weights = {}, None
    with process_groups(parallel, platform, seed=1) as ranks:
        packing = Packing(max_tokens=100, divisible_by=1, share_prefixes=True)
        (batch,) = (one.to(platform.device) for one in micro_batches_of(EXAMPLES, packing, ranks)[1])
        for kind, layer in layers.items():
            if kind not in FAMILIES:
                FAMILIES.add(dataclasses.replace(FAMILIES["llama"], layer=layer), kind)
            shape = resolve_shape(parsed(TINY + flags), None)
            shape = dataclasses.replace(shape, family=kind, qk_norm="head" if has_head_norm else "")
            (model,) = build_model(
                ModelSpec(shape=shape, padded_vocab_size=320),
                model=ModelConfig(init_method_std=0.2),
                parallel=parallel,
                precision=PrecisionConfig(),
                kernels=Kernels(attention="sdpa", compiles_elementwise=False),
                seed=1,
                initialize=True,
            )
            if weights is None:
                generator = torch.Generator().manual_seed(2)
                with torch.no_grad():
                    for name, parameter in model.named_parameters():
                        if "layernorm" in name:
                            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
                weights = model.state_dict()
            model.load_state_dict(weights)
            layout = layout_of(batch, model.rotary, model.config, with_scores=True)
            assert layout.scored is not None
            output = model.decoder(
                hidden_states=model.embedding(batch.input_ids), attention_mask=None, packed_seq_params=layout
            )
            rows = output if kind == "scored_rows" else output[layout.scored.rows]
            rows.square().sum().backward()
            last = [weight for name, weight in model.named_parameters() if ".layers.1." in name]
            found[kind] = (rows.detach().numpy(), *(weight.grad.numpy() for weight in last))
    return found


@pytest.mark.parametrize("has_head_norm", [False, True], ids=["plain", "head_norm"])
@pytest.mark.parametrize(
    ("tp_size", "flags"),
    [
        (1, "--group-query-attention --num-query-groups 4"),
        (2, "--group-query-attention"),  # both processes share a key head
    ],
)
def test_scored_rows_are_those_of_the_layer_for_all_tokens(
    tp_size: int, flags: str, has_head_norm: bool, workers: Workers
) -> None:
    for found in workers.run(rows_and_gradients, tp_size, tp_size, flags, has_head_norm):
        rows, expected = found["scored_rows"], found["all_tokens"]
        assert len(rows[0]) == 4
        assert len(rows) == len(expected) == 1 + 6 + 2 * has_head_norm  # the rows, and gradients
        for one, other in zip(rows, expected, strict=True):
            torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-4, atol=1e-5)
