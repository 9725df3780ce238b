"""Flags of the model: its shape, and settings that config.json may leave open."""

import dataclasses

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag, flag_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOverrides:
    """Model.

    These override the weights' config.json, or are not in it; None means not given.
    """

    post_layer_norm: bool = flag(True, help="read the score before the final norm, not after it")
    max_position_embeddings: int | None = flag(
        None, above=0, help="longest sequence that the model supports, in tokens"
    )
    norm_epsilon: float | None = flag(
        None, above=0, level="rare", help="epsilon of the norms; overrides the weights' config"
    )
    rotary_base: float | None = flag(
        None, above=0, level="rare", help="base of the rotary angles; overrides the weights' config"
    )
    head_bias: bool = flag(
        False, level="rare", help="give the reward head a bias even where the loaded one has none"
    )
    init_method_std: float = flag(
        0.02, minimum=0, level="rare", help="standard deviation of weights that are not loaded"
    )

    def __post_init__(self) -> None:
        """Check values that need no weights.

        Raises:
            UserError: a value out of range.
        """
        check_minimums(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelOverrides):
    """Model.

    Without weights, the shape flags define the model; with weights they are optional, and must agree.
    """

    num_layers: int | None = flag(None, above=0, level="rare", help="number of transformer layers")
    hidden_size: int | None = flag(None, above=0, level="rare", help="size of a hidden state")
    ffn_hidden_size: int | None = flag(None, above=0, level="rare", help="size of the MLP's inner state")
    num_attention_heads: int | None = flag(None, above=0, level="rare", help="number of query heads")
    group_query_attention: bool = flag(
        False, level="rare", help="query heads share key/value heads in groups"
    )
    num_query_groups: int | None = flag(
        None, above=0, level="rare", help="number of key/value heads, with --group-query-attention"
    )
    kv_channels: int | None = flag(
        None, above=0, level="rare", help="size of one head; without weights hidden size / heads"
    )
    padded_vocab_size: int | None = flag(
        None, above=0, level="rare", help="rows of the embedding; rows beyond the weights' are 0"
    )
    make_vocab_size_divisible_by: int = flag(
        128,
        above=0,
        level="rare",
        help="without --padded-vocab-size, pad the embedding to a multiple of this times tensor parallel",
    )
    add_qkv_bias: bool = flag(False, level="rare", help="the qkv projection has a bias; without weights only")
    use_glm_rope: bool = flag(
        False, level="rare", help="GLM's rotary positions: interleaved, over half of each head"
    )
    rotary_percent: float | None = flag(
        None, above=0, level="rare", help="share of each head that is rotated"
    )
    router_aux_loss_coef: float | None = flag(
        None,
        level="rare",
        help="weight of the experts' load-balancing loss; by default as config.json says, where "
        "output_router_logits is true",
    )
    router_z_loss_coef: float | None = flag(
        None, level="rare", help="weight of the loss of large router logits; by default none"
    )
    attention_dropout: float = flag(0.0, level="rare", help="dropout of attention weights")
    hidden_dropout: float = flag(0.0, level="rare", help="dropout of hidden states")
    head_dropout: float = flag(
        0.0, level="rare", help="dropout of the hidden states that the reward head reads, in training"
    )
    disable_bias_linear: bool = flag(False, level="hidden", help="linear layers have no bias: always so here")
    position_embedding_type: str = flag("rope", choices=("rope",), level="hidden", help="kind of positions")
    normalization: str = flag("RMSNorm", choices=("RMSNorm",), level="hidden", help="kind of norm")
    swiglu: bool = flag(False, level="hidden", help="the MLP is a SwiGLU: always so here")

    def __post_init__(self) -> None:
        """Check values that need no weights.

        Raises:
            UserError: a value out of range, or query groups without grouped queries.
        """
        super().__post_init__()
        for name in ("attention_dropout", "hidden_dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{flag_name(name)} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("router_aux_loss_coef", "router_z_loss_coef"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"{flag_name(name)} must be a number from 0, got {value}")
        if not self.group_query_attention and self.num_query_groups not in (None, self.num_attention_heads):
            raise UserError(
                f"--num-query-groups {self.num_query_groups} means nothing without --group-query-attention; "
                "add that flag or leave this one out"
            )
