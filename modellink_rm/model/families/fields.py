"""Functions that read fields of a config.json and report wrong ones."""

from collections.abc import Mapping
from typing import Any, Literal

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config
from modellink_rm.model.rope import Rope
from modellink_rm.model.shape import ModelShape

_TRANSFORMERS_FIELDS = {
    "num_hidden_layers": int,
    "hidden_size": int,
    "intermediate_size": int,
    "num_attention_heads": int,
    "vocab_size": int,
    "max_position_embeddings": int,
    "rms_norm_eps": float,
}
_TOO_LARGE = 2**63  # neither torch nor a float takes any whole number
SILU: Mapping[str, tuple[str, ...]] = {"hidden_act": ("silu", "swish")}


def check_values(config: Config, supported: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse the first field whose value is given and not among the supported ones."""
    for name, values in supported.items():
        if name in config and config[name] not in values:
            choices = " or ".join(repr(value) for value in values)
            raise UserError(
                f"{name} {config[name]!r} changes the model's numbers and is not supported; only {choices} is"
            )


def numbers_of(config: Config, names: Mapping[str, type]) -> dict[str, Any]:
    """The values of required fields, each an int or a float as `names` says.

    Raises:
        UserError: naming all missing fields, or one of a wrong type or too large.
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
        if isinstance(value, int) and abs(value) >= _TOO_LARGE:
            raise UserError(
                f"field '{name}' must be below {_TOO_LARGE}, got one of {value.bit_length()} bits"
            )
    return {name: kind(config[name]) for name, kind in names.items()}


def positive_numbers_of(config: Config, names: Mapping[str, type]) -> dict[str, Any]:
    """`numbers_of`, all of which must be above 0."""
    numbers = numbers_of(config, names)
    for name, number in numbers.items():
        if not number > 0:
            raise UserError(f"field '{name}' must be above 0, got {number}")
    return numbers


def transformers_shape(
    config: Config,
    *,
    rope: Rope,
    num_query_groups: int,
    add_qkv_bias: bool,
    rotary_interleaved: bool = False,
    qk_norm: Literal["", "head", "all"] = "",
    activations: Mapping[str, tuple[str, ...]] = SILU,
) -> ModelShape:
    """The shape, from the fields that the Llama-like families of transformers share.

    Args:
        activations: the field that names the activation, and the names of the family's.

    Raises:
        UserError: a field is missing, or has a value that is not supported.
    """
    check_values(config, {**activations, "mlp_bias": (None, False)})
    numbers = numbers_of(config, _TRANSFORMERS_FIELDS)
    heads, hidden_size = numbers["num_attention_heads"], numbers["hidden_size"]
    if config.get("head_dim") is not None:
        kv_channels = numbers_of(config, {"head_dim": int})["head_dim"]
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
        rope_scaling=rope.scaling,
        qk_norm=qk_norm,
    )


def key_value_heads(config: Config, *, is_required: bool = True) -> int:
    """num_key_value_heads.

    Args:
        is_required: False where each head has its own keys if the field is missing. transformers' default
            differs between families.
    """
    is_given = config.get("num_key_value_heads") is not None
    name = "num_key_value_heads" if is_given or is_required else "num_attention_heads"
    return int(numbers_of(config, {name: int})[name])
