"""The arrays and columns of one data set, and its rows: responses and what is known of them."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import PAIR_RANKS
from modellink_rm.dataset.example import IGNORED_LABEL, Response
from modellink_rm.dataset.indexed import ArrayChecksums, IndexedReader, idx_path
from modellink_rm.dataset.manifest import COLUMNS, PAIR_ARRAYS, Manifest, array_prefix, columns_of


@dataclass(frozen=True, kw_only=True)
class RowFiles:
    """The arrays and columns of one data set.

    Attributes:
        first_rejected: for each prompt the row of rejected_ids where its rejected responses begin; None in a
            data set of pairs, where it is the prompt's own row.
        attributes: what the ratings of each response are of, in their order.
        step_ends: of a data set of responses in steps, one for each prompt, the last token of each step.
        step_labels: the probability that each of these steps is right; NaN where it is not labelled.
    """

    chosen_ids: IndexedReader
    chosen_labels: IndexedReader
    rejected_ids: IndexedReader
    rejected_labels: IndexedReader
    ranks: IndexedReader | None
    first_rejected: NDArray[np.int64] | None
    margin: IndexedReader | None
    probability: IndexedReader | None
    ratings: IndexedReader | None
    attributes: tuple[str, ...]
    source_names: IndexedReader | None
    step_ends: IndexedReader | None
    step_labels: IndexedReader | None

    @classmethod
    def open(
        cls, prefix: Path, manifest: Manifest | None, checksums: Mapping[str, ArrayChecksums]
    ) -> "RowFiles":
        """The files of a prefix, mapped into memory, whose rows belong together.

        Args:
            checksums: of the arrays and columns, by name; those of others are taken as they are.

        Raises:
            UserError: names the file that is damaged, or whose rows are not those of the others.
        """
        names = [*PAIR_ARRAYS, *columns_of(prefix, manifest)]
        readers = {
            name: IndexedReader(
                array_prefix(prefix, name), COLUMNS.get(name, "int32"), checksums=checksums.get(name)
            )
            for name in names
        }
        num_rows = len(readers[PAIR_ARRAYS[0]]) if manifest is None else manifest.num_kept
        attributes = () if manifest is None else tuple(manifest.attributes)
        _check_rows(prefix, readers, num_rows, num_attributes=len(attributes))
        ranks = readers.get("ranks")
        first = None if ranks is None else np.cumsum(ranks.lengths - 1) - (ranks.lengths - 1)
        return cls(
            chosen_ids=readers["chosen_input_ids"],
            chosen_labels=readers["chosen_labels"],
            rejected_ids=readers["rejected_input_ids"],
            rejected_labels=readers["rejected_labels"],
            ranks=ranks,
            first_rejected=first,
            margin=readers.get("margin"),
            probability=readers.get("probability"),
            ratings=readers.get("ratings"),
            attributes=attributes,
            source_names=readers.get("source"),
            step_ends=readers.get("step_ends"),
            step_labels=readers.get("step_labels"),
        )

    def __len__(self) -> int:
        return len(self.chosen_ids)

    def num_responses(self) -> NDArray[np.int32]:
        """The number of responses of each row."""
        return np.full(len(self), 2, np.int32) if self.ranks is None else self.ranks.lengths

    def first_bad_row(self, num_ids: int) -> int | None:
        """The first row with a side of no token, or with an id outside of [0, num_ids); reads every id.

        The best responses of all prompts are checked before the others.
        """
        row = self.chosen_ids.first_row_outside(num_ids)
        if row is not None:
            return row
        rejected = self.rejected_ids.first_row_outside(num_ids)
        if rejected is None or self.first_rejected is None:
            return rejected
        return int(np.searchsorted(self.first_rejected, rejected, side="right")) - 1

    def responses(self, row: int) -> tuple[Response, ...]:
        """The responses of a row with its prompt, best first."""
        first, count = row, 1
        if self.first_rejected is not None:
            first, count = int(self.first_rejected[row]), len(self.ranks_of(row)) - 1
        best = _response(self.chosen_ids[row], self.chosen_labels[row])
        if self.step_ends is not None and self.step_labels is not None:
            ends, labels = self.step_ends[row].tolist(), self.step_labels[row].tolist()
            best = dataclasses.replace(best, step_ends=tuple(ends), step_labels=tuple(labels))
        return (
            best,
            *(
                _response(self.rejected_ids[number], self.rejected_labels[number])
                for number in range(first, first + count)
            ),
        )

    def ranks_of(self, row: int) -> tuple[int, ...]:
        """The ranks of a row's responses, best first, from 1."""
        return PAIR_RANKS if self.ranks is None else tuple(self.ranks[row].tolist())

    def margins(self, row: int) -> tuple[float, ...] | None:
        """By how much the best response is preferred to each other one; None if the data does not say."""
        return _given(self.margin, row)

    def probabilities(self, row: int) -> tuple[float, ...] | None:
        """The probability that the best response is preferred to each other one; None if not given."""
        return _given(self.probability, row)

    def ratings_of(self, row: int) -> tuple[tuple[float, ...], ...]:
        """Of each response the ratings of `attributes`, NaN where one is not given; () without attributes."""
        if self.ratings is None:
            return ()
        values = self.ratings[row].reshape(-1, len(self.attributes))
        return tuple(map(tuple, values.tolist()))

    def first_without_preference(self) -> int | None:
        """The first row whose responses all have one rank; None if there is none. Reads all ranks."""
        if self.ranks is None:
            return None
        best, worst = self.ranks.first_and_last()
        rows = np.flatnonzero(best == worst)
        return int(rows[0]) if len(rows) else None

    def all_have_margins(self) -> bool:
        """Whether every response but the best of its row has a margin; reads all of them."""
        return self.margin is not None and not self.margin.has_nan()

    @property
    def holds_steps(self) -> bool:
        """Whether its responses are in labelled steps."""
        return self.step_ends is not None

    def num_without_steps(self, seq_length: int) -> int:
        """How many responses in steps have none that ends within so many tokens; reads all ends."""
        if self.step_ends is None:
            return 0
        return int((self.step_ends.first_and_last()[0] >= seq_length).sum())

    def source(self, row: int) -> str:
        """Where a row comes from; "" if the data does not say."""
        return "" if self.source_names is None else self.source_names[row].tobytes().decode(errors="replace")

    def num_tokens(self, seq_length: int) -> NDArray[np.int64]:
        """Tokens of each row's responses together, each with its prompt and of at most `seq_length`."""
        found = np.minimum(self.chosen_ids.lengths, seq_length).astype(np.int64)
        rejected = np.minimum(self.rejected_ids.lengths, seq_length)
        if self.ranks is None or self.first_rejected is None:
            return found + rejected
        # np.add.at takes a second for each million rows.
        before = np.concatenate([[0], rejected.cumsum(dtype=np.int64)])
        ends = self.first_rejected + self.ranks.lengths - 1
        found += before[ends] - before[self.first_rejected]
        return found

    def longest_sides(self) -> NDArray[np.int32]:
        """Tokens of the longest response of each row, the prompt included."""
        rejected = self.rejected_ids.lengths
        if self.ranks is None:
            return np.maximum(self.chosen_ids.lengths, rejected)
        longest = self.chosen_ids.lengths.copy()
        np.maximum.at(longest, np.repeat(np.arange(len(self)), self.ranks.lengths - 1), rejected)
        return longest


def _given(column: IndexedReader | None, row: int) -> tuple[float, ...] | None:
    """The values of a row; None if the data does not say."""
    values = () if column is None else tuple(column[row].tolist())
    return None if not values or math.isnan(values[0]) else values


def _response(input_ids: np.ndarray, labels: np.ndarray) -> Response:
    """The prompt is the leading run of labels that no loss counts."""
    is_response = labels != IGNORED_LABEL
    num_prompt_tokens = int(is_response.argmax()) if is_response.any() else len(labels)
    return Response(input_ids=input_ids, num_prompt_tokens=num_prompt_tokens)


def _check_rows(
    prefix: Path, readers: Mapping[str, IndexedReader], num_rows: int, *, num_attributes: int
) -> None:
    """Every file has the rows that the others and the manifest ask for."""
    pairs = np.full(len(readers[PAIR_ARRAYS[0]]), 2)
    num_responses = readers["ranks"].lengths if "ranks" in readers else pairs
    for name, reader in readers.items():
        expected = int((num_responses - 1).sum()) if name.startswith("rejected") else num_rows
        if len(reader) != expected:
            path = idx_path(array_prefix(prefix, name))
            raise UserError(f"{path} has {len(reader)} rows instead of {expected}")
    for side in ("chosen", "rejected"):
        labels = readers[f"{side}_labels"].lengths
        if not np.array_equal(readers[f"{side}_input_ids"].lengths, labels):
            path = idx_path(array_prefix(prefix, f"{side}_labels"))
            raise UserError(f"{path} has rows of other lengths than those of {side}_input_ids")
    if np.any(num_responses < 1):
        raise UserError(f"{idx_path(array_prefix(prefix, 'ranks'))} has rows without a response")
    for name in ("margin", "probability"):
        if name in readers and not np.array_equal(readers[name].lengths, num_responses - 1):
            raise UserError(f"{idx_path(array_prefix(prefix, name))} has rows of other lengths than ranks")
    if "ratings" in readers and not num_attributes:
        raise UserError(f"{prefix} has ratings, and no manifest that names their attributes")
    if "ratings" in readers and not np.array_equal(
        readers["ratings"].lengths, num_responses * num_attributes
    ):
        path = idx_path(array_prefix(prefix, "ratings"))
        raise UserError(f"{path} has rows of other lengths than {num_attributes} ratings a response")
    _check_steps(prefix, readers)


def _check_steps(prefix: Path, readers: Mapping[str, IndexedReader]) -> None:
    """Responses in steps have a label for each step, and are the only ones to their prompts."""
    ends, labels = readers.get("step_ends"), readers.get("step_labels")
    if ends is None and labels is None:
        return
    if ends is None or labels is None or not np.array_equal(ends.lengths, labels.lengths):
        path = idx_path(array_prefix(prefix, "step_labels"))
        raise UserError(f"{path} is not the labels of the steps in step_ends")
    if not ends.lengths.all():
        raise UserError(f"{idx_path(array_prefix(prefix, 'step_ends'))} has rows without a step")
    if "ranks" not in readers or np.any(readers["ranks"].lengths != 1):
        path = idx_path(array_prefix(prefix, "ranks"))
        raise UserError(f"{path} has rows of several responses, although there are steps")
