"""Blends of data sets: each data set is split separately, and their parts are read as one."""

import functools
import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.config.data import DataConfig
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.dataset.example import Example
from modellink_rm.dataset.mixture import Mixture, mixture_of
from modellink_rm.dataset.reader import ExampleReader
from modellink_rm.dataset.split import split_rows


@dataclass(frozen=True, kw_only=True)
class DatasetRows:
    """Rows of one data set."""

    dataset: Dataset
    rows: range


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of several data sets in sequence, by an index over all of them."""

    datasets: tuple[DatasetRows, ...]
    reader: ExampleReader

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Example:
        """The example at an index.

        Raises:
            UserError: the row has a side without a token, or an id that the model has no row for.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        one = self.datasets[number]
        start = self._ends[number] - len(one.rows)
        return self.reader.read(one.dataset, one.rows[index - start])

    def first(self, num_examples: int) -> "Part":
        """The first rows of every data set, in proportion to its rows, `num_examples` at most."""
        total = len(self)
        if num_examples >= total:
            return self
        kept_ends = [end * num_examples // total for end in self._ends]
        numbers = [end - start for start, end in itertools.pairwise([0, *kept_ends])]
        datasets = tuple(
            DatasetRows(dataset=one.dataset, rows=one.rows[:number])
            for one, number in zip(self.datasets, numbers, strict=True)
        )
        return Part(datasets=datasets, reader=self.reader)

    @functools.cached_property
    def _ends(self) -> list[int]:
        """One past the last index of each data set."""
        return list(itertools.accumulate(len(one.rows) for one in self.datasets))


@dataclass(frozen=True, kw_only=True)
class Blend:
    """The rows that a run reads.

    Attributes:
        train: rows for the steps, which read them in the order of a `SampleOrder`.
        valid: rows for evaluations.
        test: rows that the run does not use.
        mixture: the share of each data set in the steps.
    """

    train: Part
    valid: Part
    test: Part
    mixture: Mixture


def blend_datasets(datasets: Sequence[Dataset], config: DataConfig, reader: ExampleReader) -> Blend:
    """Split each data set, and join the parts; the training part has --max-samples of each at most.

    Raises:
        UserError: a data set has no row to train on, or two data sets are the same.
    """
    for one, other in itertools.combinations(datasets, 2):
        if one.has_rows_of(other):
            raise UserError(
                f"--data-path {one.prefix} and {other.prefix} hold the same rows, so rows that are "
                "trained on would be validated on: give each data set once"
            )
    splits = [split_rows(len(dataset), config.split, name=str(dataset.prefix)) for dataset in datasets]
    most = config.max_samples or (None,)
    trained = [one.train[:limit] for one, limit in zip(splits, itertools.cycle(most), strict=False)]

    def part(ranges: Sequence[range]) -> Part:
        pairs = zip(datasets, ranges, strict=True)
        members = (DatasetRows(dataset=dataset, rows=rows) for dataset, rows in pairs)
        return Part(datasets=tuple(members), reader=reader)

    return Blend(
        train=part(trained),
        valid=part([one.valid for one in splits]),
        test=part([one.test for one in splits]),
        mixture=mixture_of(config, [str(dataset.prefix) for dataset in datasets], list(map(len, trained))),
    )
