"""python -m modellink_rm filter: the scored rows within bounds of score, gap or quantile."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import info, set_up_logging
from modellink_rm.commands.output import prepare_rows
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.selection import FilterConfig
from modellink_rm.inference.scored_rows import Counts, Row, gap_of, rows_of, score_of, write_rows
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.records import Record, input_files, read_records


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when rows are written.

    Raises:
        UserError: the input cannot be read, or no row is left.
    """
    set_up_logging()
    parsed = parse_flags(
        argv,
        [FilterConfig],
        prog="python -m modellink_rm filter",
        description="Keep the scored rows within bounds.",
        usage="--input SCORES --min-score X [--output FILE]",
        example="python -m modellink_rm filter --input scores.jsonl --quantiles 0.75,1 --output best.jsonl",
    )
    config: FilterConfig = parsed[FilterConfig]
    prepare_rows(config.output, inputs=input_files(config.input))
    bounds = _score_bounds(config)
    counts = Counts()
    rows = rows_of(read_records(config.input, config), counts)
    write_rows(_kept(rows, config, bounds, counts), config.output, counts)
    return 0


def _score_bounds(config: FilterConfig) -> tuple[float, float]:
    """The scores at --quantiles, of a first reading of the input; without it no bounds.

    Raises:
        UserError: no row has a score.
    """
    quantiles = config.quantile_bounds
    if quantiles is None:
        return -np.inf, np.inf
    rows = rows_of(read_records(config.input, config), Counts())
    scores = np.fromiter((score_of(row.fields) or 0.0 for row in rows), dtype=np.float64)
    if not len(scores):
        raise UserError(f"--input {' '.join(config.input)} holds no row with a score")
    scores.sort()
    low, high = (_quantile(scores, share) for share in quantiles)
    info(f"quantiles {config.quantiles} of {len(scores):,} scores: {low:.6g} to {high:.6g}")
    return low, high


def _quantile(ordered: Floats, share: float) -> float:
    """The quantile of scores in ascending order, between two of them in proportion.

    As numpy.quantile, which overflows between the largest numbers of either sign.
    """
    place = share * (len(ordered) - 1)
    low, high = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
    weight = place - math.floor(place)
    return min(max(low * (1 - weight) + high * weight, low), high)


def _kept(
    rows: Iterator[Record], config: FilterConfig, bounds: tuple[float, float], counts: Counts
) -> Iterator[Row]:
    for row in rows:
        score, gap = score_of(row.fields), gap_of(row.fields)
        assert score is not None
        reason = _reason(score, gap, config, bounds)
        if reason is None:
            yield row.fields
        else:
            counts.dropped[reason] += 1


def _reason(score: float, gap: float | None, config: FilterConfig, bounds: tuple[float, float]) -> str | None:
    """Why a row is dropped; None if it is kept."""
    if not bounds[0] <= score <= bounds[1]:
        return f"score outside --quantiles {config.quantiles}"
    if config.min_score is not None and score < config.min_score:
        return f"score below --min-score {config.min_score:g}"
    if config.max_score is not None and score > config.max_score:
        return f"score above --max-score {config.max_score:g}"
    if gap is None:
        return None if config.min_gap is None and config.max_gap is None else "one response: it has no gap"
    if config.min_gap is not None and gap < config.min_gap:
        return f"gap below --min-gap {config.min_gap:g}"
    if config.max_gap is not None and gap > config.max_gap:
        return f"gap above --max-gap {config.max_gap:g}"
    return None


COMMANDS.add(Command(summary="keep scored rows by score, gap or quantile", main=main), "filter")
