"""The files with a run's metrics: metrics.jsonl, and TensorBoard's events."""

import json
from pathlib import Path
from typing import Any

from modellink_rm.base.files import naming, write_in_one_call, write_whole
from modellink_rm.base.log import info

METRICS_NAME = "metrics.jsonl"


class MetricsFile:
    """metrics.jsonl, with one line per row.

    Args:
        resumed_iteration: later rows, of a run that was killed, are removed.
    """

    def __init__(self, path: Path, *, resumed_iteration: int) -> None:
        keep_rows(path, last_iteration=resumed_iteration)
        self._path = path
        self._file = path.open("ab", buffering=0)  # a row is in the file when this returns

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        write_in_one_call(self._file, json.dumps(row).encode() + b"\n", self._path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Events for TensorBoard, with one scalar per value: train/loss, valid/loss."""

    def __init__(self, directory: str, *, resumed_iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._directory = directory
        self._writer = SummaryWriter(directory, purge_step=resumed_iteration + 1)

    def add(self, row: dict[str, Any]) -> None:
        """Write the values of a row at its iteration."""
        with naming(self._directory):
            for name, value in row.items():
                if name != "iteration":
                    tag = name if "/" in name else f"train/{name}"
                    self._writer.add_scalar(tag, value, row["iteration"])

    def close(self) -> None:
        """Write buffered events."""
        with naming(self._directory):
            self._writer.close()


def keep_rows(path: Path, *, last_iteration: int) -> None:
    """Remove the rows after `last_iteration`, and a last row that was cut off, if there are any."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["iteration"] <= last_iteration:
            kept.append(line + "\n")
    write_whole(path, "".join(kept).encode())
    info(f"{path}: {len(kept)} rows kept up to iteration {last_iteration}")
