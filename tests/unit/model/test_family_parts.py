"""A family is a file: the parts that it gives are those of the model that is built."""

import dataclasses
import functools
from typing import Any

import torch

from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from tests.distributed import Workers
from tests.unit.model.test_resolve import TINY, parsed


def modules_of_a_family_with_parts() -> dict[str, Any]:
    """What a model is made of whose family binds other parts to the common layer."""
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels, RewardModelConfig
    from modellink_rm.model.families.registry import FAMILIES
    from modellink_rm.model.layers.block import decoder_layer
    from modellink_rm.model.layers.linears import Linears
    from modellink_rm.model.layers.norm import RMSNorm
    from modellink_rm.model.layers.rotary import RotaryAngles
    from modellink_rm.model.resolve import resolve_shape
    from modellink_rm.model.spec import ModelSpec
    from modellink_rm.parallel.groups import process_groups

    class OffsetNorm(RMSNorm):
        """(1 + w) instead of w."""

    class ReluGlu(torch.nn.Module):
        """relu(gate) * up."""

        def __init__(self, config: RewardModelConfig) -> None:
            super().__init__()

    class SlowAngles(RotaryAngles):
        """Of other frequencies."""

    class Row(Linears().row):  # type: ignore[misc]
        """With an adapter."""

    numbers: list[tuple[int, bool]] = []

    def layer(spec: ModelSpec, number: int, *, scores_rows: bool, config: RewardModelConfig) -> Any:
        numbers.append((number, scores_rows))
        make = functools.partial(decoder_layer, norm=OffsetNorm, activation=ReluGlu, linears=Linears(row=Row))
        return make(spec, number, scores_rows=scores_rows, config=config)

    family = dataclasses.replace(
        FAMILIES["llama"],
        layer=layer,
        final_norm=OffsetNorm,
        rotary=SlowAngles,
        engine_fields=lambda shape: {"attention_softmax_in_fp32": False},
    )
    if "of_these_tests" not in FAMILIES:
        FAMILIES.add(family, "of_these_tests")
    shape = dataclasses.replace(resolve_shape(parsed(TINY), None), family="of_these_tests")
    with process_groups(ParallelConfig(), detect_platform(), seed=1):
        (model,) = build_model(
            ModelSpec(shape=shape, padded_vocab_size=320),
            model=ModelConfig(),
            parallel=ParallelConfig(),
            precision=PrecisionConfig(),
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),
            seed=1,
            initialize=True,
        )
        kinds = {name: type(module).__name__ for name, module in model.named_modules()}
        return {**kinds, "numbers": numbers, "softmax_in_fp32": model.config.attention_softmax_in_fp32}


def test_parts_of_a_family_are_those_of_its_model(workers: Workers) -> None:
    (found,) = workers.run(modules_of_a_family_with_parts, 1)
    for layer in ("decoder.layers.0", "decoder.layers.1"):
        assert found[f"{layer}.input_layernorm"] == found[f"{layer}.pre_mlp_layernorm"] == "OffsetNorm"
        assert found[f"{layer}.mlp.activation_func"] == "ReluGlu"
        assert found[f"{layer}.mlp.linear_fc2"] == found[f"{layer}.self_attention.linear_proj"] == "Row"
    assert found["decoder.final_layernorm"] == "OffsetNorm"
    assert found["rotary"] == "SlowAngles"
    assert found["numbers"] == [(0, False), (1, True)]
    assert found["softmax_in_fp32"] is False
