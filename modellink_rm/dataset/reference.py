"""Log-probabilities of a data set's answers by a reference model, as a column beside its files."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modellink_rm.base.checksums import sealed_json, sha256_of_all, unsealed
from modellink_rm.base.errors import UserError
from modellink_rm.base.files import exclusive, remove_remains, whole_files
from modellink_rm.base.log import warn_once
from modellink_rm.base.parts import PartsFile, removed_if_empty, with_checksum, without_checksum
from modellink_rm.dataset.indexed import IndexedReader, IndexedWriter, bin_path, idx_path
from modellink_rm.dataset.manifest import array_prefix

_MAGIC = b"MLRMREFLP1"
_DTYPE = "float64"


@dataclass(frozen=True, kw_only=True)
class ReferenceColumn:
    """The files of a column: {prefix}_packed_reference_KEY_document.bin and .idx, and a description.

    A row holds the log-probability of each answer of the data set's row, best first. KEY is of the identity,
    so that the columns of several references, or of several sequence lengths, lie beside each other.

    Attributes:
        prefix: of the data set.
        identity: all that determines the values, for JSON: fingerprints of model, template and data, and how
            rows are read.
    """

    prefix: Path
    identity: Mapping[str, Any]

    @cached_property
    def identity_json(self) -> bytes:
        """The identity as JSON."""
        return json.dumps(self.identity, sort_keys=True).encode()

    @cached_property
    def array(self) -> Path:
        """Path of the .bin and the .idx without their endings."""
        key = hashlib.sha256(self.identity_json).hexdigest()[:16]
        return array_prefix(self.prefix, f"reference_{key}")

    @property
    def description(self) -> Path:
        """The file of the identity and of the checksums, which is written last."""
        return self.array.with_name(self.array.name + ".json")

    def open(self) -> IndexedReader | None:
        """The column, compared with its checksums; None if there is none, or not the one that was written."""
        paths = [bin_path(self.array), idx_path(self.array)]
        if not self.description.is_file():
            return None
        try:
            described = unsealed(json.loads(self.description.read_bytes()))
            is_whole = described["identity"] == json.loads(self.identity_json) and (
                described["sha256"] == sha256_of_all(paths)
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            is_whole = False
        if not is_whole:
            warn_once(f"{self.array} has changed since it was written: it is computed again")
            return None
        return IndexedReader(self.array, _DTYPE)

    def write(self, values: NDArray[np.float64], lengths: NDArray[np.int32]) -> None:
        """Write the column, whose files appear when they are whole, the description last.

        Args:
            values: float64, of all rows one after the other.
            lengths: int32 [num_rows], answers of each row.
        """
        paths = [bin_path(self.array), idx_path(self.array), self.description]
        remove_remains(paths)
        with whole_files(paths) as (bin_file, idx_file, description):
            writer = IndexedWriter(bin_file, idx_file, _DTYPE)
            writer.append(values, lengths)
            sums = [entry.sha256 for entry in writer.finish()]
            described = {"identity": json.loads(self.identity_json), "sha256": sums}
            description.write(sealed_json(described, indent=1))


class ReferenceParts(PartsFile):
    """The values of the first rows of a column that is being computed; a run that is killed continues."""

    def finished(self, identity: bytes) -> list[NDArray[np.float64]]:
        """The values that an earlier run left, part by part; further parts follow."""
        found = self.parts()
        if found is None:
            self.start_over(identity)
            return []
        values, end = [], self.position()
        for part in found:
            content = without_checksum(part)
            if content is None:
                break
            values.append(np.frombuffer(content, "<f8"))
            end = self.position()
        self.end_at(end)
        return values

    def add(self, values: NDArray[np.float64]) -> None:
        """Add the values of the next rows."""
        self.append(with_checksum(values.astype("<f8").tobytes()))


@contextmanager
def reference_parts(column: ReferenceColumn) -> Iterator[ReferenceParts]:
    """The parts of a column, locked by this process until the block ends.

    Raises:
        UserError: another run computes the column, or nothing can be written beside the data.
    """
    path = column.array.with_name(f".{column.array.name}.parts")
    message = f"{column.array} is being computed by another run: start this one when that has begun to train"
    try:
        with exclusive(path, message) as file:
            parts = ReferenceParts(path, file, magic=_MAGIC)
            with removed_if_empty(parts):
                yield parts
    except PermissionError as error:
        raise UserError(
            f"the log-probabilities of the reference cannot be written beside the data: {error.filename}: "
            f"{error.strerror}; copy the data set to where it can be written"
        ) from None
