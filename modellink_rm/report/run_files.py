"""The files that a run leaves beside its checkpoints: metrics.jsonl, scores.jsonl, about.json, best.json."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_types import known_fields
from modellink_rm.report.best import FILE_NAME as BEST_NAME
from modellink_rm.report.best import BestCheckpoint, read_best

METRICS_NAME = "metrics.jsonl"
SCORES_NAME = "scores.jsonl"
ABOUT_NAME = "about.json"
_MOST_DIGITS = 19
VALIDATION = "valid"  # the validation part of --split
TRAINING = "train"  # a sample of what is trained on


@dataclass(frozen=True, kw_only=True)
class ScoredExample:
    """A line of scores.jsonl: an example with its scores before the first step or after the last one.

    Attributes:
        iteration: number of steps before.
        set: name of a held-out set, "valid" or "train".
        dataset: prefix of the data set's files.
        row: in the data set.
        source: "" if the data does not say.
        scores: of the responses, best first; of a single response in steps, those of its steps.
        ranks: of the responses, from 1 for the best, equal for a tie.
        num_tokens: of each response, without its prompt.
        prompt: its text; None for most, since only the best and worst examples have texts.
        responses: their texts, best first, as `prompt`.
    """

    iteration: int
    set: str
    dataset: str
    row: int
    source: str
    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    num_tokens: tuple[int, ...]
    prompt: str | None = None
    responses: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The line; texts are left out where there are none."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What a run left.

    Attributes:
        name: of its directory.
        rows: of metrics.jsonl.
        scores: of scores.jsonl; () if the run evaluated nothing.
        about: about.json; {} for a run of an earlier version.
        best: best.json; None without --save-best.
    """

    name: str
    rows: tuple[dict[str, Any], ...]
    scores: tuple[ScoredExample, ...]
    about: dict[str, Any]
    best: BestCheckpoint | None = None


def run_file_paths(directory: Path) -> list[Path]:
    """The files of --save that `read_run` reads."""
    return [directory / name for name in (METRICS_NAME, SCORES_NAME, ABOUT_NAME, BEST_NAME)]


def read_run(directory: Path) -> RunFiles:
    """The files of --save.

    Raises:
        UserError: there is no metrics.jsonl, it has no row, or a line of a file is not what a run writes.
    """
    metrics = directory / METRICS_NAME
    if not metrics.is_file():
        raise UserError(f"{directory} holds no {METRICS_NAME}: give the --save of a run")
    rows = tuple(row for _, row in _json_lines(metrics) if isinstance(row.get("iteration"), int))
    if not rows:
        raise UserError(f"{metrics} has no row yet: the run has not come to its first log step")
    scores = directory / SCORES_NAME
    about = directory / ABOUT_NAME
    return RunFiles(
        name=directory.resolve().name,
        rows=rows,
        scores=tuple(_scored_examples(scores)) if scores.is_file() else (),
        about=_about(about) if about.is_file() else {},
        best=read_best(directory),
    )


def _scored_examples(path: Path) -> Iterator[ScoredExample]:
    for place, row in _json_lines(path):
        try:
            example = ScoredExample(**known_fields(ScoredExample, row, str(path)))
            _check_lengths(example)
            yield example
        except TypeError as error:
            raise UserError(f"{place} is no line of scores ({error}); remove the file") from None


def _check_lengths(example: ScoredExample) -> None:
    """Every response has a score, a rank and a length; a single one may have a score for each step.

    Raises:
        TypeError: one has not.
    """
    numbers = {len(example.ranks), len(example.num_tokens)}
    if len(example.ranks) != 1:
        numbers.add(len(example.scores))
    if example.responses is not None:
        numbers.add(len(example.responses))
    if len(numbers) > 1:
        raise TypeError("scores, ranks, num_tokens and responses are not equally many")


def _about(path: Path) -> dict[str, Any]:
    """What about.json says.

    Raises:
        UserError: it is damaged.
    """
    about = _json_object(path.read_bytes(), f"{path}")
    if not isinstance(about.get("train_iters", 0), int) or not isinstance(about.get("flags", {}), dict):
        raise UserError(f"{path} is not what a run writes: the file is damaged")
    return about


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line with its place; a last line that was cut off, of a run that was killed, is left out."""
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            return
        yield f"{path}:{number}", _json_object(line, f"{path}:{number}")


def _json_object(content: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(content, parse_int=_number)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{place} holds no JSON object: the file is damaged")
    return value


def _number(digits: str) -> int | float:
    """The number; one of more than 64 bits, which no run writes, as numpy can hold it."""
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)
