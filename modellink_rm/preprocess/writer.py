"""Writing rows to the indexed files of a data set, and counting what the manifest reports."""

import collections
import json
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import orjson

from modellink_rm.base.checksums import FileEntry
from modellink_rm.config.preprocess import CHECKS
from modellink_rm.dataset.example import IGNORED_LABEL
from modellink_rm.dataset.indexed import IndexedWriter
from modellink_rm.dataset.lengths import LengthCounts
from modellink_rm.dataset.manifest import COLUMNS, PAIR_ARRAYS
from modellink_rm.preprocess import checks
from modellink_rm.preprocess.rows import Refused, Rows
from modellink_rm.records.duplicate_keys import DuplicateKeyError, parsed_by_key


class RowWriter:
    """Writes rows in the given order, finds duplicates among them, and counts.

    Args:
        files: a .bin and a .idx for each of PAIR_ARRAYS and of COLUMNS; those of a column without values
            stay empty.
        drop: names of the checks whose pairs are dropped.
        rejects: file for the refused records, one per line, or None.
    """

    def __init__(self, files: Sequence[BinaryIO], *, drop: Collection[str], rejects: BinaryIO | None) -> None:
        dtypes = dict.fromkeys(PAIR_ARRAYS, "int32") | COLUMNS
        self._writers = {
            name: IndexedWriter(*pair, dtype)
            for (name, dtype), pair in zip(
                dtypes.items(), zip(files[::2], files[1::2], strict=True), strict=True
            )
        }
        self._columns: set[str] = set()  # those that say something
        self.attributes: list[str] = []
        self._drops_duplicates = "duplicate" in drop
        self._rejects = rejects
        self._digests = checks.DigestSet()
        self.num_read = 0
        self.num_kept = 0
        self.num_responses: collections.Counter[int] = collections.Counter()
        self.num_ties = 0
        self.num_steps = 0
        self.num_wrong_steps = 0
        self.dropped: collections.Counter[str] = collections.Counter()
        self._noted = dict.fromkeys(checks.NAMES, 0)
        self._found = dict.fromkeys(checks.NAMES, 0)
        self.lengths = {name: LengthCounts() for name in ("prompt", "chosen", "rejected", "row")}

    def add(self, rows: Rows) -> None:
        """Append the rows of a block."""
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
        self._write_rows(rows, keeps)
        self._write_columns(rows, keeps)

    def _write_rows(self, rows: Rows, keeps: np.ndarray) -> None:
        ends = np.cumsum(rows.lengths, dtype=np.int64)
        places = list(zip((ends - rows.lengths).tolist(), ends.tolist(), strict=True))
        parts = [rows.ids[start:end] for start, end in places]  # views: of every row prompt and answers
        longest_prompt = max((len(part) for part in parts), default=0)
        ignored = np.full(longest_prompt, IGNORED_LABEL, np.int32)
        sequences: dict[str, list[np.ndarray]] = {array: [] for array in PAIR_ARRAYS}
        lengths: dict[str, list[int]] = {part: [] for part in self.lengths}
        row_lengths: dict[str, list[int]] = {"chosen": [], "rejected": []}
        firsts = np.concatenate([[0], np.cumsum(rows.num_responses + 1)]).tolist()
        for is_kept, (first, last) in zip(keeps.tolist(), pairwise(firsts), strict=True):
            if not is_kept:
                continue
            prompt, *answers = parts[first:last]
            lengths["prompt"].append(len(prompt))
            for number, answer in enumerate(answers):
                side = "rejected" if number else "chosen"
                sequences[f"{side}_input_ids"] += (prompt, answer)
                sequences[f"{side}_labels"] += (ignored[: len(prompt)], answer)
                lengths[side].append(len(answer))
                row_lengths[side].append(len(prompt) + len(answer))
        lengths["row"] = row_lengths["chosen"] + row_lengths["rejected"]
        for part, found in lengths.items():
            self.lengths[part].add(np.array(found, np.int32))
        for array, values in sequences.items():
            side = array.partition("_")[0]
            documents = rows.num_responses[keeps] - 1 if side == "rejected" else None
            together = np.concatenate(values) if values else np.empty(0, np.int32)
            self._writers[array].append(together, np.array(row_lengths[side], np.int32), documents)

    def _write_columns(self, rows: Rows, keeps: np.ndarray) -> None:
        counts = rows.num_responses
        ranks = rows.ranks[np.repeat(keeps, counts)]
        keeps_others = np.repeat(keeps, counts - 1)
        margins, probabilities = rows.margins[keeps_others], rows.probabilities[keeps_others]
        sources = [source.encode() for source in rows.sources] or [b""] * len(keeps)
        kept_sources = [source for source, is_kept in zip(sources, keeps.tolist(), strict=True) if is_kept]
        counts = counts[keeps]
        self.num_responses.update(counts.tolist())
        last_ranks = ranks[np.cumsum(counts) - 1]
        self.num_ties += int((last_ranks < counts).sum())  # ranks have no gaps
        self._writers["ranks"].append(ranks, counts)
        self._writers["margin"].append(margins, counts - 1)
        self._writers["probability"].append(probabilities, counts - 1)
        if rows.attributes:
            self.attributes = rows.attributes
            num_ratings = counts * len(rows.attributes)
            is_kept = np.repeat(keeps, rows.num_responses * len(rows.attributes))
            self._writers["ratings"].append(rows.ratings[is_kept], num_ratings.astype(np.int32))
        self._writers["source"].append(
            np.frombuffer(b"".join(kept_sources), np.uint8),
            np.array([len(source) for source in kept_sources], np.int32),
        )
        has_steps = self._write_steps(rows, keeps)
        says = {
            "ranks": (counts != 2).any(),
            "margin": not np.isnan(margins).all(),
            "probability": not np.isnan(probabilities).all(),
            "ratings": bool(rows.attributes) and len(counts) > 0,
            "source": any(kept_sources),
            "step_ends": has_steps,
            "step_labels": has_steps,
        }
        self._columns.update(column for column, is_said in says.items() if is_said)

    def _write_steps(self, rows: Rows, keeps: np.ndarray) -> bool:
        """Write the columns of steps; whether there is one."""
        keeps_steps, counts = np.repeat(keeps, rows.num_steps), rows.num_steps[keeps]
        labels = rows.step_labels[keeps_steps]
        self._writers["step_ends"].append(rows.step_ends[keeps_steps], counts)
        self._writers["step_labels"].append(labels, counts)
        self.num_steps += int((~np.isnan(labels)).sum())
        self.num_wrong_steps += int((labels < 0.5).sum())
        return bool(counts.any())

    def _refuse(self, refused: Refused) -> None:
        self.dropped[refused.reason] += 1
        self._found.update({name: self._found[name] + 1 for name in checks.names_in(refused.flags)})
        if self._rejects is not None:
            self._rejects.write(_rejects_line(refused))

    def notes(self) -> dict[str, int]:
        """Finding -> number of kept pairs with it, without zeros."""
        return {CHECKS[name]: count for name, count in self._noted.items() if count}

    def found(self) -> dict[str, int]:
        """Name of a check -> number of pairs with it, kept or dropped."""
        return dict(self._found)

    def finish(self) -> dict[str, tuple[FileEntry, FileEntry]]:
        """Complete the files; what the .bin and the .idx of each array and each column with values hold."""
        entries = {}
        for name, writer in self._writers.items():
            if self._has_values(name):
                entries[name] = writer.finish()
            else:
                writer.discard()
        return entries

    def block_checksums(self) -> bytes:
        """The checksums of every .bin, in the order of `finish`."""
        writers = (writer for name, writer in self._writers.items() if self._has_values(name))
        return b"".join(writer.bin_blocks.values().tobytes() for writer in writers)

    def _has_values(self, name: str) -> bool:
        return name not in COLUMNS or name in self._columns


def _duplicates(rows: Rows, flags: np.ndarray, is_new: np.ndarray) -> list[Refused]:
    found = []
    for row in np.flatnonzero(~is_new).tolist():
        place = rows.places[row] if rows.places else ""
        text = rows.texts[row] if rows.texts else None
        reason = CHECKS["duplicate"]
        found.append(Refused(place, reason, reason, False, int(flags[row]), row, text))
    return found


def _rejects_line(refused: Refused) -> bytes:
    """One line of --rejects: the record itself if every parser of JSON reads it alike, else its text."""
    entry: dict[str, object] = {"place": refused.place, "reason": refused.reason, "message": refused.message}
    text = (refused.text or "").encode("latin-1")
    try:
        orjson.loads(text)  # takes no NaN, and no number beyond the largest, which would be written as none
        entry["record"] = parsed_by_key(text)
    except (ValueError, RecursionError, DuplicateKeyError):
        entry["text"] = text.decode(errors="backslashreplace")
    return json.dumps(entry).encode() + b"\n"
