"""Flags of the commands that choose among scored rows."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag
from modellink_rm.config.limits import Limits


@dataclass(frozen=True, kw_only=True)
class RowsConfig(Limits):
    """Rows in, rows out."""

    input: tuple[str, ...] = flag(help="output of score: files, directories or globs", metavar="PATH")
    output: str | None = flag(
        None,
        help="file to write: a table if its name ends in .parquet, else JSON lines; by default "
        "standard output",
    )


@dataclass(frozen=True, kw_only=True)
class ListsConfig(RowsConfig):
    """Responses and their scores.

    A row has a list of responses with `scores`, or one response with a `score`; rows of one prompt, with the
    same `system` and `tools` if they have such fields, follow one another.
    """

    prompt: str = flag("prompt", help="field of the prompt")
    responses: str = flag("responses", help="field of a list of responses")
    response: str = flag("response", help="field of one response")


@dataclass(frozen=True, kw_only=True)
class BestOfNConfig(ListsConfig):
    """Responses and their scores."""

    n: int | None = flag(
        None, minimum=1, help="choose among the first N responses of a prompt; by default all"
    )
    rank: bool = flag(False, help="write all of them, best first, instead of the best one")


@dataclass(frozen=True, kw_only=True)
class MakePairsConfig(ListsConfig):
    """Responses and their scores."""

    pairs: str = flag(
        "best-worst",
        help="of a prompt: the best and the worst response; the best and each other one; or all pairs",
        choices=("best-worst", "best-others", "all"),
    )
    min_margin: float = flag(
        0.0, minimum=0, help="least difference of a pair's scores; equal scores make no pair"
    )
    max_margin: float | None = flag(None, above=0, help="largest difference of a pair's scores")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_margin is not None and self.max_margin < self.min_margin:
            raise UserError(f"--max-margin {self.max_margin} is below --min-margin {self.min_margin}")


@dataclass(frozen=True, kw_only=True)
class FilterConfig(RowsConfig):
    """What is kept.

    The score of a row is that of its response, of the best of several, or of the chosen one of a pair; its
    gap is the margin of a pair, or the best score of several minus the worst.
    """

    min_score: float | None = flag(None, help="least score of a row")
    max_score: float | None = flag(None, help="largest score of a row")
    min_gap: float | None = flag(None, help="least gap of a row; a row of one response has none")
    max_gap: float | None = flag(None, help="largest gap of a row")
    quantiles: str | None = flag(
        None,
        metavar="LOW,HIGH",
        help="keep rows whose score lies between these quantiles of all rows: 0.75,1 for the best quarter",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = (self.min_score, self.max_score, self.min_gap, self.max_gap, self.quantiles)
        if all(bound is None for bound in bounds):
            raise UserError(
                "nothing to filter by: give --min-score, --max-score, --min-gap, --max-gap or --quantiles"
            )
        _ = self.quantile_bounds

    @property
    def quantile_bounds(self) -> tuple[float, float] | None:
        """--quantiles as numbers.

        Raises:
            UserError: they are no two numbers from 0 to 1 in order.
        """
        if self.quantiles is None:
            return None
        try:
            low, high = map(float, self.quantiles.split(","))
        except ValueError:
            low, high = -1.0, -1.0
        if not 0 <= low < high <= 1:
            raise UserError(f"--quantiles takes LOW,HIGH with 0 <= LOW < HIGH <= 1, got {self.quantiles!r}")
        return low, high
