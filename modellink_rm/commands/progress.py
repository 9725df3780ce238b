"""The progress of the commands that turn records into rows."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from modellink_rm.base.log import is_first_process
from modellink_rm.preprocess.report import progress_over
from modellink_rm.records import input_files
from modellink_rm.records.row_parts import RowsPart


@contextmanager
def progress_of_rows(
    input: Sequence[str], *, output: str | None
) -> Iterator[Callable[[RowsPart[Any]], None]]:
    """A function that counts a part; a bar shows them where it would not stand among the rows."""
    is_shown = is_first_process() and (output is not None or not sys.stdout.isatty())
    with progress_over(input_files(input), is_shown=is_shown) as took:
        yield lambda part: took(part.num_records, part.num_bytes)
