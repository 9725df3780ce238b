"""The outputs of a model of attributes, and the score that weights make of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.registry import unknown_name_message


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What each output of a model says, and how much it counts in the score.

    Attributes:
        names: in the order of the outputs; empty where the one output is the score.
        weights: of each output.
    """

    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = (1.0,)

    def score(self, outputs: Sequence[float]) -> float:
        """The weighted sum of a response's outputs; an output of weight 0 is left out. NaN where none is."""
        pairs = zip(outputs, self.weights, strict=True)
        try:
            return math.fsum(value * weight for value, weight in pairs if weight)
        except (ValueError, OverflowError):  # of infinities of both signs, or beyond the largest number
            return math.nan

    def named(self, outputs: Sequence[float]) -> dict[str, float]:
        """The outputs of a response by name; {} where there are no names."""
        return dict(zip(self.names, outputs, strict=True)) if self.names else {}

    def __str__(self) -> str:
        """As --attribute-weights takes them."""
        named = zip(self.names, self.weights, strict=True)
        return ",".join(f"{name}={weight:g}" for name, weight in named if weight)


def weighted_attributes(names: tuple[str, ...], given: str | None, *, load: str) -> Attributes:
    """The attributes of a model with the weights of --attribute-weights.

    By default the first attribute is the score. Attributes that are not given weigh 0.

    Args:
        given: as name=weight with commas between them; None for the default.
        load: --load, for messages.

    Raises:
        UserError: they are no weights, or not of these attributes.
    """
    if not names:
        if given is not None:
            raise UserError(f"--attribute-weights: {load} gives one score, not ratings of attributes")
        return Attributes()
    if len(set(names)) < len(names):
        raise UserError(f"{load} has two attributes of one name: {', '.join(names)}; name them apart")
    if given is None:
        return Attributes(names=names, weights=(1.0, *[0.0] * (len(names) - 1)))
    weights = dict.fromkeys(names, 0.0)
    seen: set[str] = set()
    for word in given.split(","):
        name, _, number = (part.strip() for part in word.partition("="))
        if name not in weights:
            raise UserError(unknown_name_message("attribute of --attribute-weights", name, names))
        if name in seen:
            raise UserError(f"--attribute-weights {given}: {name} is there twice")
        seen.add(name)
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = math.nan
        if not math.isfinite(weights[name]):
            raise UserError(
                f"--attribute-weights takes NAME=NUMBER with commas between them, got {word.strip()!r}"
            )
    if not any(weights.values()):
        raise UserError(f"--attribute-weights {given}: every weight is 0")
    return Attributes(names=names, weights=tuple(weights.values()))
