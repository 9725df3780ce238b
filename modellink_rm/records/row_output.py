"""--output of rows: JSON lines or a parquet file by its name, or standard output."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from modellink_rm.base.files import exclusive, remove_remains, whole_file
from modellink_rm.records.table_output import PARQUET, write_parquet

_ROWS_AT_A_TIME = 1024


def is_parquet(path: Path) -> bool:
    """Whether rows under this name are a parquet file."""
    return path.suffix.lower() == PARQUET


def json_line(row: Mapping[str, Any]) -> bytes:
    """The row as a line of JSON, in UTF-8."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def json_rows(lines: Iterator[bytes]) -> Iterator[list[dict[str, Any]]]:
    """The rows of lines that `json_line` wrote, some at a time."""
    while block := list(islice(lines, _ROWS_AT_A_TIME)):
        yield [json.loads(line) for line in block]


@contextmanager
def row_output(path: str | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes one row.

    A file appears under its name only when all rows are in it; a second run that is to write it is refused.

    Args:
        path: of the file; None for standard output.
    """
    if path is None:
        yield lambda row: print(json_line(row).decode(), end="", flush=True)
        return
    output = Path(path)
    with only_writer(output.with_name(f".{output.name}.lock"), path, removes=True):
        remove_remains([output])
        with whole_file(output) as file:
            if not is_parquet(output):
                yield lambda row: _write(file, row)
                return
            with tempfile.TemporaryFile(dir=output.parent) as rows:
                yield lambda row: _write(rows, row)
                write_parquet(file, lambda: json_rows(_from_start(rows)), path=output)


@contextmanager
def only_writer(lock: Path, path: str, *, removes: bool = False) -> Iterator[IO[bytes]]:
    """The file `lock`, which this process holds while it writes `path`.

    Args:
        removes: delete it at the end.

    Raises:
        UserError: another run is writing that file.
    """
    message = f"--output {path}: another run is writing it; give another name"
    with exclusive(lock, message) as file:
        try:
            yield file
        finally:
            if removes:
                lock.unlink(missing_ok=True)


def _write(file: IO[bytes], row: Mapping[str, Any]) -> None:
    file.write(json_line(row))


def _from_start(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    return iter(file)
