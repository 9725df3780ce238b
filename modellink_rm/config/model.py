"""Flags of the model's shape."""

import dataclasses

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag, flag_name

_POSITIVE_FIELDS = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "rotary_percent",
    "max_position_embeddings",
    "norm_epsilon",
    "rotary_base",
    "padded_vocab_size",
    "make_vocab_size_divisible_by",
)


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
