"""Rows of finished blocks of records, in parts that --resume continues from."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Self, TypeVar, cast

from modellink_rm.base.files import remove_remains, whole_file
from modellink_rm.base.json_types import check_types
from modellink_rm.base.log import info
from modellink_rm.base.parts import PartsFile, removed_if_empty, with_checksum, without_checksum
from modellink_rm.records.blocks import check_resumed_block, text_crc32
from modellink_rm.records.record import RecordBlock
from modellink_rm.records.row_output import is_parquet, json_rows, only_writer
from modellink_rm.records.table_output import write_parquet


@dataclass
class RowCounts:
    """Counts over the inputs of a run so far, which a command adds its own to.

    Attributes:
        bad: inputs that could not be used.
    """

    inputs: int = 0
    bad: int = 0

    def add_all(self, others: Self) -> None:
        """Add the counts of other inputs."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(others, field.name))


Counts = TypeVar("Counts", bound=RowCounts)


@dataclass(frozen=True, kw_only=True)
class RowsPart(Generic[Counts]):
    """The rows of one block of records.

    Attributes:
        crc32: of the records' text, to check whether the input is unchanged.
        num_bytes: of that text.
        totals: over these records.
        rows: JSON lines.
    """

    num_records: int
    num_bytes: int
    crc32: int
    totals: Counts
    rows: bytes

    def to_bytes(self) -> bytes:
        """The part, with a checksum."""
        head = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del head["rows"]
        head["totals"] = dataclasses.asdict(self.totals)
        return with_checksum(json.dumps(head).encode() + b"\n" + self.rows)

    def without_rows(self) -> "RowsPart[Counts]":
        """The part without its rows, which are in the file."""
        return dataclasses.replace(self, rows=b"")

    def check_input(self, block: RecordBlock) -> None:
        """Check that a finished part was made of these records.

        Raises:
            InputChangedError: the input changed since.
        """
        check_resumed_block(block, num_records=self.num_records, crc32=self.crc32)


def part_of_block(block: RecordBlock, totals: Counts, rows: Sequence[bytes]) -> RowsPart[Counts]:
    """The part of a block whose rows are there."""
    return RowsPart(
        num_records=len(block),
        num_bytes=sum(len(raw.text) for raw in block),
        crc32=text_crc32(block),
        totals=totals,
        rows=b"".join(rows),
    )


def part_from_bytes(data: bytes, counts: type[Counts]) -> RowsPart[Counts] | None:
    """The part that `to_bytes` wrote; None if it is damaged.

    Args:
        counts: the type of its totals.
    """
    content = without_checksum(data)
    if content is None:
        return None
    head, _, rows = content.partition(b"\n")
    try:
        values: dict[str, Any] = json.loads(head)
        check_types(counts, values["totals"])
        return RowsPart(**{**values, "totals": counts(**values["totals"])}, rows=rows)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


class RowParts(PartsFile, Generic[Counts]):
    """The parts of the run that writes one output.

    Args:
        counts: the type of their totals.
    """

    def __init__(self, path: Path, file: BinaryIO, *, magic: bytes, counts: type[Counts]) -> None:
        super().__init__(path, file, magic=magic)
        self._counts = counts

    def whole_parts(self) -> Iterator[RowsPart[Counts]]:
        """The finished parts; afterwards further ones can be added."""
        found = self.parts()
        assert found is not None  # they have an identity since they were opened
        end = self.position()
        for data in found:
            part = part_from_bytes(data, self._counts)
            if part is None:
                break
            yield part
            end = self.position()
        self.end_at(end)

    def lines(self) -> Iterator[bytes]:
        """The rows of all parts, line by line."""
        for part in self.whole_parts():
            yield from part.rows.splitlines(keepends=True)

    def write(self, output: Path) -> None:
        """Write all rows as the output, which appears when it is whole."""
        remove_remains([output])
        with whole_file(output) as file:
            if is_parquet(output):
                write_parquet(file, lambda: json_rows(self.lines()), path=output)
                return
            for part in self.whole_parts():
                file.write(part.rows)


def rows_identity(values: Mapping[str, Any]) -> bytes:
    """All that determines the rows of a run, as JSON."""
    return json.dumps(values, sort_keys=True, default=str).encode()


@contextmanager
def row_parts(
    output: str, identity: bytes, *, magic: bytes, counts: type[Counts], resume: bool
) -> Iterator[RowParts[Counts]]:
    """The parts file of an output, locked; without `resume` the parts of an earlier run are discarded.

    Raises:
        UserError: another run is writing that output, or `resume` and the earlier run had other flags.
    """
    path = Path(output)
    hidden = path.with_name(f".{path.name}.parts")
    with only_writer(hidden, output) as file:
        parts = RowParts(hidden, cast("BinaryIO", file), magic=magic, counts=counts)
        with removed_if_empty(parts):
            if resume:
                parts.check_identity(identity)
            elif parts.holds_parts():
                info(f"{hidden}, left by a run that did not end, is replaced; --resume would continue it")
            if not resume or parts.parts() is None:
                parts.start_over(identity)
            try:
                yield parts
            except BaseException:
                if next(parts.parts() or iter(()), None) is None:  # nothing to continue from
                    parts.remove()
                raise
