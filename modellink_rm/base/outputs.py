"""--output and other places that a command writes to."""

import os
from collections.abc import Iterable
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import check_outputs


def prepare_output(output: str | None, *, inputs: Iterable[Path], flag: str = "--output") -> None:
    """Make the directory of --output, where one is named.

    Args:
        inputs: what the command reads.
        flag: that names the file.

    Raises:
        UserError: the file cannot be written there, or is one that is read.
    """
    if output is None:
        return
    path = Path(output)
    check_outputs([(f"{flag} {path}", path)], inputs=inputs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {path}: its directory cannot be made: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written: its directory is read-only")


def made_directory(flag: str, name: str) -> Path:
    """The directory that a flag names, made where it is not there.

    Raises:
        UserError: it cannot be made.
    """
    directory = Path(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {name} cannot be made a directory: {error.strerror}") from None
    return directory
