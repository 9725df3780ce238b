"""Colours and progress bars of a terminal."""

import os
import re
import shutil
import sys
from typing import Any, TextIO

# All control characters but the tab and the end of a line: what moves the cursor, renames a window, clears a
# screen.
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOURS = {"bold": "1", "dim": "2", "green": "32", "cyan": "36"}


def has_colours(stream: TextIO) -> bool:
    """Whether the stream is a terminal with colours, and NO_COLOR is not set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"


def coloured(text: str, colour: str) -> str:
    """The text with the escape sequences of a colour around it."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def without_commands(text: str) -> str:
    r"""The text of others with a terminal's commands written as in Python: \x1b."""
    return _COMMANDS.sub(lambda found: repr(found[0])[1:-1], text)


def num_columns() -> int:
    """Width of the terminal."""
    return shutil.get_terminal_size().columns


def progress_bar(
    *, total: int | None, unit: str, initial: int = 0, is_shown: bool = True, **options: Any
) -> Any:
    """A tqdm bar on stderr with the time left; nothing if stderr is not a terminal.

    Args:
        total: None if unknown.
        is_shown: False never shows a bar.
    """
    from tqdm import tqdm  # a twentieth of a second, which --help does without

    # Its monitor is a thread, and a process that forks should have none; mininterval=0 needs none.
    tqdm.monitor_interval = 0
    return tqdm(
        total=total,
        initial=initial,
        unit=unit,
        file=sys.stderr,
        disable=not (is_shown and sys.stderr.isatty()),
        leave=False,
        mininterval=0,
        dynamic_ncols=True,
        **options,
    )


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short_number(value: float) -> str:
    """Three digits: `874`, `12.3k`, `1.05M`."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            scaled = value / factor
            return f"{scaled:.{max(0, 2 - len(str(int(scaled))) + 1)}f}{suffix}"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"
