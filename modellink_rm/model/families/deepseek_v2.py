"""DeepSeek-V2, V2-Lite, V2.5 and Coder-V2 (transformers 5, models/deepseek_v2; arXiv 2405.04434).

Keys and values come from a small vector of each token, and the layers after the first ones have experts.
transformers reads no `aux_loss_alpha`; the losses of the routers are off unless flags of the run give them.
"""

import dataclasses

from modellink_rm.base.errors import UserError
from modellink_rm.experts.shape import Experts
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import (
    check_values,
    numbers_of,
    positive_numbers_of,
    transformers_shape,
)
from modellink_rm.model.families.latent_tensors import latent_attention_tensors
from modellink_rm.model.families.llama import LAYER, NAMES
from modellink_rm.model.families.qwen2_moe import QWEN_EXPERTS
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope, yarn_logit_factor
from modellink_rm.model.families.tensors import decoder_tensors, shared_expert_tensors
from modellink_rm.model.latent_shape import LatentShape
from modellink_rm.model.shape import ModelShape

# Of the norms of the small vectors, whatever rms_norm_eps says.
_LATENT_NORM_EPSILON = 1e-6
_SHARED = LAYER + "mlp.shared_experts."
_TENSORS = decoder_tensors(
    **{**NAMES, "qkv": None, "attention_output": None},
    more_of_layer=(
        *latent_attention_tensors(LAYER),
        *QWEN_EXPERTS,
        *shared_expert_tensors(
            gate_and_up=(_SHARED + "gate_proj", _SHARED + "up_proj"),
            output=_SHARED + "down_proj",
            gate=None,
        ),
    ),
)


def _deepseek_v2_shape(config: Config) -> ModelShape:
    check_values(
        config,
        {
            "attention_bias": (None, False),
            "num_key_value_heads": (None, config.get("num_attention_heads")),
        },
    )
    rope, latent = whole_rope(config), _latent(config)
    shape = transformers_shape(
        {**config, "head_dim": latent.head_channels},
        rope=rope,
        num_query_groups=numbers_of(config, {"num_attention_heads": int})["num_attention_heads"],
        add_qkv_bias=False,
        rotary_interleaved=True,
    )
    return dataclasses.replace(
        shape,
        latent=latent,
        experts=_experts(config),
        softmax_scale=latent.head_channels**-0.5 * yarn_logit_factor(config, rope),
    )


def _latent(config: Config) -> LatentShape:
    sizes = dict.fromkeys(("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), int)
    numbers = positive_numbers_of(config, sizes)
    if "q_lora_rank" not in config:  # the default of transformers is not that of the smaller models
        raise UserError("q_lora_rank is missing; it must be a number, or null for queries without it")
    has_rank = config["q_lora_rank"] is not None
    return LatentShape(
        key_value_rank=numbers["kv_lora_rank"],
        query_rank=positive_numbers_of(config, {"q_lora_rank": int})["q_lora_rank"] if has_rank else None,
        rotary_channels=numbers["qk_rope_head_dim"],
        plain_channels=numbers["qk_nope_head_dim"],
        value_channels=numbers["v_head_dim"],
        norm_epsilon=_LATENT_NORM_EPSILON,
    )


def _experts(config: Config) -> Experts | None:
    """The experts; None where first_k_dense_replace leaves no layer with some."""
    check_values(
        config,
        {
            "topk_method": (None, "greedy", "group_limited_greedy"),
            "scoring_func": (None, "softmax"),
            "norm_topk_prob": (None, False),  # transformers reads it nowhere, DeepSeek's own code does
            "moe_layer_freq": (None, 1),
        },
    )
    names = ("num_hidden_layers", "moe_intermediate_size", "num_experts_per_tok", "n_routed_experts")
    numbers = positive_numbers_of(config, {**dict.fromkeys(names, int), "n_shared_experts": int})
    dense = numbers_of(config, {"first_k_dense_replace": int})["first_k_dense_replace"]
    if dense >= numbers["num_hidden_layers"]:
        return None
    is_limited = config.get("topk_method") == "group_limited_greedy"
    groups = numbers_of(config, {"n_group": int, "topk_group": int}) if is_limited else {}
    factor = positive_numbers_of(config, {"routed_scaling_factor": float})["routed_scaling_factor"]
    return Experts(
        number=numbers["n_routed_experts"],
        ffn_hidden_size=numbers["moe_intermediate_size"],
        top_k=numbers["num_experts_per_tok"],
        normalizes_weights=False,
        weights_factor=factor,
        num_groups=groups.get("n_group", 1),
        top_groups=groups.get("topk_group", 1),
        shared_ffn_hidden_size=numbers["moe_intermediate_size"] * numbers["n_shared_experts"],
        dense_layers=tuple(range(dense)),
    )


FAMILIES.add(
    Family(read_shape=_deepseek_v2_shape, tensors=_TENSORS, classifier="DeepseekV2ForSequenceClassification"),
    "deepseek_v2",
)
