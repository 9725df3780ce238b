"""Layers that compute the outputs of norms and gates anew, against layers that keep them."""

from typing import Any

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.base.platform import detect_platform
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.estimate.activations import Operations, bytes_of_layer
from modellink_rm.experts.shape import Experts
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec
from tests.distributed import Workers
from tests.marks import full
from tests.unit.model.small_model import NUM_TOKENS, SMALL, batch, bytes_kept

EXPERTS = Experts(number=4, top_k=2, ffn_hidden_size=32, normalizes_weights=True)


def scores_and_gradients(fields: dict[str, Any], modules: tuple[str, ...]) -> list[torch.Tensor]:
    """The scores of a batch and the gradient of every weight."""
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels
    from modellink_rm.parallel.groups import process_groups

    granularity = "selective" if modules else None
    with process_groups(ParallelConfig(), detect_platform(), seed=1):
        (model,) = build_model(
            ModelSpec(shape=ModelShape(**{**SMALL, **fields}), padded_vocab_size=64),
            model=ModelConfig(),
            parallel=ParallelConfig(),
            precision=PrecisionConfig(recompute_granularity=granularity, recompute_modules=modules),
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),
            seed=1,
            initialize=True,
        )
        scores = model(batch())
        (scores[0] - scores[1]).backward()
        gradients = [parameter.grad for _, parameter in sorted(model.named_parameters())]
        return [scores.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize(
    ("fields", "modules"),
    [
        ({}, ("layernorm", "mlp_act")),
        ({"family": "mixtral", "experts": EXPERTS}, ("layernorm", "moe_act")),
        full({}, ("layernorm",)),
        full({}, ("mlp_act",)),
        full({}, ("mlp", "layernorm")),
        full({}, ("core_attn",)),
        full({"family": "gemma2"}, ("layernorm", "mlp_act")),
    ],
)
def test_scores_and_gradients_stay_the_same_to_the_bit(
    workers: Workers, fields: dict[str, Any], modules: tuple[str, ...]
) -> None:
    (kept,), (recomputed,) = (workers.run(scores_and_gradients, 1, fields, names) for names in ((), modules))
    assert len(kept) == len(recomputed) > 10
    assert all(torch.equal(one, other) for one, other in zip(kept, recomputed, strict=True))


def test_a_layer_keeps_the_inputs_of_norms_and_gates_alone(workers: Workers) -> None:
    operations = Operations(
        element_bytes=4,
        has_fused_norms=False,
        has_fused_gates=False,
        key_copies=None,
        recomputes_norms=True,
        recomputes_gates=True,
    )
    three, two = (workers.run(bytes_kept, 1, {"num_layers": n}, False, "selective")[0] for n in (3, 2))
    shape = ModelShape(**{**SMALL, "num_layers": 3})
    expected = NUM_TOKENS * bytes_of_layer(shape, 1, ParallelConfig(), operations)
    # Not counted: the norms' sums of squares.
    assert three - two == pytest.approx(expected, abs=2 * 4 * NUM_TOKENS)


def test_modules_are_refused_where_nothing_is_recomputed_selectively() -> None:
    with pytest.raises(UserError, match="--recompute-modules needs --recompute-granularity selective"):
        PrecisionConfig(recompute_granularity="full", recompute_modules=("layernorm",))


def test_an_unknown_module_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="choices: core_attn, layernorm, mlp, mlp_act, moe_act"):
        PrecisionConfig(recompute_granularity="selective", recompute_modules=("norm",))
