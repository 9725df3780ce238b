"""The progress of the commands that turn records into rows."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from modellink_rm.base.log import is_first_process
from modellink_rm.preprocess.report import Progress
from modellink_rm.records import input_files, text_bytes
from modellink_rm.records.row_parts import RowsPart
from modellink_rm.records.tables import parquet_rows


@contextmanager
def progress_over(input: Sequence[str], *, output: str | None) -> Iterator[Callable[[RowsPart[Any]], None]]:
    """A function that counts a part; a bar shows them where it would not stand among the rows."""
    is_shown = is_first_process() and (output is not None or not sys.stdout.isatty())
    files = input_files(input)
    num_bytes = text_bytes(files)
    total = num_bytes or parquet_rows(files)

    def took(part: RowsPart[Any]) -> None:
        done = part.num_bytes if num_bytes else part.num_records
        progress.add(num_records=part.num_records, num_bytes=done if total else 0, bad=[])

    with Progress(total, log_interval=1, is_shown=is_shown) as progress:
        yield took
