"""Reading the sliding windows of a config.json."""

from collections.abc import Mapping, Sequence

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config
from modellink_rm.model.families.fields import check_values, numbers_of
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.rope import Rope
from modellink_rm.model.shape import MAX_LAYERS

SLIDING = "sliding_attention"
FULL = "full_attention"
_ORIGINAL = "original_max_position_embeddings"


def windows_of(config: Config, kinds: Sequence[str]) -> tuple[int | None, ...]:
    """The window of each layer, empty if no layer has one.

    Args:
        kinds: of each layer if the config's layer_types does not say.

    Raises:
        UserError: layer_types names other kinds of attention or other layers than the model's, or
            sliding_window is missing though a layer has one.
    """
    num_layers = _num_layers(config)
    kinds = kinds if config.get("layer_types") is None else config["layer_types"]
    is_list = isinstance(kinds, list | tuple) and all(kind in (SLIDING, FULL) for kind in kinds)
    if not is_list or len(kinds) != num_layers:
        raise UserError(
            f"layer_types must name {SLIDING} or {FULL} for each of {num_layers} layers, got "
            f"{repr(kinds)[:200]}"
        )
    if SLIDING not in kinds:
        return ()
    window = numbers_of(config, {"sliding_window": int})["sliding_window"]
    if window < 1:
        raise UserError(f"sliding_window must be at least 1, got {window}")
    return tuple(window if kind == SLIDING else None for kind in kinds)


def one_window(config: Config) -> list[str]:
    """The kinds of a model whose layers all have the window, if it has one."""
    num_layers = _num_layers(config)
    return [FULL if config.get("sliding_window") is None else SLIDING] * num_layers


def every_nth_full(config: Config, nth: int) -> list[str]:
    """The kinds of a model in which only every nth layer, nth at least 1, has no window."""
    num_layers = _num_layers(config)
    return [SLIDING if number % nth else FULL for number in range(1, num_layers + 1)]


def qwen_windows(config: Config) -> tuple[int | None, ...]:
    """The windows of Qwen models: with use_sliding_window, of the layers from max_window_layers on."""
    check_values(config, {"use_sliding_window": (None, False, True)})
    if not config.get("use_sliding_window"):
        config = {**config, "sliding_window": None}  # transformers drops it
    kinds = one_window(config)
    if SLIDING in kinds:
        num_full = numbers_of(config, {"max_window_layers": int})["max_window_layers"]
        kinds = [SLIDING if number >= num_full else FULL for number in range(len(kinds))]
    return windows_of(config, kinds)


def ropes_by_kind(config: Config, *, local_theta: float) -> tuple[Rope, float | None]:
    """Rotary settings of layers without a window, and the base of layers with one if that differs.

    transformers 5 writes `rope_parameters` by kind of layer; before, they were those of the layers without a
    window, and the others had a base of their own and no scaling.

    Args:
        local_theta: base of the layers with a window if the config does not give settings by kind.
    """
    config = _without_defaults(config)
    _check_read_by_kind(config)
    parameters = config.get("rope_parameters")
    if parameters:
        rope = whole_rope({**config, "rope_parameters": parameters.get(FULL)})
        local = whole_rope({**config, "rope_theta": local_theta, "rope_parameters": parameters.get(SLIDING)})
        if local.scaling is not None:
            raise UserError(f"rope_parameters of {SLIDING} have a scaling, which is not supported")
        local_theta = local.theta
    else:
        rope = whole_rope(config)
    if rope.scaling is not None and not rope.scaling.truncate:
        raise UserError(
            "truncate False in rope_scaling or rope_parameters of a model with settings by kind of layer is "
            "not read by transformers"
        )
    is_same = rope.scaling is None and rope.theta == local_theta
    return rope, None if is_same else local_theta


def _without_defaults(config: Config) -> Config:
    """The config without what early versions of transformers 5 wrote for all layers, if it is the default.

    Later ones pass over it, and keep it beside the settings by kind.
    """
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return config
    default = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    by_kind = {name: value for name, value in parameters.items() if default.get(name, ()) != value}
    return {**config, "rope_parameters": by_kind}


def _check_read_by_kind(config: Config) -> None:
    """The rotary settings stand where transformers reads those of a family with settings by kind of layer.

    Raises:
        UserError: settings that it passes over.
    """
    check_values(config, {_ORIGINAL: (None,)})  # that of each kind is read alone
    parameters = config.get("rope_parameters")
    if parameters and (not isinstance(parameters, Mapping) or not parameters.keys() <= {SLIDING, FULL}):
        raise UserError(f"rope_parameters must have {SLIDING} and {FULL} alone, got {parameters!r:.200}")
    scaling = config.get("rope_scaling")
    if isinstance(scaling, Mapping) and scaling and "rope_type" not in scaling:
        raise UserError(
            f"rope_scaling {dict(scaling)!r} must name its rope_type; transformers reads no other"
        )


def _num_layers(config: Config) -> int:
    """num_hidden_layers, of which a list can be made."""
    num_layers = int(numbers_of(config, {"num_hidden_layers": int})["num_hidden_layers"])
    if num_layers > MAX_LAYERS:
        raise UserError(f"num_hidden_layers must be at most {MAX_LAYERS}, got {num_layers}")
    return num_layers
