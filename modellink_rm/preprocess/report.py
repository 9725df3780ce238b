"""The progress and the summary of preprocess_data.py."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from modellink_rm.base.log import info
from modellink_rm.base.terminal import has_colours, progress_bar
from modellink_rm.dataset.manifest import Manifest
from modellink_rm.preprocess.rows import Refused
from modellink_rm.records import text_bytes
from modellink_rm.records.tables import parquet_rows

_BAD_RECORDS_SHOWN = 10
_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows a bar on a terminal, a line at intervals elsewhere, and the first bad records.

    Args:
        num_bytes: of the whole input as text, or its size in another unit; 0 if that is not known.
        log_interval: records between two updates.
        is_shown: False never shows a bar.
        name: what is read, where a command reads several inputs in turn.
    """

    def __init__(self, num_bytes: int, *, log_interval: int, is_shown: bool = True, name: str = "") -> None:
        self._name = f"{name}: " if name else ""
        self._num_bytes = num_bytes
        self._log_interval = log_interval
        self._num_records = 0
        self._num_records_shown = 0
        self._num_bad = 0
        self._started = self._line_time = time.monotonic()
        self._bytes_done = 0
        self._bar = progress_bar(
            total=num_bytes,
            unit="B",
            is_shown=is_shown,
            unit_scale=True,
            desc=self._name,
            bar_format="{desc}{percentage:3.0f}% {bar} {elapsed} gone, {remaining} left{postfix}"
            if num_bytes
            else "{desc}{elapsed} gone{postfix}",
            colour="green" if has_colours(sys.stderr) else None,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        hidden = self._num_bad - _BAD_RECORDS_SHOWN
        if hidden > 0:
            info(f"... and {hidden:,} more bad records, counted below")

    def add(self, *, num_records: int, num_bytes: int, bad: Sequence[Refused]) -> None:
        """Count finished records, and report the bad ones among them."""
        shown = bad[: max(0, _BAD_RECORDS_SHOWN - self._num_bad)]
        self._num_bad += len(bad)
        if shown:
            with tqdm.external_write_mode(file=sys.stderr):
                for record in shown:
                    info(f"{record.place}: {record.message}")
        self._num_records += num_records
        self._bytes_done += num_bytes
        if self._num_records - self._num_records_shown >= self._log_interval:
            self._num_records_shown = self._num_records
            self._update()

    def _update(self) -> None:
        now = time.monotonic()
        rate = self._num_records / max(now - self._started, 1e-3)
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{self._num_records:,} records, {rate:,.0f}/s", refresh=False)
            self._bar.update(self._bytes_done - self._bar.n)
            return
        if now - self._line_time >= _SECONDS_BETWEEN_LINES:
            self._line_time = now
            share = f"{self._bytes_done / self._num_bytes:.0%} of the input, " if self._num_bytes else ""
            info(f"{self._name}{self._num_records:,} records, {share}{rate:,.0f} records/s")


@contextmanager
def progress_over(
    files: list[Path], *, is_shown: bool = True, name: str = ""
) -> Iterator[Callable[[int, int], None]]:
    """A function that counts done records and the bytes of their texts, beside those of all files."""
    num_bytes = text_bytes(files)
    total = num_bytes or parquet_rows(files)

    def took(num_records: int, num_text_bytes: int) -> None:
        done = num_text_bytes if num_bytes else num_records
        progress.add(num_records=num_records, num_bytes=done if total else 0, bad=[])

    with Progress(total, log_interval=1, is_shown=is_shown, name=name) as progress:
        yield took


def closing_lines(manifest: Manifest, prefix: Path, *, seconds: float) -> str:
    """The closing lines: kept, dropped by reason, tokens, longest, and where the files are."""
    lines = [
        f"records read  {manifest.num_read:>15,}  in {seconds:.1f} s",
        f"{_kept(manifest):14s}{manifest.num_kept:>15,}",
        f"dropped       {sum(manifest.dropped.values()):>15,}",
        *_counts(manifest.dropped),
        f"tokens        {manifest.num_tokens:>15,}  {_counted(manifest)}",
        *_ranking_line(manifest),
        *_steps_line(manifest),
        f"longest       {manifest.longest:>15,}  tokens",
    ]
    if manifest.notes:
        lines += ["kept, though", *_counts(manifest.notes)]
    num_files = sum(name.endswith((".bin", ".idx")) for name in manifest.files)
    lines.append(
        f"written: {prefix}_packed_*_document.bin and .idx ({num_files} files), {prefix}_manifest.json"
    )
    return "\n".join(lines)


def _kept(manifest: Manifest) -> str:
    if manifest.num_steps:
        return "responses kept"
    return "rated kept" if manifest.attributes else "pairs kept"


def _counted(manifest: Manifest) -> str:
    if manifest.attributes or manifest.num_steps:
        return "prompt and response"
    return "chosen and rejected, the prompt counted with each"


def _ranking_line(manifest: Manifest) -> list[str]:
    """Lines about prompts with more than two responses, or about what is rated."""
    if manifest.attributes:
        return [f"attributes    {len(manifest.attributes):>15,}  {', '.join(manifest.attributes)}"]
    if set(manifest.num_responses) <= {"2"} or manifest.num_steps:
        return []
    total = sum(int(number) * count for number, count in manifest.num_responses.items())
    return [f"responses     {total:>15,}  {manifest.num_ties:,} of the prompts with a tie"]


def _steps_line(manifest: Manifest) -> list[str]:
    """A line about responses in steps."""
    if not manifest.num_steps:
        return []
    return [f"labelled steps{manifest.num_steps:>15,}  {manifest.num_wrong_steps:,} of them wrong"]


def _counts(counts: dict[str, int]) -> list[str]:
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [f"              {count:>15,}  {what}" for what, count in ordered]
