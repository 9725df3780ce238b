"""The files that --data and --benchmark name."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.config.limits import DEFAULT_LIMITS, Limits
from modellink_rm.records import BadRecord, RawRecord, Record, input_files, parse_record, read_raw_records

_NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, kw_only=True)
class NamedInput:
    """Records under a name.

    Attributes:
        path: a file, directory, glob or data set of the hub.
        flag: what messages call the flag that names it.
    """

    name: str
    path: str
    flag: str
    limits: Limits = DEFAULT_LIMITS

    def files(self) -> list[Path]:
        """The files that are read; none of the hub.

        Raises:
            UserError: the path does not exist, or holds no file of a known kind.
        """
        return input_files(self.path, flag=f"{self.flag} {self.name}:")

    def records(self) -> Iterator[Record | BadRecord]:
        """The records, one at a time.

        Raises:
            UserError: as `files`, or a file is cut off or damaged.
        """
        return map(parse_record, self.raw_records())

    def raw_records(self) -> Iterator[RawRecord]:
        """The texts of the records, one at a time.

        Raises:
            UserError: as `records`.
        """
        return read_raw_records(self.path, self.limits, flag=f"{self.flag} {self.name}:")


def named_inputs(flag: str, words: Sequence[str], limits: Limits = DEFAULT_LIMITS) -> list[NamedInput]:
    """The inputs that the words NAME=PATH of a flag name, in order.

    Raises:
        UserError: a word has another form.
    """
    found = []
    for word in words:
        name, _, path = word.partition("=")
        if not path or not _NAME.fullmatch(name):
            raise UserError(f"{flag} {word}: give NAME=PATH, the name of letters, digits and _.+-")
        found.append(NamedInput(name=name, path=path, flag=flag, limits=limits))
    return found


def check_names_differ(inputs: Sequence[NamedInput]) -> None:
    """No name is given to two inputs.

    Raises:
        UserError: one is.
    """
    names = [one.name for one in inputs]
    for one in inputs:
        if names.count(one.name) > 1:
            raise UserError(
                f"{one.flag} names {one.name} twice; a directory or a glob makes one set of files"
            )
