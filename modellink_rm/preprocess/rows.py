"""The results of a block of records, which workers return and parts files store."""

import dataclasses
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modellink_rm.base.json_types import has_type

_ARRAYS = {
    "num_responses": "<i4",
    "lengths": "<i4",
    "digests": "<u8",
    "flags": "u1",
    "ranks": "<i4",
    "margins": "<f4",
    "probabilities": "<f4",
    "ratings": "<f4",
    "num_steps": "<i4",
    "step_ends": "<i4",
    "step_labels": "<f4",
    "ids": "<i4",
}

# The types of what is not in arrays, and of a refused record.
_HEAD: dict[str, Any] = {
    **{"num_bytes": int, "num_records": int, "crc32": int},
    **{"attributes": list[str], "sources": list[str], "places": list[str], "texts": list[str]},
}
_REFUSED = tuple[str, str, str, bool, int, int, str | None]


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that did not become a row.

    Attributes:
        place: "file:line", or "file[index]".
        reason: a short form of the message, by which such records are counted.
        message: why it was refused.
        is_bad: False if the record is valid, but a check or a limit dropped it.
        flags: bits of the checks that found something.
        index: number of the block's rows before it.
        text: the record, latin-1 for bytes, if --rejects is given.
    """

    place: str
    reason: str
    message: str
    is_bad: bool = True
    flags: int = 0
    index: int = 0
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The results of a block of records.

    Attributes:
        num_bytes: of the records' text.
        num_records: all records of the block.
        crc32: of the records' text, to check whether the input is unchanged.
        refused: the records that did not become rows, in order.
        num_responses: int32 [num_rows], 2 for a pair, 1 for a response in steps.
        lengths: int32, for each row the tokens of its prompt and of each answer.
        digests: uint64 [num_rows], equal if all ids are equal.
        flags: uint8 [num_rows], bits of the checks.
        ranks: int32, for each row the ranks of its responses, best first.
        margins: float32, for each row the margins of its responses but the first; NaN if it has none.
        probabilities: float32, likewise the probabilities that the first is preferred to it.
        num_steps: int32 [num_rows], 0 for a row whose responses are scored as a whole.
        step_ends: int32, for each row where its steps end, among the tokens of prompt and response.
        step_labels: float32, the probabilities that they are right; NaN where the record does not say.
        ids: int32, for each row its prompt and its answers, best first.
        attributes: what is rated; empty if nothing is.
        ratings: float32, for each response of each row its ratings, NaN if one is not given.
        sources: of the rows, "" if a row has none; empty if no row has one.
        places: of the rows, if --rejects may need them.
        texts: of the rows, latin-1 for bytes, likewise.
    """

    num_bytes: int
    num_records: int
    crc32: int = 0
    refused: list[Refused] = field(default_factory=list)
    num_responses: NDArray[np.int32]
    lengths: NDArray[np.int32]
    digests: NDArray[np.uint64]
    flags: NDArray[np.uint8]
    ranks: NDArray[np.int32]
    margins: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    num_steps: NDArray[np.int32]
    step_ends: NDArray[np.int32]
    step_labels: NDArray[np.float32]
    ids: NDArray[np.int32]
    attributes: list[str] = field(default_factory=list)
    ratings: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    sources: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def to_bytes(rows: Rows) -> bytes:
    """The results as bytes without pickles, followed by a checksum."""
    arrays = {name: getattr(rows, name).astype(kind, copy=False) for name, kind in _ARRAYS.items()}
    head: dict[str, Any] = {
        "num_bytes": rows.num_bytes,
        "num_records": rows.num_records,
        "crc32": rows.crc32,
        "refused": [dataclasses.astuple(refused) for refused in rows.refused],
        "attributes": rows.attributes,
        "sources": rows.sources,
        "places": rows.places,
        "texts": rows.texts,
        "sizes": {name: array.size for name, array in arrays.items()},
    }
    encoded = json.dumps(head).encode()
    parts = [len(encoded).to_bytes(8, "little"), encoded, *(array.tobytes() for array in arrays.values())]
    body = b"".join(parts)
    return body + zlib.crc32(body).to_bytes(4, "little")


def from_file(data: bytes) -> Rows | None:
    """The results in a file; None if they are incomplete, contradict themselves, or are none."""
    try:
        rows = from_bytes(data)
        return rows if rows is not None and _is_consistent(rows) else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _is_consistent(rows: Rows) -> bool:
    """Whether the values have their types, and belong to the rows that there are.

    Raises:
        ValueError: a text is none that could have been read.
    """
    values = {name: getattr(rows, name) for name in _HEAD}
    refused = [dataclasses.astuple(one) for one in rows.refused]
    if not all(map(has_type, values.values(), _HEAD.values())) or not has_type(refused, list[_REFUSED]):
        return False
    for one in rows.refused:
        f"{one.place}{one.reason}{one.message}".encode()
        (one.text or "").encode("latin-1")
    "".join(rows.attributes + rows.sources + rows.places).encode()
    "".join(rows.texts).encode("latin-1")
    num_rows, answers = len(rows.num_responses), rows.num_responses.astype(np.int64)
    sizes = {
        "digests": num_rows,
        "flags": num_rows,
        "lengths": (answers + 1).sum(),
        "ranks": answers.sum(),
        "margins": (answers - 1).sum(),
        "probabilities": (answers - 1).sum(),
        "ratings": answers.sum() * len(rows.attributes),
        "num_steps": num_rows,
        "step_ends": rows.num_steps.astype(np.int64).sum(),
        "step_labels": rows.num_steps.astype(np.int64).sum(),
        "ids": rows.lengths.astype(np.int64).sum(),
    }
    return (
        all(len(getattr(rows, name)) == size for name, size in sizes.items())
        and all(len(texts) in (0, num_rows) for texts in (rows.sources, rows.places, rows.texts))
        and all(0 <= one.index <= num_rows and 0 <= one.flags < 256 for one in rows.refused)
        and bool(np.all(answers >= 1) and np.all(rows.lengths >= 0))
        and bool(np.all(rows.num_steps >= 0))
        and rows.num_records == num_rows + len(rows.refused)
        and rows.num_bytes >= 0
    )


def from_bytes(data: bytes) -> Rows | None:
    """The results that `to_bytes` wrote; None if the bytes are incomplete."""
    view = memoryview(data)
    if len(data) < 12 or zlib.crc32(view[:-4]) != int.from_bytes(view[-4:], "little"):
        return None
    start = 8 + int.from_bytes(view[:8], "little")
    head = json.loads(bytes(view[8:start]))
    arrays = {}
    for name, kind in _ARRAYS.items():
        arrays[name] = np.frombuffer(data, kind, head["sizes"][name], start)
        start += arrays[name].nbytes
    return Rows(
        num_bytes=head["num_bytes"],
        num_records=head["num_records"],
        crc32=head["crc32"],
        refused=[Refused(*values) for values in head["refused"]],
        attributes=head["attributes"],
        sources=head["sources"],
        places=head["places"],
        texts=head["texts"],
        **arrays,
    )
