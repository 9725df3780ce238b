"""Rows of a data set as examples, truncated to the sequence length of a run."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.dataset.example import Example, Response
from modellink_rm.dataset.indexed import IndexedReader
from modellink_rm.dataset.truncation import truncate


@dataclass(frozen=True, kw_only=True)
class ExampleReader:
    """How a run reads rows.

    Attributes:
        seq_length: longest prompt + response, in tokens.
        truncation: "right" or "keep-ends".
        num_closing_tokens: tokens that the template adds after a response's text, for keep-ends.
        num_ids: rows of the model's embedding; every id must be below.
        references: by the prefix of a data set the log-probabilities of its answers by a reference model.
    """

    seq_length: int
    truncation: str
    num_closing_tokens: int
    num_ids: int
    references: Mapping[str, IndexedReader] = field(default_factory=dict)

    def read(self, dataset: Dataset, row: int) -> Example:
        """The example of a row, its responses best first: chosen, then rejected.

        Raises:
            UserError: a side has no token, or an id outside of the model's embedding; or a step ends
                outside of its response.
        """
        responses = dataset.rows.responses(row)
        for response in responses:
            ids = response.input_ids
            if not len(ids) or ids.min() < 0 or ids.max() >= self.num_ids:
                raise self._bad_row(dataset, row)
            if response.step_ends is not None and not _are_ends(response.step_ends, response):
                raise UserError(
                    f"{dataset.prefix}: a step of row {row} ends outside of its response; the data is "
                    "damaged: preprocess it again"
                )
        kept, is_truncated = truncate(
            responses, self.seq_length, self.truncation, num_closing_tokens=self.num_closing_tokens
        )
        return Example(
            index=row,
            responses=kept,
            is_truncated=is_truncated,
            ranks=dataset.rows.ranks_of(row),
            margins=dataset.rows.margins(row),
            probabilities=dataset.rows.probabilities(row),
            ratings=dataset.rows.ratings_of(row),
            source=dataset.rows.source(row),
            dataset=str(dataset.prefix),
            reference=self._reference(dataset, row),
        )

    def _reference(self, dataset: Dataset, row: int) -> tuple[float, ...]:
        column = self.references.get(str(dataset.prefix))
        return () if column is None else tuple(column[row].tolist())

    def check_rows(self, dataset: Dataset) -> None:
        """Check every id of a data set; for files without a manifest.

        Raises:
            UserError: a row has no token, or an id outside of the model's embedding; names the first one.
        """
        row = dataset.rows.first_bad_row(self.num_ids)
        if row is not None:
            raise self._bad_row(dataset, row)

    def num_too_long(self, dataset: Dataset) -> int:
        """Rows with a side above the sequence length, known from the index alone."""
        return int((dataset.rows.longest_sides() > self.seq_length).sum())

    def _bad_row(self, dataset: Dataset, row: int) -> UserError:
        return UserError(
            f"{dataset.prefix}: row {row} has no token, or an id that is not one of the model's "
            f"{self.num_ids}; the data is damaged or was made for another model: preprocess it again"
        )


def _are_ends(ends: tuple[int, ...], response: Response) -> bool:
    """Whether these are tokens of the response after its prompt, in ascending order."""
    tokens = (response.num_prompt_tokens - 1, *ends, len(response.input_ids))
    return all(one < other for one, other in itertools.pairwise(tokens))
