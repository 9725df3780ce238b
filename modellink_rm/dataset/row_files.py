"""Rows of the preprocessed files as examples, truncated as asked, in the order of a run."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modellink_rm.base.errors import UserError
from modellink_rm.config.data import split_fractions
from modellink_rm.conversation import PAIR_RANKS
from modellink_rm.dataset.example import IGNORED_LABEL, Example, Response
from modellink_rm.dataset.indexed import IndexedReader
from modellink_rm.dataset.manifest import COLUMNS, array_prefix, columns_of
from modellink_rm.dataset.truncation import truncate


class PairDataset(Sequence[Example]):
    """The rows of one or more prefixes, one after the other.

    Args:
        prefixes: what preprocess_data.py was given as --output-prefix.
        seq_length: longest prompt + response, in tokens.
        truncation: "right" or "keep-ends".
        num_closing_tokens: tokens that the template adds after a response's text, for keep-ends.
        num_ids: rows of the model's embedding; no id may reach it.
    """

    def __init__(
        self,
        prefixes: Sequence[Path],
        *,
        seq_length: int,
        truncation: str,
        num_closing_tokens: int,
        num_ids: int,
    ) -> None:
        self._prefixes = prefixes
        self._num_ids = num_ids
        self._files = [RowFiles.open(prefix) for prefix in prefixes]
        self._starts = np.cumsum([0] + [len(files.chosen_ids) for files in self._files])
        self._seq_length = seq_length
        self._truncation = truncation
        self._num_closing_tokens = num_closing_tokens

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        """The example of a row, its responses best first: chosen, then rejected.

        Raises:
            UserError: a side has no token, or an id that the model has no row for.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        files = self._files[number]
        row = index - int(self._starts[number])
        responses = files.responses(row)
        for response in responses:
            ids = response.input_ids
            if not len(ids) or ids.min() < 0 or ids.max() >= self._num_ids:
                raise _bad_row(self._prefixes[number], row, self._num_ids)
        kept, cut = truncate(
            responses, self._seq_length, self._truncation, num_closing_tokens=self._num_closing_tokens
        )
        return Example(index=index, responses=kept, is_truncated=cut.is_truncated, ranks=files.ranks_of(row))

    def check_rows(self, prefix: Path) -> None:
        """Look at every id of one prefix: for files that no manifest vouches for.

        Raises:
            UserError: names the first row with no token, or with an id that the model has no row for.
        """
        files = self._files[list(self._prefixes).index(prefix)]
        for reader in (files.chosen_ids, files.rejected_ids):
            row = reader.first_row_outside(self._num_ids)
            if row is not None:
                raise _bad_row(prefix, row, self._num_ids)

    def num_too_long(self) -> int:
        """Rows with a side above the sequence length, known from the index alone."""
        return sum(int((files.longest_sides() > self._seq_length).sum()) for files in self._files)

    def first_ranking(self) -> Path | None:
        """The first prefix with prompts that have more than two responses."""
        found = zip(self._prefixes, self._files, strict=True)
        return next((prefix for prefix, files in found if files.ranks is not None), None)


def _bad_row(prefix: Path, row: int, num_ids: int) -> UserError:
    return UserError(
        f"{prefix}: row {row} has no token, or an id that is not one of the model's {num_ids}; the data is "
        "damaged or was made for another model: preprocess it again"
    )


@dataclass(frozen=True)
class RowFiles:
    """The arrays and columns of one prefix.

    Attributes:
        first_rejected: the row of rejected_ids where the rejected responses of each prompt begin; None in a
            data set of pairs, where that is the prompt's own.
    """

    chosen_ids: IndexedReader
    chosen_labels: IndexedReader
    rejected_ids: IndexedReader
    rejected_labels: IndexedReader
    ranks: IndexedReader | None
    first_rejected: NDArray[np.int64] | None
    margin: IndexedReader | None
    source_names: IndexedReader | None

    @classmethod
    def open(cls, prefix: Path) -> "RowFiles":
        """The files of a prefix, mapped into memory."""
        arrays = {
            f"{side}_{kind}": IndexedReader(
                array_prefix(prefix, f"{side}_{'input_ids' if kind == 'ids' else 'labels'}")
            )
            for side in ("chosen", "rejected")
            for kind in ("ids", "labels")
        }
        columns = {
            name: IndexedReader(array_prefix(prefix, name), COLUMNS[name]) for name in columns_of(prefix)
        }
        ranks = columns.get("ranks")
        first = None if ranks is None else np.cumsum(ranks.lengths - 1) - (ranks.lengths - 1)
        return cls(
            **arrays,
            ranks=ranks,
            first_rejected=first,
            margin=columns.get("margin"),
            source_names=columns.get("source"),
        )

    def responses(self, row: int) -> tuple[Response, ...]:
        """The responses of a row with its prompt, best first."""
        first, count = row, 1
        if self.first_rejected is not None:
            first, count = int(self.first_rejected[row]), len(self.ranks_of(row)) - 1
        return (
            _response(self.chosen_ids[row], self.chosen_labels[row]),
            *(
                _response(self.rejected_ids[number], self.rejected_labels[number])
                for number in range(first, first + count)
            ),
        )

    def ranks_of(self, row: int) -> tuple[int, ...]:
        """The ranks of a row's responses, best first, from 1."""
        return PAIR_RANKS if self.ranks is None else tuple(self.ranks[row].tolist())

    def margins(self, row: int) -> tuple[float, ...] | None:
        """By how much the best response is preferred to each other one; None where the data says none."""
        values = () if self.margin is None else tuple(self.margin[row].tolist())
        return None if not values or math.isnan(values[0]) else values

    def source(self, row: int) -> str:
        """Where a row comes from; "" where the data does not say."""
        return "" if self.source_names is None else self.source_names[row].tobytes().decode(errors="replace")

    def longest_sides(self) -> NDArray[np.int32]:
        """Tokens of the longest response of each row, the prompt included."""
        rejected = self.rejected_ids.lengths
        if self.first_rejected is not None and len(rejected):
            rejected = np.maximum.reduceat(rejected, self.first_rejected)
        return np.maximum(self.chosen_ids.lengths, rejected)


def _response(input_ids: np.ndarray, labels: np.ndarray) -> Response:
    """The prompt is the leading run of labels that no loss counts."""
    is_response = labels != IGNORED_LABEL
    num_prompt_tokens = int(is_response.argmax()) if is_response.any() else len(labels)
    return Response(input_ids=input_ids, num_prompt_tokens=num_prompt_tokens)


@dataclass(frozen=True)
class Split:
    """The rows of each part, in file order."""

    train: range
    valid: range
    test: range


def split_rows(num_rows: int, split: str) -> Split:
    """Divide the rows in file order by weights such as "969,30,1", as Megatron-LM does.

    Raises:
        UserError: no row is left to train on.
    """
    train, valid, test = split_fractions(split)
    first = round(train * num_rows)
    second = min(num_rows, first + round(valid * num_rows))
    if first == 0:
        raise UserError(f"--split {split} leaves none of the {num_rows} rows to train on")
    end = num_rows if test > 0 else second
    return Split(train=range(first), valid=range(first, second), test=range(second, end))


@dataclass(frozen=True)
class SampleOrder:
    """The order in which a run reads its rows, endless; sample i depends on nothing but these.

    Attributes:
        rows: the training part.
        shuffle: a permutation per epoch; otherwise file order.
    """

    rows: range
    shuffle: bool
    seed: int

    def samples(self, start: int, stop: int) -> Iterator[int]:
        """Rows of samples `start` to `stop` of the run."""
        for sample in range(start, stop):
            epoch, place = divmod(sample, len(self.rows))
            if self.shuffle:
                place = int(_shuffled(len(self.rows), self.seed, epoch)[place])
            yield self.rows[place]


@functools.lru_cache(maxsize=2)  # a global batch lies in one epoch or in two
def _shuffled(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def divide(items: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Contiguous parts as equal in number as can be, the longer ones first."""
    size, rest = divmod(len(items), parts)
    starts = [number * size + min(number, rest) for number in range(parts + 1)]
    return [items[start:end] for start, end in itertools.pairwise(starts)]
