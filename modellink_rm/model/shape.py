"""The shape of a reward model, which the weights determine."""

import dataclasses
import sys
from typing import Literal

from modellink_rm.base.errors import UserError
from modellink_rm.experts.shape import Experts
from modellink_rm.model.latent_shape import LatentShape
from modellink_rm.model.rope import RopeScaling

# Far above any model's: one more digit in a damaged config.json would fill the memory.
MAX_LAYERS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The shape of a decoder with RMSNorm, SwiGLU and rotary positions, without biases except qkv's.

    Attributes:
        family: a name of `modellink_rm.model.families.FAMILIES` (config.json's model_type).
        ffn_hidden_size: rows of the gate, and of the up projection, of a layer without experts.
        num_query_groups: key/value heads; equal to `num_attention_heads` without grouped queries.
        kv_channels: size of one head; with latent attention, of queries and keys.
        vocab_size: rows of the embedding in the weights, before any padding.
        rotary_percent: the share of each head that is rotated.
        rotary_interleaved: channel pairs are (0, 1), (2, 3), ... as in GLM, not (0, d/2), (1, d/2 + 1), ...
        rope_scaling: how the frequencies of rotary angles differ from base^(-2i/d).
        qk_norm: queries and keys are normed before the rotation: "head" each head on its own, "all" over the
            channels of all heads together, "" not at all.
        windows: of each layer, the number of tokens that a token sees at most, including itself, or None if
            it sees all earlier ones; empty if no layer has a window.
        attention_softcap: a logit x of attention becomes softcap * tanh(x / softcap); None for none.
        softmax_scale: factor of the products of queries and keys; None for kv_channels^(-1/2).
        attention_output_bias: the output projection of attention has a bias.
        attention_sinks: each head has a learned logit that takes a share of its weights.
        local_rotary_base: of layers with a window, whose angles are not scaled; None if their angles are
            those of the other layers.
        experts: in place of the MLP in some layers or all; None for none.
        latent: of attention whose keys and values come from a small vector; None for the ordinary one.
    """

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    vocab_size: int
    max_position_embeddings: int
    norm_epsilon: float
    rotary_base: float
    rotary_percent: float
    rotary_interleaved: bool
    add_qkv_bias: bool
    rope_scaling: RopeScaling | None = None
    qk_norm: Literal["", "head", "all"] = ""
    windows: tuple[int | None, ...] = ()
    attention_softcap: float | None = None
    softmax_scale: float | None = None
    attention_output_bias: bool = False
    attention_sinks: bool = False
    local_rotary_base: float | None = None
    experts: Experts | None = None
    latent: LatentShape | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            UserError: a size below one, too many layers, query groups that do not divide the heads, or an odd
                number of rotated channels.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and value < 1:
                raise UserError(f"{field.name} of a model must be at least 1, got {value}")
        if self.num_layers > MAX_LAYERS:
            raise UserError(f"num_layers of a model must be at most {MAX_LAYERS}, got {self.num_layers}")
        if self.num_attention_heads % self.num_query_groups:
            raise UserError(
                f"num_query_groups {self.num_query_groups} does not divide "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if not 0 <= self.norm_epsilon < float("inf"):
            raise UserError(f"the norm epsilon of a model must be a number from 0, got {self.norm_epsilon}")
        if not 0 < self.rotary_base < float("inf"):
            raise UserError(f"the rotary base of a model must be above 0, got {self.rotary_base}")
        if not 0 < self.rotary_percent <= 1:
            raise UserError(f"rotary_percent of a model must lie in (0, 1], got {self.rotary_percent}")
        self._check_attention()
        if self.rotary_channels < 2 or self.rotary_channels % 2:
            raise UserError(
                f"the rotated part of a head must be an even number of channels, got "
                f"{self.rotary_channels} = int(kv_channels {self.kv_channels} * rotary_percent "
                f"{self.rotary_percent})"
            )
        self._check_scaling()

    def _check_scaling(self) -> None:
        scaling, num_frequencies = self.rope_scaling, self.rotary_channels // 2
        if scaling is None:
            return
        if scaling.kind == "longrope":
            for factors in (scaling.short_factors, scaling.long_factors):
                if len(factors) != num_frequencies:
                    raise UserError(
                        f"rope_scaling has {len(factors)} factors for {num_frequencies} frequencies of a head"
                    )
        if scaling.kind == "yarn" and self.rotary_base == 1:
            raise UserError("rope_scaling of kind yarn needs a rotary base other than 1")
        if scaling.kind == "dynamic" and num_frequencies < 2:
            raise UserError("rope_scaling of kind dynamic needs heads of more than 2 rotated channels")

    def _check_attention(self) -> None:
        if self.windows and len(self.windows) != self.num_layers:
            raise UserError(f"a model of {self.num_layers} layers has {len(self.windows)} windows")
        if min((window for window in self.windows if window is not None), default=1) < 1:
            raise UserError(f"the windows of a model must be at least 1, got {self.windows}")
        for name in ("attention_softcap", "softmax_scale", "local_rotary_base"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name} of a model must be above 0, got {value}")

    @property
    def rotary_channels(self) -> int:
        """Channels of each head that are rotated."""
        if self.latent is not None:
            return self.latent.rotary_channels
        return int(self.kv_channels * self.rotary_percent)

    @property
    def longest_with_equal_angles(self) -> int:
        """Tokens up to which the rotary angles of a sequence do not depend on its length."""
        scaling = self.rope_scaling
        if scaling is None or not scaling.depends_on_length:
            return sys.maxsize
        return scaling.original_positions

    @property
    def of_local_layers(self) -> "ModelShape | None":
        """The shape with the rotary settings of the layers with a window; None if these are not their own."""
        if self.local_rotary_base is None:
            return None
        return dataclasses.replace(
            self, rotary_base=self.local_rotary_base, rope_scaling=None, local_rotary_base=None
        )

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_attention_heads // self.num_query_groups

    def is_sparse(self, layer: int) -> bool:
        """Whether layer `layer`, from 0, has experts."""
        return self.experts is not None and layer not in self.experts.dense_layers

    @property
    def has_expert_biases(self) -> bool:
        """Whether routers and experts have biases."""
        return self.experts is not None and self.experts.has_biases

    @property
    def num_sparse_layers(self) -> int:
        """Layers that have experts."""
        return sum(map(self.is_sparse, range(self.num_layers)))
