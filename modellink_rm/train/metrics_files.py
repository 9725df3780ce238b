"""The files of rows that a run writes: metrics.jsonl and scores.jsonl."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import write_in_one_call, write_whole
from modellink_rm.base.log import info
from modellink_rm.report.run_files import METRICS_NAME, SCORES_NAME


class RowsFile:
    """A file with one JSON line per row, each with its iteration; it is there from the first row on.

    Args:
        resumed_iteration: later rows, of a run that was killed, are removed; at 0 all of them.
    """

    def __init__(self, path: Path, *, resumed_iteration: int) -> None:
        # A run that begins anew writes the rows before its first step again.
        keep_rows(path, last_iteration=resumed_iteration or -1)
        self._path = path

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; it is in the file when this returns.

        Raises:
            OSError: there is no space for it, or no directory any more.
        """
        # Opened anew: rows of a file that was moved away would be lost.
        with self._path.open("ab", buffering=0) as file:
            write_in_one_call(file, _line(row), self._path)

    def add_together(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows that appear together: a run that is killed, or meets a full disk, leaves none of them.

        Raises:
            OSError: there is no space for them, or no directory any more.
        """
        before = self._path.read_bytes() if self._path.exists() else b""
        write_whole(self._path, before + b"".join(map(_line, rows)))


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def keep_rows(path: Path, *, last_iteration: int) -> None:
    """Remove the rows after `last_iteration`, and a last row that was cut off, if there are any.

    Raises:
        UserError: another line is no row.
    """
    if not path.exists():
        return
    kept = rows_until(path, last_iteration) if last_iteration >= 0 else []
    write_whole(path, "".join(kept).encode())
    info(f"{path}: {len(kept)} rows kept up to iteration {max(0, last_iteration)}")


def check_rows(directory: Path) -> None:
    """The files of rows under --save are what a run wrote.

    Raises:
        UserError: a line of one is no row.
    """
    for name in (METRICS_NAME, SCORES_NAME):
        rows_until(directory / name, -1)


def rows_until(path: Path, last_iteration: int) -> list[str]:
    """The lines up to an iteration, without a last row that was cut off; [] where there is no file.

    Raises:
        UserError: another line is no row.
    """
    if not path.exists():
        return []
    kept = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        if _iteration_of(line, f"{path}:{number}") <= last_iteration:
            kept.append(line.decode())
    return kept


def _iteration_of(line: bytes, place: str) -> int:
    """The iteration of a row.

    Raises:
        UserError: the line is no row.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    iteration = row.get("iteration") if isinstance(row, dict) else None
    if type(iteration) is not int:
        raise UserError(
            f"{place} is no row of a run: the file is damaged; copy it again from where it is whole, or move "
            "it away to go on without its rows"
        )
    return iteration
