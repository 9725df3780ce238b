"""Flags of the model's shape, and how they meet what the weights say."""

import dataclasses

from modellink_rm.config.shape import ModelShape
from modellink_rm.errors import UserError
from modellink_rm.flags import flag, flag_name
from modellink_rm.log import warn_once

# Flags that must equal what the weights say, by field; the others of the shape only change numbers.
_SHAPE_FIELDS = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "rotary_percent",
)
_NUMBER_FIELDS = ("max_position_embeddings", "norm_epsilon", "rotary_base")
# What a model without weights cannot do without; its vocabulary is the padded one.
_REQUIRED_FIELDS = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "max_position_embeddings",
    "padded_vocab_size",
)
_POSITIVE_FIELDS = (*_SHAPE_FIELDS, *_NUMBER_FIELDS, "padded_vocab_size", "make_vocab_size_divisible_by")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Model.

    Shape flags may be left out where the weights' config.json gives them; None means not given.
    """

    num_layers: int | None = flag(None, help="number of transformer layers")
    hidden_size: int | None = flag(None, help="size of a hidden state")
    ffn_hidden_size: int | None = flag(None, help="size of the MLP's inner state")
    num_attention_heads: int | None = flag(None, help="number of query heads")
    group_query_attention: bool = flag(False, help="query heads share key/value heads in groups")
    num_query_groups: int | None = flag(None, help="number of key/value heads, with --group-query-attention")
    kv_channels: int | None = flag(None, help="size of one head; without weights hidden size / heads")
    max_position_embeddings: int | None = flag(None, help="longest sequence the model is made for, in tokens")
    padded_vocab_size: int | None = flag(None, help="rows of the embedding; rows beyond the weights' are 0")
    make_vocab_size_divisible_by: int = flag(
        128, help="without --padded-vocab-size, pad the embedding to a multiple of this times tensor parallel"
    )
    disable_bias_linear: bool = flag(False, help="linear layers have no bias: always so here")
    add_qkv_bias: bool = flag(False, help="the qkv projection has a bias; without weights only")
    position_embedding_type: str = flag("rope", choices=("rope",), help="kind of positions")
    use_glm_rope: bool = flag(False, help="GLM's rotary positions: interleaved, over half of each head")
    rotary_percent: float | None = flag(None, help="part of each head that is rotated")
    rotary_base: float | None = flag(None, help="base of the rotary angles; wins over the weights' config")
    normalization: str = flag("RMSNorm", choices=("RMSNorm",), help="kind of norm")
    norm_epsilon: float | None = flag(None, help="epsilon of the norms; wins over the weights' config")
    swiglu: bool = flag(False, help="the MLP is a SwiGLU: always so here")
    post_layer_norm: bool = flag(True, help="read the score before the final norm, not after it")
    head_bias: bool = flag(False, help="give the reward head a bias even where the loaded one has none")
    attention_dropout: float = flag(0.0, help="dropout of attention weights")
    hidden_dropout: float = flag(0.0, help="dropout of hidden states")
    init_method_std: float = flag(0.02, help="standard deviation of weights that are not loaded")

    def __post_init__(self) -> None:
        """Check values that need no weights.

        Raises:
            UserError: a value out of range, or query groups without grouped queries.
        """
        for name in _POSITIVE_FIELDS:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{flag_name(name)} must be above 0, got {value}")
        for name in ("attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{flag_name(name)} must lie in [0, 1), got {getattr(self, name)}")
        if not self.init_method_std >= 0:
            raise UserError(f"--init-method-std must not be negative, got {self.init_method_std}")
        if not self.group_query_attention and self.num_query_groups not in (None, self.num_attention_heads):
            raise UserError(
                f"--num-query-groups {self.num_query_groups} means nothing without --group-query-attention; "
                "add that flag or leave this one out"
            )


def resolve_shape(
    config: ModelConfig, from_weights: ModelShape | None, *, source: str = "the weights"
) -> ModelShape:
    """The shape to build: the weights' where there are any, else the flags'.

    Flags that only change numbers (norm epsilon, rotary base, maximum positions) win, with a warning.

    Args:
        source: where `from_weights` was read, as an error calls it ("config.json in DIR").

    Raises:
        UserError: a flag contradicts the weights, or without weights a flag is missing.
    """
    if from_weights is None:
        return _shape_from_flags(config)
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
    return dataclasses.replace(from_weights, **given)


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
