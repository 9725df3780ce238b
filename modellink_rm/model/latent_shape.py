"""The shape of latent attention, which the weights determine."""

import dataclasses

from modellink_rm.base.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentShape:
    """Attention whose keys and values are computed from one small vector of each token.

    DeepSeek-V2, arXiv 2405.04434, section 2.1. A head of queries or keys has rotated channels and plain ones;
    the rotated ones of keys are equal in all heads.

    Attributes:
        key_value_rank: size of the vector that keys and values are computed from.
        query_rank: size of the one for queries; None if they are computed from the hidden state.
        rotary_channels: rotated channels of a query or key head.
        plain_channels: its other channels.
        value_channels: size of a value head.
        norm_epsilon: of the norms of the vectors.
    """

    key_value_rank: int
    query_rank: int | None
    rotary_channels: int
    plain_channels: int
    value_channels: int
    norm_epsilon: float

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built.

        Raises:
            UserError: a size below one.
        """
        for name in ("key_value_rank", "query_rank", "rotary_channels", "plain_channels", "value_channels"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise UserError(f"{name} of latent attention must be at least 1, got {size}")

    @property
    def head_channels(self) -> int:
        """Size of a query or key head."""
        return self.rotary_channels + self.plain_channels
