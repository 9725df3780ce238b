"""Rows that `score` wrote, read again: scores, gaps, and the responses of a prompt."""

import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.config.selection import ListsConfig
from modellink_rm.inference.rows import CHOSEN, ERROR, MARGIN, OWN_NAMES, SCORE, SCORES
from modellink_rm.records import BadRecord, Record
from modellink_rm.records.row_output import row_output

Row = dict[str, Any]
BESIDE_PROMPT = ("system", "tools")  # where they differ, answers are not to the same question
_NO_SCORE = "no score"
_A_PAIR = "a pair, not a list of responses"
# what to do if no row is left for the reason
_REMEDIES = {
    _NO_SCORE: "--input takes what the command score wrote",
    _A_PAIR: 'give the scores of records such as {"prompt": ..., "responses": [...]}',
}


@dataclass
class Counts:
    """What became of the rows.

    Attributes:
        read: rows of the input.
        written: rows of the output.
        dropped: how many of `what` were dropped, by reason.
    """

    what: str = "rows"
    read: int = 0
    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """The summary."""
        total = self.dropped.total()
        lines = [f"rows read {self.read:,} | written {self.written:,} | {self.what} dropped {total:,}"]
        return lines + [f"{count:>11,}  {reason}" for reason, count in self.dropped.most_common()]


@dataclass(frozen=True, kw_only=True)
class ScoredList:
    """The responses of a prompt with their scores.

    Attributes:
        rows: fields beside responses and scores: of the record with the list, or of the row of each response.
        responses: as the record has them, texts or messages.
        scores: of each.
    """

    rows: tuple[Row, ...]
    responses: tuple[Any, ...]
    scores: tuple[float, ...]

    @property
    def best_first(self) -> list[int]:
        """Places of the responses; of equal scores the earlier one first."""
        return sorted(range(len(self.scores)), key=lambda place: -self.scores[place])

    @functools.cached_property
    def fields(self) -> Row:
        """The fields that belong to all of the responses."""
        return _in_common(self.rows)

    def fields_of(self, places: Sequence[int], *, of_each_response: Sequence[str] = ()) -> Row:
        """The fields that belong to all of these responses; a line names those in which their rows differ.

        Args:
            of_each_response: names of lists that a record with all responses may have, with an entry for
                each: those of these responses are returned.
        """
        rows = self.rows if len(self.rows) == 1 else [self.rows[place] for place in places]
        common = _in_common(rows)
        names = {name for row in rows for name in row if row[name] is not None}
        for name in sorted(names - common.keys()):
            warn_once(f"field {name!r} is not written: it differs between rows of one prompt")
        if len(self.rows) == 1:
            for name in of_each_response:
                values = common.get(name)
                if isinstance(values, list) and len(values) == len(self.responses):
                    common[name] = [values[place] for place in places]
        return common


def _in_common(rows: Sequence[Row]) -> Row:
    """The fields that are equal in all rows; null and none are the same."""
    first, *others = rows
    return {name: value for name, value in first.items() if all(row.get(name) == value for row in others)}


def score_of(row: Mapping[str, Any]) -> float | None:
    """The score of a row, as `FilterConfig` explains; None if it has none."""
    if _is_list_of_numbers(row.get(SCORES)):
        return float(max(row[SCORES]))
    return next((float(row[name]) for name in (SCORE, CHOSEN) if _is_number(row.get(name))), None)


def gap_of(row: Mapping[str, Any]) -> float | None:
    """The gap of a row, as `FilterConfig` explains; None if it has none."""
    if _is_list_of_numbers(row.get(SCORES)):
        return float(max(row[SCORES])) - float(min(row[SCORES]))
    return float(row[MARGIN]) if _is_number(row.get(MARGIN)) and row.get(CHOSEN) is not None else None


def rows_of(records: Iterable[Record | BadRecord], counts: Counts) -> Iterator[Record]:
    """The records that are rows with a score; the others are counted."""
    for record in records:
        counts.read += 1
        if isinstance(record, BadRecord):
            counts.dropped[record.reason] += 1
        elif record.fields.get(ERROR) is not None:
            counts.dropped["not scored"] += 1
        elif score_of(record.fields) is None:
            counts.dropped[_NO_SCORE] += 1
        else:
            yield record


def lists_of(
    records: Iterable[Record | BadRecord], config: ListsConfig, counts: Counts
) -> Iterator[ScoredList]:
    """The responses of each prompt; rows that hold none are counted.

    A table has every column in every row: one without a value is as one that is missing.

    Raises:
        UserError: rows of one prompt do not follow one another.
    """
    gathering = _Gathering(config)
    for record in rows_of(records, counts):
        fields = record.fields
        if fields.get(CHOSEN) is not None:
            counts.dropped[_A_PAIR] += 1
        elif _is_list_of_numbers(fields.get(SCORES)):
            yield from gathering.finished()
            responses = fields.get(config.responses)
            if not isinstance(responses, list) or len(responses) != len(fields[SCORES]):
                counts.dropped[f"field {config.responses!r} does not hold a response for each score"] += 1
                continue
            yield _scored_list([fields], config, responses, fields[SCORES])
        elif _is_list_of_one(fields.get(config.responses)) and fields.get(config.response) is None:
            yield from gathering.finished()
            yield _scored_list([fields], config, fields[config.responses], [fields[SCORE]])
        elif (missing := _missing(fields, config.response, config.prompt)) is not None:
            counts.dropped[f"field {missing!r} is missing"] += 1
        else:
            yield from gathering.add(record)
    yield from gathering.finished()


class _Gathering:
    """Rows of one response each, of the same prompt with the same system text and tools so far."""

    def __init__(self, config: ListsConfig) -> None:
        self._config = config
        self._rows: list[Row] = []
        self._prompt: bytes | None = None
        self._seen: set[bytes] = set()  # digests of the prompts before

    def add(self, record: Record) -> Iterator[ScoredList]:
        """Take in a row; the responses of the prompt before, if that ends here.

        Raises:
            UserError: its prompt came before, and another one since.
        """
        row = record.fields
        asked = [row.get(name) for name in (self._config.prompt, *BESIDE_PROMPT)]
        prompt = json.dumps(asked, sort_keys=True).encode()
        digest = hashlib.blake2b(prompt, digest_size=8).digest()
        if digest != self._prompt:
            if digest in self._seen:
                raise UserError(
                    f"{record.place}: its {self._config.prompt} came earlier, and others since: rows of "
                    "one prompt must follow one another; sort them"
                )
            yield from self.finished()
            self._prompt = digest
            self._seen.add(digest)
        self._rows.append(row)

    def finished(self) -> Iterator[ScoredList]:
        """The responses so far, which are all of their prompt."""
        if self._rows:
            responses = [row[self._config.response] for row in self._rows]
            scores = [row[SCORE] for row in self._rows]
            yield _scored_list(self._rows, self._config, responses, scores)
        self._rows, self._prompt = [], None


def _is_list_of_one(value: Any) -> bool:
    """Whether these are responses to which `score` gives a score and no list."""
    return isinstance(value, list) and len(value) == 1


def _missing(fields: Row, *names: str) -> str | None:
    """The first of the names that has no value; rows without a prompt are not rows of one prompt."""
    return next((name for name in names if fields.get(name) is None), None)


def _scored_list(
    rows: Iterable[Row], config: ListsConfig, responses: Iterable[Any], scores: Iterable[float]
) -> ScoredList:
    own = {config.responses, config.response, *OWN_NAMES}
    kept = tuple({name: value for name, value in row.items() if name not in own} for row in rows)
    return ScoredList(rows=kept, responses=tuple(responses), scores=tuple(map(float, scores)))


def write_rows(rows: Iterable[Mapping[str, Any]], output: str | None, counts: Counts) -> None:
    """Write the rows and say what became of all.

    Raises:
        UserError: there is none, and no file is written.
    """
    with row_output(output) as write:
        for row in rows:
            write(row)
            counts.written += 1
        if not counts.written:
            reasons = ", ".join(f"{count:,} x {reason}" for reason, count in counts.dropped.most_common())
            remedies = "".join(f"; {_REMEDIES[reason]}" for reason in counts.dropped if reason in _REMEDIES)
            raise UserError(
                f"none of the {counts.read:,} rows is left ({reasons}); nothing was written{remedies}"
            )
    for line in counts.lines():
        info(line)
    if output is not None:
        info(f"written: {output}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_number, value))
