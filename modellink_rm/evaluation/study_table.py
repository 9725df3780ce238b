"""A study as text for a terminal of 100 columns, and as JSON."""

import dataclasses
import json
from collections.abc import Iterator

from modellink_rm.evaluation.table import aligned
from modellink_rm.metrics.bootstrap import Estimate
from modellink_rm.report.answer_sets import PolicyComparison, Study
from modellink_rm.version import __version__

FORMAT_VERSION = 1


def study_lines(study: Study) -> Iterator[str]:
    """The policies, then the comparisons."""
    yield from aligned(
        [
            "set, policy",
            "answers",
            "score",
            "95% interval",
            study.unit,
            "ended",
            "below",
            "above",
            "length",
        ],
        [
            [
                f"{one.name}, {one.policy}",
                f"{one.num_answers:,}",
                f"{one.score.value:.3f}",
                _interval(one.score, ".3f"),
                f"{one.length:.1f}",
                *map(_share, (one.ended, one.below, one.above, one.explained_by_length)),
            ]
            for one in study.summaries
        ],
    )
    if study.seen is not None:
        low, high = study.seen
        yield f"below, above: outside {low:.3f} to {high:.3f}, the scores of the reward model's training data"
    yield "length: the share of the variance of scores that length explains"
    yield ""
    yield from aligned(
        ["set, policy against policy", "win rate", "95% interval", "score", "at equal length", "longer"],
        [
            [
                f"{one.name}, {one.policy} against {one.other}",
                f"{one.win_rate.value:.3f}",
                _interval(one.win_rate, ".3f"),
                f"{one.score.value:+.3f}",
                _at_equal_length(one),
                f"{one.longer:.3f}",
            ]
            for one in study.comparisons
        ],
    )


def study_json(study: Study) -> bytes:
    """The numbers as JSON, without the answers."""
    content = {
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "unit": study.unit,
        "seen": study.seen,
        "summaries": [dataclasses.asdict(one) for one in study.summaries],
        "comparisons": [dataclasses.asdict(one) for one in study.comparisons],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _at_equal_length(one: PolicyComparison) -> str:
    found = one.at_equal_length.difference
    return "-" if found is None else f"{found.value:+.3f} ({_interval(found, '+.3f')})"


def _interval(estimate: Estimate, form: str) -> str:
    return f"{estimate.low:{form}} to {estimate.high:{form}}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
