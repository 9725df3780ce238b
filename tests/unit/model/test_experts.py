"""Experts: what config.json says of them, what is refused, and how a token reaches its own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.layout import RunInfo
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.experts.shape import Experts
from modellink_rm.model.families.registry import shape_from_config
from modellink_rm.model.fits import check_parallel_fits_shape
from modellink_rm.model.resolve import resolve_shape
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec

CONFIGS = Path(__file__).parents[2] / "fixtures" / "configs"
QWEN3 = json.loads((CONFIGS / "qwen3-30b-a3b.json").read_text())
MIXTRAL = json.loads((CONFIGS / "mixtral-8x7b.json").read_text())
QWEN2 = json.loads((CONFIGS / "qwen1.5-moe-a2.7b-chat.json").read_text())
GPT_OSS = json.loads((CONFIGS / "gpt-oss-20b.json").read_text()) | {"quantization_config": None}
DEEPSEEK = json.loads((CONFIGS / "deepseek-v2-lite.json").read_text())
LIMITED = {**DEEPSEEK, "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3}
LLAMA = json.loads((CONFIGS / "llama-2-7b.json").read_text())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (QWEN3, Experts(number=128, ffn_hidden_size=768, top_k=8, normalizes_weights=True)),
        (MIXTRAL, Experts(number=8, ffn_hidden_size=14336, top_k=2, normalizes_weights=True)),
        (
            QWEN2,
            Experts(
                number=60,
                ffn_hidden_size=1408,
                top_k=4,
                normalizes_weights=False,
                shared_ffn_hidden_size=5632,
                has_shared_gate=True,
            ),
        ),
        (
            GPT_OSS,
            Experts(number=32, ffn_hidden_size=2880, top_k=4, normalizes_weights=True, has_biases=True),
        ),
        (
            {**LIMITED, "routed_scaling_factor": 16.0},
            Experts(
                number=64,
                ffn_hidden_size=1408,
                top_k=6,
                normalizes_weights=False,
                weights_factor=16.0,
                num_groups=8,
                top_groups=3,
                shared_ffn_hidden_size=2816,
                dense_layers=(0,),
            ),
        ),
    ],
    ids=["qwen3_moe", "mixtral", "qwen2_moe", "gpt_oss", "deepseek_v2"],
)
def test_published_config_gives_its_experts_without_losses(config: dict[str, Any], expected: Experts) -> None:
    assert shape_from_config(config).experts == expected


def test_load_balancing_loss_counts_only_with_router_logits_as_in_transformers() -> None:
    experts = shape_from_config({**MIXTRAL, "output_router_logits": True}).experts
    assert experts is not None
    assert experts.aux_loss_coef == 0.02


def test_config_of_transformers_5_may_call_the_number_of_experts_local() -> None:
    config = {**QWEN3, "num_local_experts": 16}
    del config["num_experts"]
    experts = shape_from_config(config).experts
    assert experts is not None
    assert experts.number == 16


def test_layers_without_experts_are_those_that_the_config_names_or_leaves_out() -> None:
    config = {**QWEN3, "num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    shape = shape_from_config(config)
    assert [layer for layer in range(6) if shape.is_sparse(layer)] == [1, 5]
    assert shape.num_sparse_layers == 2


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        ({**MIXTRAL, "sliding_window": 4096}, (4096,) * 32),
        ({**QWEN2, "use_sliding_window": True, "max_window_layers": 3}, (32768, None, 32768, *[None] * 21)),
        ({**QWEN3, "use_sliding_window": True, "sliding_window": 8}, (8,) * 48),
        (QWEN2, ()),
        (QWEN3, ()),
    ],
)
def test_windows_are_those_of_transformers(config: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert shape_from_config(config).windows == windows


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**MIXTRAL, "layer_types": ["sliding_attention"] * 32}, "layer_types"),
        ({**MIXTRAL, "router_jitter_noise": 0.1}, r"router_jitter_noise 0\.1"),
        ({**MIXTRAL, "num_experts_per_tok": 9}, "a token cannot have 9 experts of 8"),
        ({**MIXTRAL, "output_router_logits": True, "router_aux_loss_coef": None}, "router_aux_loss_coef"),
        ({**MIXTRAL, "output_router_logits": True, "router_aux_loss_coef": -1.0}, "a number from 0"),
        ({**QWEN3, "norm_topk_prob": None}, "norm_topk_prob must be true or false"),
        ({**QWEN3, "decoder_sparse_step": 99}, "no layer has experts"),
        ({**QWEN3, "decoder_sparse_step": 0}, "decoder_sparse_step 0"),
        ({**QWEN3, "mlp_only_layers": "all"}, "mlp_only_layers 'all'"),
        ({**QWEN2, "use_sliding_window": "yes"}, "use_sliding_window 'yes'"),
        ({**QWEN2, "moe_intermediate_size": 0}, "ffn_hidden_size of a model's experts"),
        ({**LIMITED, "n_group": None}, "n_group"),
        ({**LIMITED, "n_group": 7}, "cannot be divided so: 7 groups of 64 experts"),
        ({**LIMITED, "topk_group": 9}, "9 for a token"),
        ({**LIMITED, "n_group": 64}, "a token cannot have 6 experts: 64 groups"),
    ],
)
def test_config_that_is_not_understood_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shape_from_config(config)


def test_flags_win_over_the_losses_of_the_config() -> None:
    config = ModelConfig(router_aux_loss_coef=0.5, router_z_loss_coef=0.001)
    experts = resolve_shape(config, shape_from_config(QWEN3)).experts
    assert experts is not None
    assert (experts.aux_loss_coef, experts.z_loss_coef) == (0.5, 0.001)


def test_losses_of_routers_need_experts() -> None:
    with pytest.raises(UserError, match="--router-z-loss-coef needs a model with experts"):
        resolve_shape(ModelConfig(router_z_loss_coef=0.1), shape_from_config(LLAMA))


def test_model_for_scoring_has_no_losses() -> None:
    experts = Experts(
        number=2, ffn_hidden_size=3, top_k=1, normalizes_weights=True, aux_loss_coef=1.0, z_loss_coef=2.0
    )
    shape = dataclasses.replace(shape_from_config(QWEN3), experts=experts)
    without = ModelSpec(shape=shape, padded_vocab_size=8).without_router_losses().shape.experts
    assert without is not None
    assert not without.balances
    assert dataclasses.replace(without, aux_loss_coef=1.0, z_loss_coef=2.0) == experts


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (QWEN3, {"expert_model_parallel_size": 3}, "does not divide the number of experts, 128"),
        (QWEN3, {"expert_tensor_parallel_size": 5}, "does not divide the inner size of an expert, 768"),
        (
            GPT_OSS,
            {"expert_tensor_parallel_size": 2},
            "cannot divide experts that have biases",
        ),
        (LLAMA, {"expert_model_parallel_size": 2}, "needs a model with experts"),
        (LLAMA, {"expert_tensor_parallel_size": 2}, "needs a model with experts"),
        ({**QWEN2, "shared_expert_intermediate_size": 5633}, {"tensor_model_parallel_size": 2}, "shared"),
    ],
)
def test_experts_that_cannot_be_divided_are_refused(
    config: dict[str, Any], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_parallel_fits_shape(ParallelConfig(**flags), shape_from_config(config))


def test_size_of_the_mlp_need_not_divide_where_no_layer_has_one() -> None:
    shape = shape_from_config({**QWEN3, "intermediate_size": 6145})
    check_parallel_fits_shape(ParallelConfig(tensor_model_parallel_size=2), shape)


def test_processes_that_share_experts_divide_those_of_a_stage() -> None:
    parallel = ParallelConfig(pipeline_model_parallel_size=2, expert_model_parallel_size=4)
    parallel.check_world_size(8)
    with pytest.raises(UserError, match=r"= 4 does not divide the 2 processes of a pipeline stage"):
        parallel.check_world_size(4)


@pytest.mark.parametrize("count", [1, 40])
def test_deepseek_has_experts_after_its_first_layers_if_there_are_more(count: int) -> None:
    shape = shape_from_config({**DEEPSEEK, "first_k_dense_replace": count})
    assert shape.num_sparse_layers == max(0, shape.num_layers - count)
    assert (shape.experts is None) == (count == 40)


@pytest.mark.parametrize(
    "config",
    [
        {**QWEN3, "mlp_only_layers": [0, 2], "output_router_logits": True},
        DEEPSEEK,
        {**LIMITED, "q_lora_rank": 3},
    ],
    ids=["qwen3_moe", "deepseek_v2", "deepseek_v2 with latent queries"],
)
def test_shape_with_experts_comes_back_from_run_json(config: dict[str, Any]) -> None:
    shape = shape_from_config(config)
    run = RunInfo(
        iteration=1,
        spec=ModelSpec(shape=shape, padded_vocab_size=shape.vocab_size),
        parallel_sizes=(1, 1, 1, 1),
        config={},
    )
    values = json.loads(run.to_json())
    from modellink_rm.base.json_types import known_fields

    back: ModelShape = known_fields(RunInfo, values, "run.json")["spec"].shape
    assert back == shape
