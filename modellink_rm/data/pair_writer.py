"""Chunks of rows to the indexed files of a data set, with everything that the manifest counts."""

import collections
import json
from collections.abc import Collection, Sequence
from typing import BinaryIO

import numpy as np

from modellink_rm.config.preprocess import CHECKS
from modellink_rm.data import checks
from modellink_rm.data.indexed import FileEntry, IndexedWriter
from modellink_rm.data.lengths import LengthCounts
from modellink_rm.data.manifest import PAIR_ARRAYS
from modellink_rm.data.pair import IGNORED_LABEL
from modellink_rm.data.rows import Refused, Rows

_KEEP = {"chosen": np.array([True, True, False]), "rejected": np.array([True, False, True])}
_IS_PROMPT = np.array([True, False, False])


class PairWriter:
    """Writes rows in the order they come, finds duplicates among them, and counts.

    Args:
        files: a .bin and a .idx for each of PAIR_ARRAYS.
        drop: names of the checks whose pairs are no rows.
        rejects: where refused records go, a line each, or None.
    """

    def __init__(self, files: Sequence[BinaryIO], *, drop: Collection[str], rejects: BinaryIO | None) -> None:
        writers = [IndexedWriter(*pair) for pair in zip(files[::2], files[1::2], strict=True)]
        self._writers = dict(zip(PAIR_ARRAYS, writers, strict=True))
        self._drops_duplicates = "duplicate" in drop
        self._rejects = rejects
        self._digests = checks.DigestSet()
        self.num_read = 0
        self.num_kept = 0
        self.dropped: collections.Counter[str] = collections.Counter()
        self._noted = dict.fromkeys(checks.NAMES, 0)
        self._found = dict.fromkeys(checks.NAMES, 0)
        self.lengths = {name: LengthCounts() for name in ("prompt", "chosen", "rejected", "row")}

    def add(self, rows: Rows) -> None:
        """Append the rows of a chunk."""
        is_new = np.array([not self._digests.add(digest) for digest in rows.digests.tolist()], bool)
        refused = rows.refused
        flags = rows.flags | np.where(is_new, 0, checks.DUPLICATE).astype(np.uint8)
        keeps = np.ones(len(flags), bool)
        if self._drops_duplicates and not is_new.all():
            keeps = is_new
            refused = sorted(refused + _duplicates(rows, flags, is_new), key=lambda entry: entry.index)
        for refusal in refused:
            self._refuse(refusal)
        self.num_read += rows.num_records
        self.num_kept += int(keeps.sum())
        for bit, name in enumerate(checks.NAMES):
            count = int((flags[keeps] >> bit & 1).sum())
            self._noted[name] += count
            self._found[name] += count
        self._write(rows.ids, rows.lengths, keeps)

    def _write(self, ids: np.ndarray, lengths: np.ndarray, keeps: np.ndarray) -> None:
        counts = lengths.reshape(-1)
        is_prompt = np.repeat(np.tile(_IS_PROMPT, len(lengths)), counts)
        labels = np.where(is_prompt, np.int32(IGNORED_LABEL), ids)
        kept = lengths[keeps]
        for part, column in zip(("prompt", "chosen", "rejected"), kept.T, strict=True):
            self.lengths[part].add(column)
        for side, (_, *answers) in _KEEP.items():
            takes = np.repeat((_KEEP[side] & keeps[:, None]).reshape(-1), counts)
            row_lengths = kept[:, 0] + kept[:, 1 if answers[0] else 2]
            self.lengths["row"].add(row_lengths)
            self._writers[f"{side}_input_ids"].append(ids[takes], row_lengths)
            self._writers[f"{side}_labels"].append(labels[takes], row_lengths)

    def _refuse(self, refused: Refused) -> None:
        self.dropped[refused.reason] += 1
        self._found.update({name: self._found[name] + 1 for name in checks.names_in(refused.flags)})
        if self._rejects is not None:
            self._rejects.write(_rejects_line(refused))

    def notes(self) -> dict[str, int]:
        """What is odd but kept -> number of pairs, without zeros."""
        return {CHECKS[name]: count for name, count in self._noted.items() if count}

    def found(self) -> dict[str, int]:
        """Name of a check -> number of pairs with it, kept or dropped."""
        return dict(self._found)

    def finish(self) -> list[FileEntry]:
        """Complete the files; what they hold, in their order."""
        return [entry for writer in self._writers.values() for entry in writer.finish()]


def _duplicates(rows: Rows, flags: np.ndarray, is_new: np.ndarray) -> list[Refused]:
    found = []
    for row in np.flatnonzero(~is_new).tolist():
        place = rows.places[row] if rows.places else ""
        text = rows.texts[row] if rows.texts else None
        reason = CHECKS["duplicate"]
        found.append(Refused(place, reason, reason, False, int(flags[row]), row, text))
    return found


def _rejects_line(refused: Refused) -> bytes:
    """One line of --rejects: the record as it is where it is JSON, else as text."""
    entry: dict[str, object] = {"place": refused.place, "reason": refused.reason, "message": refused.message}
    text = (refused.text or "").encode("latin-1")
    try:
        entry["record"] = json.loads(text)
    except ValueError:
        entry["text"] = text.decode(errors="backslashreplace")
    except RecursionError:
        entry["text"] = text.decode(errors="backslashreplace")
    return json.dumps(entry).encode() + b"\n"
