"""What `score` has finished, in parts that --resume continues from."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from modellink_rm.base.files import remove_remains, whole_file
from modellink_rm.base.json_types import check_types
from modellink_rm.base.log import info
from modellink_rm.base.parts import PartsFile, removed_if_empty, with_checksum, without_checksum
from modellink_rm.inference.totals import Totals
from modellink_rm.records.row_output import is_parquet, json_rows, only_writer
from modellink_rm.records.table_output import write_parquet

_MAGIC = b"MLRMSCORE1"


@dataclass(frozen=True, kw_only=True)
class ScoredPart:
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
    totals: Totals
    rows: bytes

    def to_bytes(self) -> bytes:
        """The part, with a checksum."""
        head = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del head["rows"]
        head["totals"] = dataclasses.asdict(self.totals)
        return with_checksum(json.dumps(head).encode() + b"\n" + self.rows)


def part_from_bytes(data: bytes) -> ScoredPart | None:
    """The part that `to_bytes` wrote; None if it is damaged."""
    content = without_checksum(data)
    if content is None:
        return None
    head, _, rows = content.partition(b"\n")
    try:
        values: dict[str, Any] = json.loads(head)
        check_types(Totals, values["totals"])
        return ScoredPart(**{**values, "totals": Totals(**values["totals"])}, rows=rows)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


class ScoreParts(PartsFile):
    """The parts of the run that writes one output."""

    def whole_parts(self) -> Iterator[ScoredPart]:
        """The finished parts; afterwards further ones can be added."""
        found = self.parts()
        assert found is not None  # they have an identity since they were opened
        end = self.position()
        for data in found:
            part = part_from_bytes(data)
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


def score_identity(values: Mapping[str, Any]) -> bytes:
    """All that determines the rows of a run, as JSON."""
    return json.dumps(values, sort_keys=True, default=str).encode()


@contextmanager
def score_parts(output: str, identity: bytes, *, resume: bool) -> Iterator[ScoreParts]:
    """The parts file of an output, locked; without `resume` the parts of an earlier run are discarded.

    Raises:
        UserError: another run is writing that output, or `resume` and the earlier run had other flags.
    """
    path = Path(output)
    hidden = path.with_name(f".{path.name}.parts")
    with only_writer(hidden, output) as file:
        parts = ScoreParts(hidden, cast("BinaryIO", file), magic=_MAGIC)
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
