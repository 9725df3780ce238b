"""Settings of rotary angles, and their scaling, by which models read more tokens than at first."""

import dataclasses
from typing import Literal

from modellink_rm.base.errors import UserError

Kind = Literal["linear", "dynamic", "yarn", "longrope", "llama3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the frequencies of rotary angles differ from base^(-2i/d) (transformers 5, modeling_rope_utils.py).

    Attributes:
        kind: "linear" divides all frequencies by `factor`; "llama3" (Llama 3.1) the low ones, "yarn" (Peng et
            al. 2023, arXiv 2309.00071) those that turn seldom; "longrope" (Ding et al. 2024, arXiv
            2402.13753) divides each by a factor of its own; "dynamic" raises the base for sequences longer
            than `original_positions`.
        original_positions: tokens of the sequences that the model was first trained on.
        low_frequency_factor: of llama3: frequencies with fewer turns than this in `original_positions` are
            divided by `factor`.
        high_frequency_factor: of llama3: frequencies with more turns than this are left as they are.
        beta_fast: of yarn, as `high_frequency_factor`.
        beta_slow: of yarn, as `low_frequency_factor`.
        truncate: of yarn: whether these bounds are rounded to whole channels.
        short_factors: of longrope: one for each frequency, up to `original_positions` tokens.
        long_factors: of longrope: those of longer sequences.
        attention_factor: of yarn and longrope: cosine and sine are multiplied by it.
    """

    kind: Kind
    original_positions: int
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that give no frequencies.

        Raises:
            UserError: a number that is not above 0, or bounds of llama3 that are not in order.
        """
        numbers = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("kind", "truncate", "short_factors", "long_factors")
        }
        factors = (*self.short_factors, *self.long_factors)
        wrong = [factor for factor in factors if not 0 < factor < float("inf")]  # min() would pass a NaN over
        numbers |= {"factors": wrong[0] if wrong else 1.0}
        for name, number in numbers.items():
            if not 0 < number < float("inf"):
                raise UserError(f"{name} of rope_scaling must be above 0, got {number}")
        if self.kind == "llama3" and self.low_frequency_factor >= self.high_frequency_factor:
            raise UserError(
                f"high_freq_factor {self.high_frequency_factor:g} of rope_scaling must be above "
                f"low_freq_factor {self.low_frequency_factor:g}"
            )

    @property
    def depends_on_length(self) -> bool:
        """Whether a sequence of more than `original_positions` tokens has other angles from its start."""
        return self.kind in ("dynamic", "longrope")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary settings of a config.json.

    Attributes:
        theta: base of the angles.
        partial_factor: the share of each head that is rotated.
        scaling: of the frequencies; None if they are base^(-2i/d).
    """

    theta: float
    partial_factor: float = 1.0
    scaling: RopeScaling | None = None
