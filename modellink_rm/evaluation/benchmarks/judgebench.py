"""JudgeBench: Tan et al. 2024, arXiv 2410.12784.

Data: the two files of ScalerLab/JudgeBench (split gpt or claude); formula: utils/metrics.py of
github.com/ScalerLab/JudgeBench, with an equality of two scores as wrong, as in its games of both orders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modellink_rm.base.errors import UserError
from modellink_rm.evaluation.benchmarks.benchmark import (
    BENCHMARKS,
    Benchmark,
    BenchmarkRow,
    BenchmarkScore,
    known_name,
    mean_parts,
    missing_note,
    text_field,
)
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.records import RecordError

# Parts by the beginning of `source`; mmlu-pro's goes on with its subject.
SOURCES = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")


@dataclass(frozen=True, kw_only=True)
class RowLabel:
    """Of a pair: its part, the model that wrote both responses, and whether the first is the better one."""

    source: str
    response_model: str
    first_is_better: bool


def read_row(fields: Mapping[str, Any], file: Path) -> BenchmarkRow:
    """A question with response_A and response_B.

    Raises:
        RecordError: a field is missing or has an unknown value.
    """
    given = text_field(fields, "source")
    source = next((name for name in SOURCES if given.startswith(name)), None)
    if source is None:
        raise RecordError(f"field 'source' is {given!r}, which begins with none of {', '.join(SOURCES)}")
    label = RowLabel(
        source=source,
        response_model=text_field(fields, "response_model"),
        first_is_better=known_name(fields, "label", ("A>B", "B>A")) == "A>B",
    )
    responses = (text_field(fields, "response_A"), text_field(fields, "response_B"))
    return BenchmarkRow(prompt=text_field(fields, "question"), responses=responses, label=label)


def check(labels: Sequence[RowLabel]) -> None:
    """The rows are of one of the two files.

    Raises:
        UserError: they are of both, whose figures are published apart.
    """
    models = sorted({label.response_model for label in labels})
    if len(models) > 1:
        raise UserError(
            f"--benchmark judgebench: responses of {' and '.join(models)} are scored apart; give each file "
            "as a --benchmark judgebench=FILE of its own"
        )


def score(labels: Sequence[RowLabel], scores: Sequence[Floats]) -> BenchmarkScore:
    """The accuracy over all rows; a tie is wrong."""
    both = np.array(scores).reshape(-1, 2)
    first_is_better = np.array([label.first_is_better for label in labels])
    difference = np.where(first_is_better, both[:, 0] - both[:, 1], both[:, 1] - both[:, 0])
    credits = (difference > 0).astype(np.float64)
    parts = mean_parts([label.source for label in labels], credits, SOURCES)
    return BenchmarkScore(
        overall=float(credits.mean()),
        parts={"source": parts},
        credits=credits,
        ties=int((difference == 0).sum()),
        notes=missing_note("sources", parts, SOURCES),
        strata=("",) * len(labels),
        weights=np.full(len(labels), 1.0 / len(labels)),
    )


BENCHMARKS.add(Benchmark(row=read_row, score=score, check=check), "judgebench")
