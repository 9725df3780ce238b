"""Rows as examples: truncated, named, and refused where the model cannot read them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.indexed import bin_path
from modellink_rm.dataset.manifest import array_prefix
from modellink_rm.dataset.reader import ExampleReader
from tests.tiny_data import write_random_rows

READER = ExampleReader(seq_length=16, truncation="right", num_closing_tokens=1, num_ids=320)


def test_rows_above_the_sequence_length_are_truncated_and_counted(tmp_path: Path) -> None:
    dataset = open_dataset(write_random_rows(tmp_path / "a", 30))
    whole = dataclasses.replace(READER, seq_length=1000)
    too_long = [
        max(len(side.input_ids) for side in whole.read(dataset, row).responses) > 16 for row in range(30)
    ]
    assert READER.num_too_long(dataset) == sum(too_long) > 0
    for row in range(30):
        example = READER.read(dataset, row)
        assert example.is_truncated == too_long[row]
        assert all(len(side.input_ids) <= 16 for side in example.responses)
        assert example.name == (str(tmp_path / "a"), row)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_row_with_an_id_without_an_embedding_row_is_named(side: str, tmp_path: Path) -> None:
    prefix = write_random_rows(tmp_path / "a", 30)
    path = bin_path(array_prefix(prefix, f"{side}_input_ids"))
    ids = np.fromfile(path, dtype="<i4")
    ids[-1] = 320
    ids.tofile(path)
    dataset = open_dataset(prefix)
    with pytest.raises(UserError, match=f"{prefix}: row 29 has no token, or an id"):
        READER.check_rows(dataset)
    with pytest.raises(UserError, match=f"{prefix}: row 29 has no token, or an id"):
        READER.read(dataset, 29)
