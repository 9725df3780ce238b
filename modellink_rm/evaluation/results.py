"""The results of an evaluation, and the JSON file that keeps them."""

import dataclasses
import json
from dataclasses import dataclass

from modellink_rm.evaluation.compare import PairedComparison
from modellink_rm.evaluation.overlap import TrainingOverlap
from modellink_rm.evaluation.score_benchmarks import BenchmarkResult
from modellink_rm.evaluation.sets import SetResult
from modellink_rm.version import __version__

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """The results of one model; `load` is its directory as given."""

    load: str
    sets: tuple[SetResult, ...]
    benchmarks: tuple[BenchmarkResult, ...]

    @property
    def num_not_scored(self) -> int:
        """Records of all sets that have no score."""
        return sum(sum(one.records.not_scored.values()) for one in self.sets)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model minus another one, both by their directories."""

    load: str
    other: str
    sets: tuple[PairedComparison, ...]
    benchmarks: tuple[PairedComparison, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationResults:
    """All results of a command, the model of --load first.

    Attributes:
        seed: of the bootstrap.
        overlaps: of each set and benchmark with the training data; () where none was given.
    """

    seed: int
    models: tuple[ModelResult, ...]
    comparisons: tuple[Comparison, ...]
    overlaps: tuple[TrainingOverlap, ...]

    def to_json(self) -> bytes:
        """The content of --output."""
        head = {"format_version": FORMAT_VERSION, "package_version": __version__}
        text = json.dumps({**head, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
