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


def rows_and_gradients(tp_size: int, flags: str, fields: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Of the scored rows and of all tokens: the rows, and the gradients of the last layer's weights."""
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.batching.micro_batches import Packing, micro_batches_of
    from modellink_rm.model.attention.packed import layout_of
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels
    from modellink_rm.model.families.registry import FAMILIES
    from modellink_rm.model.layers.block import decoder_layer
    from modellink_rm.model.layers.norm import RMSNorm
    from modellink_rm.model.resolve import resolve_shape
    from modellink_rm.model.spec import ModelSpec
    from modellink_rm.parallel.groups import process_groups

    def make(spec: ModelSpec, number: int, *, scores_rows: bool, **config: Any) -> Any:
        # A norm after the blocks for the models whose layers have a window.
        post_norm = RMSNorm if spec.shape.windows else None
        return decoder_layer(spec, number, scores_rows=scores_rows, post_norm=post_norm, **config)

    layers: dict[str, Any] = {
        "scored_rows": make,
        "all_tokens": lambda *arguments, scores_rows, **config: make(*arguments, scores_rows=False, **config),
    }
    parallel, platform = ParallelConfig(tensor_model_parallel_size=tp_size), detect_platform()
    found, weights = {}, None
    with process_groups(parallel, platform, seed=1) as ranks:
        packing = Packing(max_tokens=100, divisible_by=1, share_prefixes=True)
        (batch,) = (one.to(platform.device) for one in micro_batches_of(EXAMPLES, packing, ranks)[1])
        for kind, layer in layers.items():
            if kind not in FAMILIES:
                FAMILIES.add(dataclasses.replace(FAMILIES["llama"], layer=layer), kind)
            shape = dataclasses.replace(resolve_shape(parsed(TINY + flags), None), family=kind, **fields)
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
                        if "norm" in name or "sinks" in name:
                            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
                weights = model.state_dict()
            model.load_state_dict(weights)
            layout = layout_of(
                batch, model.rotary, model.config, with_scores=True, local_rotary=model.local_rotary
            )
            assert layout.scored is not None
            output = model.decoder(
                hidden_states=model.embedding(batch.input_ids), attention_mask=None, packed_seq_params=layout
            )
            rows = output if kind == "scored_rows" else output[layout.scored.rows]
            rows.square().sum().backward()
            last = [weight for name, weight in model.named_parameters() if ".layers.1." in name]
            found[kind] = (rows.detach().numpy(), *(weight.grad.numpy() for weight in last))
    return found


# Fields of the shape, and how many weights of the last layer they add.
FORMS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 0),
    "head_norm": ({"qk_norm": "head"}, 2),
    "norm_of_all_heads": ({"qk_norm": "all"}, 2),
    "windows_post_norms_sinks_and_softcap": (
        {"windows": (None, 3), "attention_softcap": 1.5, "attention_sinks": True, "local_rotary_base": 50.0},
        3,
    ),
}
GROUPS = "--group-query-attention --num-query-groups 4"


@pytest.mark.parametrize(
    ("tp_size", "flags", "form"),
    [
        (1, GROUPS, "plain"),
        (1, GROUPS, "head_norm"),
        (1, GROUPS, "norm_of_all_heads"),
        (2, GROUPS, "norm_of_all_heads"),
        (1, GROUPS, "windows_post_norms_sinks_and_softcap"),
        # Both processes share a key head.
        (2, "--group-query-attention", "plain"),
        (2, "--group-query-attention", "head_norm"),
        (2, "--group-query-attention", "windows_post_norms_sinks_and_softcap"),
    ],
)
def test_scored_rows_are_those_of_the_layer_for_all_tokens(
    tp_size: int, flags: str, form: str, workers: Workers
) -> None:
    fields, num_more = FORMS[form]
    for found in workers.run(rows_and_gradients, tp_size, tp_size, flags, fields):
        rows, expected = found["scored_rows"], found["all_tokens"]
        assert len(rows[0]) == 4
        assert len(rows) == len(expected) == 1 + 6 + num_more  # the rows, and gradients
        for one, other in zip(rows, expected, strict=True):
            torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-4, atol=1e-5)
