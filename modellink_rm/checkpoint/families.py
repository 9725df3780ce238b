"""Model families of Hugging Face directories: config.json -> `ModelShape`, and tensor names.

A config field that changes numbers and is not supported here is an error, never ignored. The
architectures were read in transformers 5 (models/{llama,mistral,qwen2,glm}) and in the remote code
that ChatGLM2, ChatGLM3 and GLM-4 directories of THUDM carry (modeling_chatglm.py).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from modellink_rm.config.shape import ModelShape
from modellink_rm.errors import UserError
from modellink_rm.log import warn_once
from modellink_rm.registry import Registry

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorNames:
    """Names of a family's tensors, without ".weight" and ".bias"; {prefix} and {layer} are filled in.

    Attributes:
        prefix: what a model with a head puts before the names of its body.
        qkv: tensors whose rows, one after the other, are all query heads, all keys, all values.
        gate_up: tensors whose rows, one after the other, are the gate, then the up projection.
        lm_head: the language-model head, which a reward model does not have.
        buffers: ends of names that are computed, not loaded.
    """

    prefix: str
    embedding: str
    input_layernorm: str
    qkv: tuple[str, ...]
    attention_out: str
    pre_mlp_layernorm: str
    gate_up: tuple[str, ...]
    mlp_out: str
    final_layernorm: str
    lm_head: str
    buffers: tuple[str, ...]

    def name(self, template: str, *, layer: int = 0, kind: str = "weight") -> str:
        """The full name of a tensor: "model.layers.3.self_attn.q_proj.bias"."""
        return f"{template.format(prefix=self.prefix, layer=layer)}.{kind}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One model_type of config.json: how its shape is read, and what its tensors are called."""

    name: str
    read_shape: Callable[[Config], ModelShape]
    names: TensorNames


def family_of(config: Config) -> Family:
    """The family that config.json's model_type names.

    Raises:
        UserError: there is no model_type, or its family is not supported.
    """
    if not isinstance(config.get("model_type"), str):
        raise UserError(f"model_type is missing (choices: {', '.join(sorted(FAMILIES))})")
    return FAMILIES[config["model_type"]]


def shape_from_config(config: Config) -> ModelShape:
    """The shape of the model that a config.json describes.

    Raises:
        UserError: an unknown family, a missing field, or one that is not supported.
    """
    family = family_of(config)
    _check_values(config, {"quantization_config": (None,)})
    for name in ("attention_dropout", "hidden_dropout"):
        if config.get(name):
            flag = name.replace("_", "-")
            warn_once(f"{name} {config[name]} of config.json is ignored: --{flag} sets it")
    return family.read_shape(config)


def _check_values(config: Config, supported: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse the first field whose value is given and not among the supported ones."""
    for name, values in supported.items():
        if name in config and config[name] not in values:
            choices = " or ".join(repr(value) for value in values)
            raise UserError(
                f"{name} {config[name]!r} changes the model's numbers and is not supported; only {choices} is"
            )


def _numbers(config: Config, names: Mapping[str, type]) -> dict[str, Any]:
    """The values of required fields, each an int or a float as `names` says.

    Raises:
        UserError: naming all missing fields, or one of a wrong type.
    """
    missing = [name for name in names if config.get(name) is None]
    if missing:
        raise UserError(f"model_type {config['model_type']!r} needs {', '.join(missing)}")
    for name, kind in names.items():
        value = config[name]
        accepted = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise UserError(
                f"field '{name}' must be {'a number' if kind is float else 'whole'}, got {value!r}"
            )
    return {name: kind(config[name]) for name, kind in names.items()}


# ------------------------------------------------------------------ families of transformers' own

_TRANSFORMERS_FIELDS = {
    "num_hidden_layers": int,
    "hidden_size": int,
    "intermediate_size": int,
    "num_attention_heads": int,
    "vocab_size": int,
    "max_position_embeddings": int,
    "rms_norm_eps": float,
}
# transformers' default of rope_theta, for files older than the field; Llama 2's has none.
_ROPE_THETA = 10000.0
_ROPE_FIELDS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rope:
    theta: float
    partial_factor: float


def _rope(config: Config, *, partial_factor: float = 1.0) -> _Rope:
    """The rotary settings: `rope_parameters` of transformers 5, or rope_theta and rope_scaling before.

    Args:
        partial_factor: the part of a head that is rotated where the config does not say.
    Raises:
        UserError: a scaling, or rotary settings by layer.
    """
    settings = dict(config)
    for field in ("rope_scaling", "rope_parameters"):
        parameters = config.get(field) or {}
        if not isinstance(parameters, Mapping):
            raise UserError(f"{field} must be an object, got {parameters!r}")
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        unknown = {name for name, value in parameters.items() if value is not None} - _ROPE_FIELDS
        if kind != "default" or unknown:
            raise UserError(
                f"{field} {parameters!r} changes the model's numbers and is not supported; only rope_type "
                "'default' with rope_theta is"
            )
        settings.update(parameters)
    numbers = {"rope_theta": _ROPE_THETA, "partial_rotary_factor": partial_factor}
    numbers |= {name: settings[name] for name in numbers if settings.get(name) is not None}
    numbers = _numbers({**config, **numbers}, dict.fromkeys(numbers, float))
    return _Rope(theta=numbers["rope_theta"], partial_factor=numbers["partial_rotary_factor"])


def _transformers_shape(
    config: Config,
    *,
    rope: _Rope,
    num_query_groups: int,
    add_qkv_bias: bool,
    rotary_interleaved: bool = False,
) -> ModelShape:
    _check_values(config, {"hidden_act": ("silu", "swish"), "mlp_bias": (None, False)})
    numbers = _numbers(config, _TRANSFORMERS_FIELDS)
    heads, hidden_size = numbers["num_attention_heads"], numbers["hidden_size"]
    if config.get("head_dim") is not None:
        kv_channels = _numbers(config, {"head_dim": int})["head_dim"]
    elif heads < 1 or hidden_size % heads:
        raise UserError(f"num_attention_heads {heads} does not divide hidden_size {hidden_size}")
    else:
        kv_channels = hidden_size // heads
    return ModelShape(
        family=config["model_type"],
        num_layers=numbers["num_hidden_layers"],
        hidden_size=hidden_size,
        ffn_hidden_size=numbers["intermediate_size"],
        num_attention_heads=heads,
        num_query_groups=num_query_groups,
        kv_channels=kv_channels,
        vocab_size=numbers["vocab_size"],
        max_position_embeddings=numbers["max_position_embeddings"],
        norm_epsilon=numbers["rms_norm_eps"],
        rotary_base=rope.theta,
        rotary_percent=rope.partial_factor,
        rotary_interleaved=rotary_interleaved,
        add_qkv_bias=add_qkv_bias,
    )


def _whole_rope(config: Config) -> _Rope:
    """The rotary settings of a family that rotates whole heads."""
    rope = _rope(config)
    _check_values({"partial_rotary_factor": rope.partial_factor}, {"partial_rotary_factor": (1.0,)})
    return rope


def _llama_shape(config: Config) -> ModelShape:
    _check_values(config, {"attention_bias": (None, False)})
    groups = "num_attention_heads" if config.get("num_key_value_heads") is None else "num_key_value_heads"
    return _transformers_shape(
        config,
        rope=_whole_rope(config),
        num_query_groups=_numbers(config, {groups: int})[groups],
        add_qkv_bias=False,
    )


def _key_value_heads(config: Config) -> int:
    # Required: what transformers assumes for a missing one differs between these families.
    return int(_numbers(config, {"num_key_value_heads": int})["num_key_value_heads"])


def _mistral_shape(config: Config) -> ModelShape:
    # transformers takes a missing sliding_window for 4096.
    window = config.get("sliding_window", 4096)
    if window is not None:
        raise UserError(
            f"sliding_window {window!r} changes the model's numbers and is not supported; set it to null if "
            "no sequence will be longer"
        )
    return _transformers_shape(
        config, rope=_whole_rope(config), num_query_groups=_key_value_heads(config), add_qkv_bias=False
    )


def _qwen2_shape(config: Config) -> ModelShape:
    _check_values(config, {"use_sliding_window": (None, False), "use_mrope": (None, False)})
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise UserError(f"layer_types {', '.join(sorted(kinds))} is not supported; only full_attention is")
    return _transformers_shape(
        config, rope=_whole_rope(config), num_query_groups=_key_value_heads(config), add_qkv_bias=True
    )


def _glm_shape(config: Config) -> ModelShape:
    # Required, for the same reason as the key/value heads: versions of transformers disagree.
    missing = [name for name in ("attention_bias", "head_dim") if config.get(name) is None]
    if missing:
        raise UserError(f"model_type 'glm' needs {', '.join(missing)}")
    _check_values(config, {"attention_bias": (True, False)})
    return _transformers_shape(
        config,
        rope=_rope(config, partial_factor=0.5),
        num_query_groups=_key_value_heads(config),
        add_qkv_bias=config["attention_bias"],
        rotary_interleaved=True,
    )


# ------------------------------------------------------------------ THUDM's ChatGLM2, 3 and GLM-4

_CHATGLM_FIELDS = {
    "num_layers": int,
    "hidden_size": int,
    "ffn_hidden_size": int,
    "num_attention_heads": int,
    "multi_query_group_num": int,
    "kv_channels": int,
    "padded_vocab_size": int,
    "seq_length": int,
    "layernorm_epsilon": float,
}
_CHATGLM_VALUES: dict[str, tuple[Any, ...]] = {
    "rmsnorm": (True,),
    "post_layer_norm": (True,),
    "add_bias_linear": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "interleaved_qkv": (None, False),
    "quantization_bit": (None, 0),
    "pre_seq_len": (None, 0),
    "rope_scaling": (None,),
    "position_encoding_2d": (None, False),
}


def _chatglm_shape(config: Config) -> ModelShape:
    numbers = _numbers(config, _CHATGLM_FIELDS)
    _check_values(config, _CHATGLM_VALUES)
    # Without it THUDM's fused tensor is laid out by head; no ChatGLM2, 3 or GLM-4 was published so.
    _check_values({"multi_query_attention": False, **config}, {"multi_query_attention": (True,)})
    _check_values(config, {"add_qkv_bias": (True, False)})
    ratio = _numbers({"rope_ratio": 1, **config}, {"rope_ratio": float})["rope_ratio"]
    if ratio != 1 and "chatglm2" in str(config.get("_name_or_path")).lower():
        # ChatGLM2-6B-32K divides positions by the ratio; ChatGLM3 and GLM-4 multiply the base by it.
        raise UserError(f"rope_ratio {ratio:g} of a ChatGLM2 scales its positions and is not supported")
    return ModelShape(
        family=config["model_type"],
        num_layers=numbers["num_layers"],
        hidden_size=numbers["hidden_size"],
        ffn_hidden_size=numbers["ffn_hidden_size"],
        num_attention_heads=numbers["num_attention_heads"],
        num_query_groups=numbers["multi_query_group_num"],
        kv_channels=numbers["kv_channels"],
        vocab_size=numbers["padded_vocab_size"],
        max_position_embeddings=numbers["seq_length"],
        norm_epsilon=numbers["layernorm_epsilon"],
        rotary_base=10000.0 * ratio,
        rotary_percent=0.5,
        rotary_interleaved=True,
        add_qkv_bias=bool(config.get("add_qkv_bias", False)),
    )


# ------------------------------------------------------------------------------------------ tables

_LAYER = "{prefix}layers.{layer}."
_LLAMA_NAMES = TensorNames(
    prefix="model.",
    embedding="{prefix}embed_tokens",
    input_layernorm=_LAYER + "input_layernorm",
    qkv=(_LAYER + "self_attn.q_proj", _LAYER + "self_attn.k_proj", _LAYER + "self_attn.v_proj"),
    attention_out=_LAYER + "self_attn.o_proj",
    pre_mlp_layernorm=_LAYER + "post_attention_layernorm",
    gate_up=(_LAYER + "mlp.gate_proj", _LAYER + "mlp.up_proj"),
    mlp_out=_LAYER + "mlp.down_proj",
    final_layernorm="{prefix}norm",
    lm_head="lm_head",
    buffers=("rotary_emb.inv_freq",),
)
_CHATGLM_LAYER = "{prefix}encoder.layers.{layer}."
_CHATGLM_NAMES = TensorNames(
    prefix="transformer.",
    embedding="{prefix}embedding.word_embeddings",
    input_layernorm=_CHATGLM_LAYER + "input_layernorm",
    qkv=(_CHATGLM_LAYER + "self_attention.query_key_value",),
    attention_out=_CHATGLM_LAYER + "self_attention.dense",
    pre_mlp_layernorm=_CHATGLM_LAYER + "post_attention_layernorm",
    gate_up=(_CHATGLM_LAYER + "mlp.dense_h_to_4h",),
    mlp_out=_CHATGLM_LAYER + "mlp.dense_4h_to_h",
    final_layernorm="{prefix}encoder.final_layernorm",
    lm_head="{prefix}output_layer",
    buffers=("rotary_pos_emb.inv_freq",),
)
_GLM_NAMES = dataclasses.replace(_LLAMA_NAMES, gate_up=(_LAYER + "mlp.gate_up_proj",))

FAMILIES: Registry[Family] = Registry("model_type")
for _family in (
    Family(name="llama", read_shape=_llama_shape, names=_LLAMA_NAMES),
    Family(name="mistral", read_shape=_mistral_shape, names=_LLAMA_NAMES),
    Family(name="qwen2", read_shape=_qwen2_shape, names=_LLAMA_NAMES),
    Family(name="glm", read_shape=_glm_shape, names=_GLM_NAMES),
    Family(name="chatglm", read_shape=_chatglm_shape, names=_CHATGLM_NAMES),
):
    FAMILIES.add(_family, _family.name)
