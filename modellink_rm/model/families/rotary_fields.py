"""Reading the rotary settings of a config.json, in the forms of transformers 4 and 5."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config
from modellink_rm.model.families.fields import check_values, numbers_of
from modellink_rm.model.rope import Rope, RopeScaling

# transformers' default of rope_theta, for files older than the field; Llama 2's has none.
_THETA = 10000.0
_COMMON_FIELDS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_ORIGINAL = "original_max_position_embeddings"
# What configs older than transformers' name "longrope" call it.
_OLD_NAMES = {"su": "longrope"}


def rope_of(config: Config, *, partial_factor: float = 1.0) -> Rope:
    """The rotary settings: `rope_parameters` of transformers 5, or rope_theta and rope_scaling before.

    Args:
        partial_factor: the share of a head that is rotated if the config does not say.

    Raises:
        UserError: a scaling that is not known, lacks a number or has one that is not known, or rotary
            settings by layer.
    """
    field = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"  # as transformers chooses
    parameters = config.get(field) or {}
    if not isinstance(parameters, Mapping):
        raise UserError(f"{field} must be an object, got {parameters!r}")
    settings = {**config, **{name: value for name, value in parameters.items() if value is not None}}
    numbers = {"rope_theta": _THETA, "partial_rotary_factor": partial_factor}
    numbers |= {name: settings[name] for name in numbers if settings.get(name) is not None}
    numbers = numbers_of({**config, **numbers}, dict.fromkeys(numbers, float))
    return Rope(
        theta=numbers["rope_theta"],
        partial_factor=numbers["partial_rotary_factor"],
        scaling=_scaling_of(config, field, parameters),
    )


def whole_rope(config: Config) -> Rope:
    """The rotary settings of a family that rotates whole heads."""
    rope = rope_of(config)
    check_values({"partial_rotary_factor": rope.partial_factor}, {"partial_rotary_factor": (1.0,)})
    return rope


def yarn_logit_factor(config: Config, rope: Rope) -> float:
    """What DeepSeek's families multiply the products of queries and keys by, for `mscale_all_dim` of yarn."""
    parameters = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if rope.scaling is None or not parameters.get("mscale_all_dim"):
        return 1.0
    return _yarn_magnitude(rope.scaling.factor, parameters["mscale_all_dim"]) ** 2


def _scaling_of(config: Config, field: str, parameters: Mapping[str, Any]) -> RopeScaling | None:
    """The scaling that `parameters` describe, None for the default."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    kind = _OLD_NAMES.get(kind, kind) if isinstance(kind, str) else kind
    reader, names = _KINDS.get(kind, (None, ())) if isinstance(kind, str) else (None, ())
    given = {name: value for name, value in parameters.items() if value is not None}
    unknown = set(given) - _COMMON_FIELDS - set(names)
    if unknown or (reader is None and kind != "default"):
        raise UserError(
            f"{field} {_short(parameters)} changes the model's numbers and is not supported: "
            + (f"{kind} with {', '.join(sorted(unknown))}" if unknown else f"rope_type {kind!r}")
            + f" is unknown; supported are default, {', '.join(_KINDS)}"
        )
    if reader is None:
        return None
    try:
        return reader({**config, **given, _ORIGINAL: _original_positions(config, given)})
    except UserError as error:
        raise UserError(f"{field} of kind {kind}: {error}") from None


def _original_positions(config: Config, parameters: Mapping[str, Any]) -> Any:
    """As transformers chooses them: a field of the config, of the scaling, or the model's positions."""
    for source in (config, parameters):
        if source.get(_ORIGINAL) is not None:
            return source[_ORIGINAL]
    return config.get("max_position_embeddings")


def _linear(settings: Config) -> RopeScaling:
    return RopeScaling(
        kind="linear", original_positions=_original(settings), factor=_number(settings, "factor")
    )


def _dynamic(settings: Config) -> RopeScaling:
    # It starts where the model's positions end; transformers reads no original_max_position_embeddings here.
    positions = numbers_of(settings, {"max_position_embeddings": int})["max_position_embeddings"]
    return RopeScaling(kind="dynamic", original_positions=positions, factor=_number(settings, "factor"))


def _llama3(settings: Config) -> RopeScaling:
    return RopeScaling(
        kind="llama3",
        original_positions=_original(settings),
        factor=_number(settings, "factor"),
        low_frequency_factor=_number(settings, "low_freq_factor"),
        high_frequency_factor=_number(settings, "high_freq_factor"),
    )


def _yarn(settings: Config) -> RopeScaling:
    original = _original(settings)
    factor = _factor(settings, original)
    mscales = [_number(settings, name, 0.0) for name in ("mscale", "mscale_all_dim")]
    if all(mscales):
        magnitude = _yarn_magnitude(factor, mscales[0]) / _yarn_magnitude(factor, mscales[1])
    else:
        magnitude = _yarn_magnitude(factor)
    truncate = settings.get("truncate", True)
    check_values({"truncate": truncate}, {"truncate": (True, False)})
    return RopeScaling(
        kind="yarn",
        original_positions=original,
        factor=factor,
        beta_fast=_number(settings, "beta_fast", 32.0),
        beta_slow=_number(settings, "beta_slow", 1.0),
        truncate=bool(truncate),
        attention_factor=_number(settings, "attention_factor", magnitude),
    )


def _yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _longrope(settings: Config) -> RopeScaling:
    original = _original(settings)
    if original < 2:
        raise UserError(f"{_ORIGINAL} must be at least 2, got {original}")
    factor = _factor(settings, original)
    magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return RopeScaling(
        kind="longrope",
        original_positions=original,
        factor=factor,
        short_factors=_numbers(settings, "short_factor"),
        long_factors=_numbers(settings, "long_factor"),
        attention_factor=_number(settings, "attention_factor", magnitude),
    )


def _number(settings: Config, name: str, default: float | None = None) -> float:
    """A number of the settings; required without a default."""
    if default is not None and settings.get(name) is None:
        return default
    return float(numbers_of(settings, {name: float})[name])


def _numbers(settings: Config, name: str) -> tuple[float, ...]:
    values = settings.get(name)
    if not isinstance(values, list | tuple) or not values:
        raise UserError(f"field '{name}' must be a list of numbers, got {_short(values)}")
    return tuple(_number({**settings, name: value}, name) for value in values)


def _original(settings: Config) -> int:
    return int(numbers_of(settings, {_ORIGINAL: int})[_ORIGINAL])


def _factor(settings: Config, original: int) -> float:
    """The factor, by default the ratio of the model's positions to the original ones."""
    positions = numbers_of(settings, {"max_position_embeddings": int})["max_position_embeddings"]
    return _number(settings, "factor", positions / original if original > 0 else 1.0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# The reader of each kind, and the fields that it reads beside the common ones.
_KINDS: dict[str, tuple[Callable[[Config], RopeScaling], tuple[str, ...]]] = {
    "linear": (_linear, ("factor",)),
    "dynamic": (_dynamic, ("factor",)),
    "yarn": (
        _yarn,
        (
            "factor",
            _ORIGINAL,
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
    "longrope": (_longrope, ("factor", _ORIGINAL, "attention_factor", "short_factor", "long_factor")),
    "llama3": (_llama3, ("factor", _ORIGINAL, "low_freq_factor", "high_freq_factor")),
}
