"""PPE: Preference Proxy Evaluations, Frick et al. 2024, arXiv 2410.14872.

Data: lmarena-ai/PPE-Human-Preference-V1, and the five sets lmarena-ai/PPE-*-Best-of-K. The formulas of both
kinds of files are in the two modules beside this one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.evaluation.benchmarks import ppe_correctness, ppe_human
from modellink_rm.evaluation.benchmarks.benchmark import BENCHMARKS, Benchmark, BenchmarkRow, BenchmarkScore
from modellink_rm.metrics.accuracy import Floats


def read_row(fields: Mapping[str, Any], file: Path) -> BenchmarkRow:
    """A row of the human preferences if it names a winner, else one of correctness.

    Raises:
        RecordError: a field is missing or contradicts another one.
    """
    if "winner" in fields:
        return ppe_human.read_row(fields, file)
    return ppe_correctness.read_row(fields, file)


def check(labels: Sequence[Any]) -> None:
    """The rows are of one kind.

    Raises:
        UserError: they are of both.
    """
    if len({type(label) for label in labels}) > 1:
        raise UserError(
            "--benchmark ppe: human preferences and correctness are scored apart; give each path as a "
            "--benchmark ppe=PATH of its own"
        )


def score(labels: Sequence[Any], scores: Sequence[Floats]) -> BenchmarkScore:
    """The score of rows of one kind."""
    if isinstance(labels[0], ppe_human.HumanLabel):
        return ppe_human.score(labels, scores)
    return ppe_correctness.score(labels, scores)


BENCHMARKS.add(Benchmark(row=read_row, score=score, check=check), "ppe")
