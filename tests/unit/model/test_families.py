import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, GlmConfig, LlamaConfig, MistralConfig, Qwen2Config

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.registry import FAMILIES, shape_from_config
from modellink_rm.model.latent_shape import LatentShape
from modellink_rm.model.rope import RopeScaling
from modellink_rm.model.shape import ModelShape

# Fields as published: meta-llama/Llama-2-7b-hf, mistralai/Mistral-7B-v0.3, Qwen/Qwen2-7B,
# THUDM/chatglm3-6b, THUDM/glm-4-9b-chat-hf.
LLAMA2 = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "vocab_size": 32000,
}
MISTRAL = {
    **LLAMA2,
    "model_type": "mistral",
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "vocab_size": 32768,
}
QWEN2 = {
    **LLAMA2,
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
GLM = {
    **LLAMA2,
    "model_type": "glm",
    "attention_bias": True,
    "head_dim": 128,
    "intermediate_size": 13696,
    "max_position_embeddings": 131072,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1.5625e-07,
    "vocab_size": 151552,
}
CHATGLM = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8192,
}
PUBLISHED = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[2] / "fixtures" / "configs").glob("*.json"))
}
QUANTIZED = PUBLISHED["gpt-oss-20b"]  # the others of it are as its weights are when they are dequantized
PUBLISHED["gpt-oss-20b"] = {name: value for name, value in QUANTIZED.items() if name != "quantization_config"}
CONFIGS = {"llama": LLAMA2, "mistral": MISTRAL, "qwen2": QWEN2, "glm": GLM, "chatglm": CHATGLM}
CONFIGS |= {config["model_type"]: config for config in PUBLISHED.values()} | CONFIGS


def test_every_family_has_a_published_config_here() -> None:
    assert set(FAMILIES) == set(CONFIGS)


def test_llama2_config_without_rope_theta_gives_its_shape() -> None:
    assert shape_from_config(LLAMA2) == ModelShape(
        family="llama",
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=11008,
        num_attention_heads=32,
        num_query_groups=32,
        kv_channels=128,
        vocab_size=32000,
        max_position_embeddings=4096,
        norm_epsilon=1e-5,
        rotary_base=10000.0,
        rotary_percent=1.0,
        rotary_interleaved=False,
        add_qkv_bias=False,
    )


def test_chatglm3_config_gives_its_shape() -> None:
    assert shape_from_config(CHATGLM) == ModelShape(
        family="chatglm",
        num_layers=28,
        hidden_size=4096,
        ffn_hidden_size=13696,
        num_attention_heads=32,
        num_query_groups=2,
        kv_channels=128,
        vocab_size=65024,
        max_position_embeddings=8192,
        norm_epsilon=1e-5,
        rotary_base=10000.0,
        rotary_percent=0.5,
        rotary_interleaved=True,
        add_qkv_bias=True,
    )


def test_qkv_bias_query_groups_and_rotary_base_are_read_by_family() -> None:
    mistral, qwen2, glm = (shape_from_config(config) for config in (MISTRAL, QWEN2, GLM))
    assert (mistral.num_query_groups, mistral.add_qkv_bias, mistral.rotary_base) == (8, False, 1e6)
    assert (qwen2.num_query_groups, qwen2.add_qkv_bias, qwen2.rotary_base) == (4, True, 1e6)
    assert (glm.num_query_groups, glm.add_qkv_bias, glm.rotary_percent) == (2, True, 0.5)
    assert glm.rotary_interleaved
    assert not shape_from_config({**GLM, "attention_bias": False}).add_qkv_bias


def test_glm4_remote_code_config_multiplies_the_rotary_base_by_its_ratio() -> None:
    glm4 = {**CHATGLM, "_name_or_path": "THUDM/glm-4-9b-chat", "rope_ratio": 500}
    assert shape_from_config(glm4).rotary_base == 5e6


def test_head_dim_and_missing_key_value_heads_of_llama_are_read_as_transformers_reads_them() -> None:
    config = {name: value for name, value in LLAMA2.items() if name != "num_key_value_heads"}
    shape = shape_from_config({**config, "head_dim": 64})
    assert (shape.kv_channels, shape.num_query_groups) == (64, 32)


@pytest.mark.parametrize(
    ("config_class", "fields"),
    [
        (LlamaConfig, {"rope_theta": 500000.0, "num_key_value_heads": 8}),
        (MistralConfig, {"sliding_window": None, "head_dim": 64}),
        (Qwen2Config, {"rope_theta": 1000000.0}),
        (GlmConfig, {"rope_parameters": {"rope_theta": 2e4, "partial_rotary_factor": 0.25}}),
    ],
)
def test_config_saved_by_transformers_reads_as_its_attributes_say(
    tmp_path: Path, config_class: Any, fields: dict[str, Any]
) -> None:
    config = config_class(**fields)
    config.save_pretrained(tmp_path)
    shape = shape_from_config(json.loads((tmp_path / "config.json").read_text()))
    assert shape.num_layers == config.num_hidden_layers
    assert shape.ffn_hidden_size == config.intermediate_size
    assert shape.num_query_groups == config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert shape.kv_channels == head_dim
    assert shape.rotary_base == config.rope_parameters["rope_theta"]
    assert shape.rotary_percent == config.rope_parameters.get("partial_rotary_factor", 1.0)
    assert shape.norm_epsilon == config.rms_norm_eps
    assert shape.vocab_size == config.vocab_size
    assert shape.max_position_embeddings == config.max_position_embeddings


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_default_rope_is_accepted_under_its_old_and_new_name(name: str) -> None:
    rope = {"rope_type": "default", "rope_theta": 5e5}
    assert shape_from_config({**LLAMA2, name: rope}).rotary_base == 5e5


# THUDM's fields have other names.
@pytest.mark.parametrize(
    "name", [name for name, config in PUBLISHED.items() if config["model_type"] != "chatglm"]
)
def test_published_config_reads_as_its_fields_say(name: str) -> None:
    config = PUBLISHED[name]
    shape = shape_from_config(config)
    fields = {
        "num_layers": "num_hidden_layers",
        "hidden_size": "hidden_size",
        "ffn_hidden_size": "intermediate_size",
        "num_attention_heads": "num_attention_heads",
        "num_query_groups": "num_key_value_heads",
        "vocab_size": "vocab_size",
        "max_position_embeddings": "max_position_embeddings",
        "norm_epsilon": "rms_norm_eps",
        "rotary_base": "rope_theta",
    }
    for ours, theirs in fields.items():
        assert theirs not in config or getattr(shape, ours) == config[theirs], theirs
    if shape.latent is None:
        assert shape.kv_channels == config.get("head_dim", shape.hidden_size // shape.num_attention_heads)
    assert shape.rotary_percent == config.get("partial_rotary_factor", 1.0)


def test_scaling_of_llama_3_1_is_read() -> None:
    assert shape_from_config(PUBLISHED["llama-3.1-8b-instruct"]).rope_scaling == RopeScaling(
        kind="llama3",
        original_positions=8192,
        factor=8.0,
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
    )


def test_dynamic_scaling_starts_after_the_models_positions() -> None:
    scaling = shape_from_config(PUBLISHED["polar-7b"]).rope_scaling
    assert scaling == RopeScaling(kind="dynamic", original_positions=262144, factor=2.0)


def test_latent_attention_of_deepseek_v2_is_read() -> None:
    shape = shape_from_config(CONFIGS["deepseek_v2"])
    assert shape.latent == LatentShape(
        key_value_rank=512,
        query_rank=None,
        rotary_channels=64,
        plain_channels=128,
        value_channels=128,
        norm_epsilon=1e-6,
    )
    assert (shape.kv_channels, shape.rotary_channels) == (192, 64)
    # Of yarn both: the angles have mscale / mscale_all_dim, the logits mscale_all_dim.
    assert shape.rope_scaling is not None
    assert shape.rope_scaling.attention_factor == 1.0
    assert shape.softmax_scale == pytest.approx(192**-0.5 * (0.1 * 0.707 * math.log(40) + 1) ** 2)
    plain = shape_from_config({**CONFIGS["deepseek_v2"], "rope_scaling": None, "q_lora_rank": 1536})
    assert plain.softmax_scale == 192**-0.5
    assert plain.latent is not None
    assert plain.latent.query_rank == 1536


def test_norm_of_queries_and_keys_is_read_by_family() -> None:
    assert shape_from_config(PUBLISHED["qwen3-8b"]).qk_norm == "head"
    assert shape_from_config(QWEN2).qk_norm == ""


def test_windows_are_read_by_family() -> None:
    def windows(family: str, **changes: Any) -> tuple[int | None, ...]:
        return shape_from_config({**CONFIGS[family], **changes}).windows

    assert windows("mistral") == windows("qwen2") == ()
    assert windows("mistral", sliding_window=4096) == (4096,) * 32
    without = {name: value for name, value in MISTRAL.items() if name != "sliding_window"}
    assert shape_from_config(without).windows == (4096,) * 32  # transformers' default
    assert windows("phi3", sliding_window=2047) == (2047,) * 40
    assert windows("ministral")[:5] == (None, 32768, 32768, 32768, None)
    in_use = {"use_sliding_window": True, "sliding_window": 100}
    assert windows("qwen2", **in_use, max_window_layers=26) == (None,) * 26 + (100, 100)
    assert windows("qwen2", **in_use, max_window_layers=28) == ()
    assert windows("gemma2") == (4096, None) * 21
    assert windows("gemma3_text") == ((512,) * 5 + (None,)) * 4 + (512,) * 2
    assert windows("olmo3") == ((4096,) * 3 + (None,)) * 8
    assert windows("gpt_oss") == windows("gpt_oss", layer_types=None) == (128, None) * 12


def test_attention_of_gemma_and_olmo_is_read() -> None:
    gemma2, gemma3, olmo2, olmo3 = (
        shape_from_config(CONFIGS[family]) for family in ("gemma2", "gemma3_text", "olmo2", "olmo3")
    )
    assert (gemma2.attention_softcap, gemma2.softmax_scale, gemma2.qk_norm) == (50.0, 1 / 16, "")
    assert (gemma3.attention_softcap, gemma3.softmax_scale, gemma3.qk_norm) == (None, 1 / 16, "head")
    assert (gemma3.rotary_base, gemma3.local_rotary_base) == (1e6, 1e4)
    assert (olmo2.qk_norm, olmo2.local_rotary_base, olmo2.windows) == ("all", None, ())
    assert (olmo3.qk_norm, olmo3.rotary_base, olmo3.local_rotary_base) == ("all", 5e5, 5e5)
    assert olmo3.rope_scaling is not None
    local = olmo3.of_local_layers
    assert local is not None
    assert local.rope_scaling is None
    assert gemma2.of_local_layers is None


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "ministral", "olmo3", "qwen2"])
def test_windows_of_a_config_saved_by_transformers_are_those_of_the_published_one(
    family: str, tmp_path: Path
) -> None:
    published = CONFIGS[family]
    CONFIG_MAPPING[family].from_dict(published).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    if family == "olmo3" and "rope_type" in fields["rope_parameters"]:
        pytest.skip("this version of transformers saves one rope for all layers of OLMo 3, which is refused")
    saved = shape_from_config(fields)
    expected = shape_from_config(published)
    assert saved == expected


@pytest.mark.parametrize("family", ["gemma3_text", "olmo3"])
def test_default_rope_of_all_layers_is_passed_over_as_transformers_does(family: str) -> None:
    published = {**CONFIGS[family], "rope_scaling": None}
    default = {"rope_type": "default", "rope_theta": published["rope_theta"]}
    by_kind = {"full_attention": default, "sliding_attention": {**default, "rope_theta": 7e3}}
    shape = shape_from_config({**published, "rope_parameters": default})
    assert shape == shape_from_config(published)
    both = shape_from_config({**published, "rope_parameters": {**default, **by_kind}})
    assert both == shape_from_config({**published, "rope_parameters": by_kind})
    config = CONFIG_MAPPING[family].from_dict({**published, "rope_parameters": {**default, **by_kind}})
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == both.local_rotary_base


LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 64, "long_factor": [1.0] * 64}
WITH_NAN = [*[1.0] * 63, float("nan")]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_scaling": {"type": "linear"}}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 0.0}}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "low_freq_factor": 1.0}}),
    ("llama", {"rope_scaling": {"type": "proportional", "factor": 2.0}}),
    ("llama", {"rope_scaling": {"type": ["linear"], "factor": 2.0}}),
    ("llama", {"rope_scaling": LLAMA3_ROPE}),  # without its bounds
    ("llama", {"rope_scaling": {**LLAMA3_ROPE, "low_freq_factor": 4.0, "high_freq_factor": 4.0}}),
    ("llama", {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 5e5}}),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": "no"}}),
    ("llama", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": None}}),
    ("llama", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
    (
        "llama",
        {"rope_scaling": {"type": "longrope", "factor": 2.0, "original_max_position_embeddings": 1}},
    ),
    ("llama", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 64, "long_factor": WITH_NAN}}),
    ("mistral", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "llama_4_scaling_beta": 0.1}}),
    ("llama", {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2]}}),
    ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    ("llama", {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 1}}),
    ("llama", {"rope_scaling": "dynamic"}),
    ("llama", {"rms_norm_eps": 10**400}),
    ("llama", {"hidden_size": 10**400}),
    ("ministral", {"layer_types": [["sliding_attention"]]}),
    ("llama", {"attention_bias": True}),
    ("llama", {"mlp_bias": True}),
    ("llama", {"hidden_act": "gelu"}),
    ("llama", {"partial_rotary_factor": 0.5}),
    ("llama", {"quantization_config": {"bits": 4, "quant_method": "gptq"}}),
    ("llama", {"transformers_weights": "other.safetensors"}),
    ("llama", {"is_causal": False}),
    ("llama", {"is_causal": None}),  # transformers takes it for False
    ("qwen3", {"per_layer_config": {"1": {"sliding_window": 16}}}),
    ("llama", {"hidden_size": "4096"}),
    ("llama", {"num_hidden_layers": True}),
    ("llama", {"num_attention_heads": 24}),
    ("mistral", {"sliding_window": 0}),
    ("mistral", {"sliding_window": "4096"}),
    ("mistral", {"layer_types": ["full_attention", "sliding_attention"] * 16}),
    ("ministral", {"layer_types": ["full_attention"] * 35}),
    ("ministral", {"layer_types": [["full_attention"]] * 36}),
    ("ministral", {"layer_types": "full_attention"}),
    ("ministral", {"layer_types": ["chunked_attention"] * 36}),
    ("gemma2", {"attention_bias": True}),
    ("gemma2", {"attn_logit_softcapping": "50"}),
    ("gemma2", {"attn_logit_softcapping": 0}),
    ("gemma2", {"hidden_activation": "gelu"}),
    ("gemma2", {"query_pre_attn_scalar": None}),
    ("gemma2", {"query_pre_attn_scalar": -1}),
    ("gemma2", {"use_bidirectional_attention": True}),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}),
    ("gemma3_text", {"rope_scaling": {"type": "linear", "factor": 8.0}}),  # transformers reads rope_type
    ("gemma3_text", {"rope_parameters": {"sliding_attention": {}, "chunked_attention": {}}}),
    ("gemma3_text", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
    # transformers passes over what does not stand in the settings of a kind of layer.
    ("gemma3_text", {"rope_parameters": {"rope_type": "linear", "factor": 8.0}}),
    ("gemma3_text", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    ("gemma3_text", {"original_max_position_embeddings": 8192}),
    ("olmo3", {"original_max_position_embeddings": 4096}),
    ("olmo3", {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "truncate": False}}),
    ("gemma3_text", {"sliding_window_pattern": 0}),
    ("glm4", {"hidden_act": "gelu"}),
    ("glm4", {"partial_rotary_factor": None}),  # 1 in transformers, where a missing one is 0.5
    ("olmo2", {"attention_bias": True}),
    ("olmo3", {"rope_theta": 10000.0}),  # transformers gives it to some layers only
    ("qwen2", {"use_sliding_window": "yes"}),
    ("qwen2", {"use_mrope": True}),
    ("qwen2_moe", {"layer_types": ["sliding_attention"] * 24}),  # with use_sliding_window off
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}),
    ("qwen3", {"attention_bias": True}),
    ("qwen3", {"layer_types": ["sliding_attention"]}),
    ("internlm2", {"bias": True}),
    ("deepseek_v2", {"attention_bias": True}),
    ("deepseek_v2", {"mlp_bias": True}),
    ("deepseek_v2", {"num_key_value_heads": 8}),
    ("deepseek_v2", {"kv_lora_rank": 0}),
    ("deepseek_v2", {"q_lora_rank": "1536"}),
    ("deepseek_v2", {"topk_method": "noaux_tc"}),
    ("deepseek_v2", {"scoring_func": "sigmoid"}),
    ("deepseek_v2", {"norm_topk_prob": True}),
    ("deepseek_v2", {"moe_layer_freq": 2}),
    ("deepseek_v2", {"routed_scaling_factor": 0}),
    ("phi3", {"sliding_window": "2047"}),
    ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("gpt_oss", {"attention_bias": "yes"}),
    ("gpt_oss", {"rope_scaling": None}),  # transformers scales the angles all the same
    ("gpt_oss", {"swiglu_alpha": 1.0}),
    ("gpt_oss", {"swiglu_limit": 5.0}),
    ("glm", {"hidden_act": "gelu"}),
    ("chatglm", {"rmsnorm": False}),
    ("chatglm", {"post_layer_norm": "no"}),
    ("chatglm", {"add_bias_linear": True}),
    ("chatglm", {"apply_residual_connection_post_layernorm": True}),
    ("chatglm", {"multi_query_attention": False}),
    ("chatglm", {"interleaved_qkv": True}),
    ("chatglm", {"quantization_bit": 4}),
    ("chatglm", {"pre_seq_len": 128}),
    ("chatglm", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("chatglm", {"rope_ratio": "2"}),
    ("chatglm", {"quantization_config": {"bits": 4}}),
]


@pytest.mark.parametrize(
    ("family", "change"), REFUSED, ids=[f"{family}-{next(iter(change))}" for family, change in REFUSED]
)
def test_field_that_changes_numbers_and_is_not_supported_is_refused_by_name(
    family: str, change: dict[str, Any]
) -> None:
    (name,) = change
    with pytest.raises(UserError) as error:
        shape_from_config({**CONFIGS[family], **change})
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_a_number_of_layers_that_no_model_has_is_refused_at_once(family: str) -> None:
    with pytest.raises(UserError, match=r"layers.* must be at most 10000, got"):
        shape_from_config({**CONFIGS[family], "num_hidden_layers": 10**9})


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "rms_norm_eps"),
        ("gemma2", "head_dim"),
        ("gemma2", "query_pre_attn_scalar"),
        ("gemma2", "sliding_window"),
        ("glm4", "attention_bias"),
        ("qwen2", "num_key_value_heads"),
        ("glm", "attention_bias"),
        ("glm", "head_dim"),
        ("qwen3", "head_dim"),
        ("deepseek_v2", "q_lora_rank"),
        ("deepseek_v2", "v_head_dim"),
        ("deepseek_v2", "first_k_dense_replace"),
        ("qwen3", "num_key_value_heads"),
        ("internlm2", "bias"),
        ("gpt_oss", "num_experts_per_tok"),
        ("gpt_oss", "rope_scaling"),
        ("gpt_oss", "sliding_window"),
        ("chatglm", "multi_query_group_num"),
        ("chatglm", "multi_query_attention"),
        ("chatglm", "seq_length"),
    ],
)
def test_missing_field_is_refused_by_name(family: str, name: str) -> None:
    with pytest.raises(UserError, match=name):
        shape_from_config({key: value for key, value in CONFIGS[family].items() if key != name})


def test_yarn_without_frequencies_is_refused() -> None:
    with pytest.raises(UserError, match="yarn needs a rotary base other than 1"):
        shape_from_config({**LLAMA2, "rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2.0}})


def test_quantized_weights_are_refused_with_how_to_dequantize_them() -> None:
    with pytest.raises(UserError, match=r"quantized \(mxfp4\).*Mxfp4Config\(dequantize=True\)") as error:
        shape_from_config(QUANTIZED)
    assert "\n" not in str(error.value)
    assert "Mxfp4Config" not in refusal({**LLAMA2, "quantization_config": {"quant_method": "gptq"}})


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        shape_from_config(config)
    return str(error.value)


def test_missing_fields_of_gpt_oss_have_the_defaults_of_transformers() -> None:
    config = CONFIGS["gpt_oss"]
    left_out = ("attention_bias", "head_dim", "rope_theta", "swiglu_limit")
    assert shape_from_config({name: config[name] for name in config if name not in left_out}) == (
        shape_from_config(config)
    )


def test_chatglm2_32k_which_scales_positions_is_refused() -> None:
    config = {**CHATGLM, "_name_or_path": "THUDM/chatglm2-6b-32k", "rope_ratio": 4}
    with pytest.raises(UserError, match="rope_ratio 4"):
        shape_from_config(config)


def test_unknown_model_type_lists_the_families() -> None:
    with pytest.raises(
        UserError, match=r"unknown model_type 'gpt2' \(choices: chatglm, deepseek_v2, gemma2, "
    ):
        shape_from_config({"model_type": "gpt2"})
    with pytest.raises(UserError, match=r"model_type is missing \(choices: chatglm"):
        shape_from_config({})


def test_dropout_of_a_config_is_ignored_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr("modellink_rm.model.families.registry.warn_once", messages.append)
    shape_from_config({**LLAMA2, "attention_dropout": 0.1})
    assert messages == ["attention_dropout 0.1 of config.json is ignored: --attention-dropout sets it"]
