"""The interface of benchmarks, and the names that --benchmark accepts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modellink_rm.base.registry import Registry
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.records import RecordError


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """A prompt with the responses to score.

    Attributes:
        label: what the benchmark's formula needs to know of the row beside the scores.
        is_stepwise: the responses are the steps of one response, and their scores the probabilities that
            they are right.
    """

    prompt: str
    responses: tuple[str, ...]
    label: Any
    is_stepwise: bool = False


@dataclass(frozen=True, kw_only=True)
class Part:
    """A published part of a benchmark with its value; `num_rows` are those that it is computed from."""

    name: str
    value: float
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class BenchmarkScore:
    """What a benchmark's formula makes of scores.

    Attributes:
        overall: the published headline figure.
        parts: by what they are ("section", "subset", ...).
        credits: [n], of each row, from 0 to 1; two models are compared by them.
        ties: rows in which a correct and a wrong response have equal scores.
        notes: what differs from the whole published benchmark, such as missing subsets.
        strata: [n], the part within which a row is resampled for the interval of `overall`.
        weights: [n], equal within a stratum; `overall` is the sum of weights x credits. None where the
            formula is not such a sum, and there is no interval.
    """

    overall: float
    parts: Mapping[str, tuple[Part, ...]]
    credits: Floats
    ties: int
    notes: tuple[str, ...] = ()
    strata: tuple[str, ...] = ()
    weights: Floats | None = None


def _nothing_to_check(labels: Sequence[Any]) -> None:
    """Any rows will do."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark in its published format.

    Attributes:
        row: a row from the fields of a record and its file. Raises `RecordError`.
        score: the formula, from the rows' labels and the float64 scores of each row's responses, finite.
        check: raises `UserError` where the labels of all rows do not make up the benchmark.
    """

    row: Callable[[Mapping[str, Any], Path], BenchmarkRow]
    score: Callable[[Sequence[Any], Sequence[Floats]], BenchmarkScore]
    check: Callable[[Sequence[Any]], None] = field(default=_nothing_to_check)


BENCHMARKS: Registry[Benchmark] = Registry("--benchmark", package="modellink_rm.evaluation.benchmarks")


def text_field(fields: Mapping[str, Any], name: str) -> str:
    """The text of a field, as it stands.

    Raises:
        RecordError: it is missing or no text.
    """
    value = fields.get(name)
    if not isinstance(value, str):
        raise RecordError(f"field {name!r} {'must be a text' if name in fields else 'is missing'}")
    return value


def texts_field(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The texts of a field that is a list.

    Raises:
        RecordError: it is missing or no list of texts.
    """
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RecordError(f"field {name!r} {'must be a list of texts' if name in fields else 'is missing'}")
    return tuple(value)


def known_name(fields: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """The text of a field that must be one of the known ones.

    Raises:
        RecordError: it is another one.
    """
    value = text_field(fields, name)
    if value not in known:
        raise RecordError(f"field {name!r} is {value!r}, which is none of {', '.join(known)}")
    return value


def mean_parts(names: Sequence[str], credits: Floats, order: Sequence[str]) -> tuple[Part, ...]:
    """The mean credit of the rows of each name, in that order; names without rows are left out."""
    of_row = np.array(names)
    return tuple(
        Part(name=name, value=float(credits[of_row == name].mean()), num_rows=int((of_row == name).sum()))
        for name in order
        if (of_row == name).any()
    )


def missing_note(kind: str, parts: Sequence[Part], expected: Sequence[str]) -> tuple[str, ...]:
    """A note that names the expected parts without rows; none where all are there."""
    missing = [name for name in expected if name not in {part.name for part in parts}]
    return (f"{kind} without rows: {', '.join(missing)}",) if missing else ()
