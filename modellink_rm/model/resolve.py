"""The shape of the model to build, from the weights and the flags."""

import dataclasses

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag_name
from modellink_rm.base.log import warn_once
from modellink_rm.config.model import ModelConfig, ModelOverrides
from modellink_rm.model.shape import ModelShape

_FIELDS = {field.name for field in dataclasses.fields(ModelShape)}
# Flags of the shape that only change numbers; the others must agree with the weights.
_NUMBER_FIELDS = tuple(field.name for field in dataclasses.fields(ModelOverrides) if field.name in _FIELDS)
_SHAPE_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(ModelConfig)
    if field.name in _FIELDS and field.name not in _NUMBER_FIELDS and field.default is None
)
# Flags that a model without weights needs; its vocabulary is the padded one.
_REQUIRED_FIELDS = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "max_position_embeddings",
    "padded_vocab_size",
)


def resolve_shape(
    config: ModelConfig, from_weights: ModelShape | None, *, source: str = "the weights"
) -> ModelShape:
    """The shape to build: that of the weights, or without weights that of the flags.

    Flags that only change numbers (norm epsilon, rotary base, maximum positions) override the weights, with
    a warning.

    Args:
        source: where `from_weights` was read, for messages ("config.json in DIR").

    Raises:
        UserError: a flag contradicts the weights, or without weights a flag is missing.
    """
    if from_weights is None:
        return _with_router_losses(config, _shape_from_flags(config), source="the flags")
    for name in _SHAPE_FIELDS:
        _check_agrees(name, getattr(config, name), getattr(from_weights, name), source)
    for name in ("add_qkv_bias", "use_glm_rope"):
        weights_name = "rotary_interleaved" if name == "use_glm_rope" else name
        if getattr(config, name) and not getattr(from_weights, weights_name):
            raise UserError(
                f"{flag_name(name)} contradicts {source}: a model of family {from_weights.family} with "
                f"{weights_name} false; leave the flag out or load other weights"
            )
    given = {name: getattr(config, name) for name in _NUMBER_FIELDS if getattr(config, name) is not None}
    for name, value in given.items():
        if value != getattr(from_weights, name):
            warn_once(f"{flag_name(name)} {value} wins over {getattr(from_weights, name)} of {source}")
    return _with_router_losses(config, dataclasses.replace(from_weights, **given), source=source)


def _with_router_losses(config: ModelConfig, shape: ModelShape, *, source: str) -> ModelShape:
    """The shape with the losses of its experts as the flags say, where they do.

    Raises:
        UserError: a flag is given for a model without experts.
    """
    names = {"aux_loss_coef": "router_aux_loss_coef", "z_loss_coef": "router_z_loss_coef"}
    given = {name: getattr(config, field) for name, field in names.items()}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return shape
    if shape.experts is None:
        flags = " and ".join(flag_name(names[name]) for name in given)
        raise UserError(f"{flags} needs a model with experts, and {source} describes one without")
    for name, value in given.items():
        before = getattr(shape.experts, name)
        if value != before:
            warn_once(f"{flag_name(names[name])} {value} wins over {before} of {source}")
    return dataclasses.replace(shape, experts=dataclasses.replace(shape.experts, **given))


def _check_agrees(name: str, given: float | None, expected: float, source: str) -> None:
    if given is not None and given != expected:
        raise UserError(
            f"{flag_name(name)} {given} contradicts {name} {expected} of {source}; "
            "leave the flag out or load other weights"
        )


def _shape_from_flags(config: ModelConfig) -> ModelShape:
    values = {name: getattr(config, name) for name in _REQUIRED_FIELDS}
    missing = [flag_name(name) for name, value in values.items() if value is None]
    if missing:
        raise UserError(f"a model without weights needs {' '.join(missing)}; give them, or --load weights")
    heads, hidden_size = values["num_attention_heads"], values["hidden_size"]
    if config.kv_channels is None and hidden_size % heads:
        raise UserError(
            f"--num-attention-heads {heads} does not divide --hidden-size {hidden_size}; give --kv-channels"
        )
    # Megatron's default for --group-query-attention alone is one group.
    num_query_groups = (config.num_query_groups or 1) if config.group_query_attention else heads
    return ModelShape(
        family="chatglm" if config.use_glm_rope else "llama",
        num_layers=values["num_layers"],
        hidden_size=hidden_size,
        ffn_hidden_size=values["ffn_hidden_size"],
        num_attention_heads=heads,
        num_query_groups=num_query_groups,
        kv_channels=config.kv_channels or hidden_size // heads,
        vocab_size=values["padded_vocab_size"],
        max_position_embeddings=values["max_position_embeddings"],
        norm_epsilon=config.norm_epsilon or 1e-5,
        rotary_base=config.rotary_base or 10000.0,
        rotary_percent=config.rotary_percent or (0.5 if config.use_glm_rope else 1.0),
        rotary_interleaved=config.use_glm_rope,
        add_qkv_bias=config.add_qkv_bias,
    )


def padded_vocab_size(config: ModelConfig, shape: ModelShape, tensor_parallel_size: int) -> int:
    """Rows of the embedding over all tensor-parallel ranks.

    Raises:
        UserError: --padded-vocab-size is below the weights' rows or cannot be split evenly.
    """
    if config.padded_vocab_size is None:
        multiple = config.make_vocab_size_divisible_by * tensor_parallel_size
        return -(-shape.vocab_size // multiple) * multiple
    if config.padded_vocab_size < shape.vocab_size:
        raise UserError(
            f"--padded-vocab-size {config.padded_vocab_size} is below the {shape.vocab_size} embedding rows "
            "of the weights; leave the flag out or raise it"
        )
    if config.padded_vocab_size % tensor_parallel_size:
        raise UserError(
            f"--tensor-model-parallel-size {tensor_parallel_size} does not divide --padded-vocab-size "
            f"{config.padded_vocab_size}"
        )
    return config.padded_vocab_size
