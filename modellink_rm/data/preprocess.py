"""Preference records to indexed files: the flow of preprocess_data.py."""

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import modellink_rm
from modellink_rm.atomic import whole_files
from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.data.handlers import make_handler, missing_fields
from modellink_rm.data.indexed import FileEntry, IndexedWriter
from modellink_rm.data.manifest import (
    PAIR_ARRAYS,
    Manifest,
    data_files,
    key_of,
    manifest_path,
    serialized,
)
from modellink_rm.data.pair import IGNORED_LABEL, Pair
from modellink_rm.data.preprocess_report import Progress
from modellink_rm.data.records import (
    BadRecord,
    RawRecord,
    Record,
    RecordError,
    input_files,
    parse_record,
    read_raw_records,
)
from modellink_rm.data.templates import TEMPLATES, num_closing_tokens, tokenize_pair
from modellink_rm.data.tokenizer import load_tokenizer
from modellink_rm.data.worker_pool import ordered_map
from modellink_rm.errors import UserError
from modellink_rm.log import warn_once

# Records that a worker takes at a time; also bounded in bytes, for very long ones.
_CHUNK_RECORDS = 64
_CHUNK_BYTES = 1 << 20


@dataclass
class Rows:
    """What became of a chunk of records.

    Attributes:
        num_bytes: of the records' text.
        num_records: read, whatever became of them.
        arrays: array name -> the rows of the kept pairs, one after the other.
        lengths: array name -> int32 [num_kept].
        bad: records that cannot be used.
        num_too_long: pairs dropped for their length.
        notes: what is odd but kept -> number of pairs.
    """

    num_bytes: int
    num_records: int
    arrays: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    lengths: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    bad: list[BadRecord] = field(default_factory=list)
    num_too_long: int = 0
    notes: collections.Counter[str] = field(default_factory=collections.Counter)


class PairTokenizer:
    """What every worker does with a chunk of records, its handler, template and tokenizer at hand."""

    def __init__(self, config: PreprocessConfig, tokenizer_config: TokenizerConfig) -> None:
        self._handler = make_handler(config.handler_name, config.map_keys)
        self.template = TEMPLATES[config.prompt_type]
        self.tokenizer = load_tokenizer(tokenizer_config)
        self._seq_length = config.seq_length
        # Prepares the template, so that a token which the tokenizer lacks is known before any input.
        num_closing_tokens(self.template, self.tokenizer)

    def __call__(self, chunk: Sequence[RawRecord]) -> Rows:
        """The rows of a chunk's pairs, and what was dropped of it."""
        rows = Rows(num_bytes=sum(len(raw.text) for raw in chunk), num_records=len(chunk))
        ids: dict[str, list[list[int]]] = {array: [] for array in PAIR_ARRAYS}
        for raw in chunk:
            record = parse_record(raw)
            if isinstance(record, BadRecord):
                rows.bad.append(record)
                continue
            try:
                pair = self._handler(record.fields)
                row = self._row(pair)
            except RecordError as error:
                rows.bad.append(BadRecord(raw.place, error.reason, str(error)))
                continue
            if self._seq_length is not None and max(map(len, row.values())) >= self._seq_length:
                rows.num_too_long += 1
                continue
            rows.notes.update(_notes(pair))
            for array, values in row.items():
                ids[array].append(values)
        for array, lists in ids.items():
            rows.arrays[array] = np.array(list(itertools.chain.from_iterable(lists)), np.int32)
            rows.lengths[array] = np.array([len(values) for values in lists], np.int32)
        return rows

    def _row(self, pair: Pair) -> dict[str, list[int]]:
        """Array name -> token ids or labels of one pair."""
        tokens = tokenize_pair(pair, self.template, self.tokenizer)
        no_labels = [IGNORED_LABEL] * len(tokens.prompt_ids)
        row = {
            "chosen_input_ids": tokens.prompt_ids + tokens.chosen_ids,
            "chosen_labels": no_labels + tokens.chosen_ids,
            "rejected_input_ids": tokens.prompt_ids + tokens.rejected_ids,
            "rejected_labels": no_labels + tokens.rejected_ids,
        }
        if not all(row.values()):
            raise RecordError("no tokens", "prompt and answer have no tokens at all")
        return row


def _notes(pair: Pair) -> Iterator[str]:
    """What is odd about a pair that is kept."""
    if not pair.chosen.content or not pair.rejected.content:
        yield "with an empty answer"
    if pair.chosen == pair.rejected:
        yield "with chosen equal to rejected"


@dataclass
class Totals:
    """Sums over the rows of all chunks, as the manifest names them."""

    num_read: int = 0
    num_kept: int = 0
    num_tokens: int = 0
    longest: int = 0
    dropped: collections.Counter[str] = field(default_factory=collections.Counter)
    notes: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, rows: Rows, *, seq_length: int | None) -> None:
        """Count one chunk."""
        self.num_read += rows.num_records
        self.num_kept += len(rows.lengths["chosen_labels"])
        for side in ("chosen", "rejected"):
            lengths = rows.lengths[f"{side}_input_ids"]
            self.num_tokens += int(lengths.sum())
            self.longest = max(self.longest, int(lengths.max(initial=0)))
        self.dropped.update(record.reason for record in rows.bad)
        if rows.num_too_long:
            self.dropped[f"not shorter than --seq-length {seq_length}"] += rows.num_too_long
        self.notes.update(rows.notes)


def preprocess(config: PreprocessConfig, tokenizer_config: TokenizerConfig) -> Manifest:
    """Write the 8 files of a data set and its manifest, which appear together when all is done.

    Raises:
        UserError: the flags or the input cannot work, nothing was kept, or there is a bad record
            and --strict was given.
        OSError: a file cannot be read or written.
    """
    tokenizer_and_template = PairTokenizer(config, tokenizer_config)
    num_bytes = sum(path.stat().st_size for path in input_files(config.input))
    chunks = _chunks(_checked_against_map_keys(read_raw_records(config.input), config.map_keys))
    prefix = Path(config.output_prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    totals = Totals()
    with (
        Progress(num_bytes, log_interval=config.log_interval) as progress,
        whole_files([*data_files(prefix), manifest_path(prefix)]) as (*files, manifest_file),
    ):
        writers = [IndexedWriter(*pair) for pair in zip(files[::2], files[1::2], strict=True)]
        arguments = (config, tokenizer_config)
        for rows in ordered_map(PairTokenizer, arguments, chunks, workers=config.workers):
            if config.strict and rows.bad:
                raise UserError(f"{rows.bad[0].place}: {rows.bad[0].message}")
            totals.add(rows, seq_length=config.seq_length)
            progress.add(num_records=rows.num_records, num_bytes=rows.num_bytes, bad=rows.bad)
            for array, writer in zip(PAIR_ARRAYS, writers, strict=True):
                writer.append(rows.arrays[array], rows.lengths[array])
        if totals.num_kept == 0:
            raise UserError(_nothing_kept_message(totals, config.input))
        entries = [entry for writer in writers for entry in writer.finish()]
        manifest = _manifest(totals, entries, config, tokenizer_and_template)
        manifest_file.write(serialized(manifest))
    return manifest


def _manifest(
    totals: Totals, entries: Sequence[FileEntry], config: PreprocessConfig, made_with: PairTokenizer
) -> Manifest:
    prefix = Path(config.output_prefix)
    names = [key_of(path, prefix) for path in data_files(prefix)]
    return Manifest(
        package_version=modellink_rm.__version__,
        num_read=totals.num_read,
        num_kept=totals.num_kept,
        dropped=dict(totals.dropped),
        notes=dict(totals.notes),
        num_tokens=totals.num_tokens,
        longest=totals.longest,
        handler=config.handler_name,
        map_keys=config.map_keys,
        seq_length=config.seq_length,
        template=config.prompt_type,
        template_fingerprint=made_with.template.fingerprint,
        # The name alone: the path means nothing on another machine.
        tokenizer=Path(made_with.tokenizer.name).resolve().name,
        tokenizer_fingerprint=made_with.tokenizer.fingerprint,
        files=dict(zip(names, entries, strict=True)),
    )


def _nothing_kept_message(totals: Totals, given: str) -> str:
    if totals.num_read == 0:
        return f"--input {given} holds no records; nothing was written"
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in totals.dropped.most_common())
    return f"none of the {totals.num_read:,} records was kept ({reasons}); nothing was written"


def _checked_against_map_keys(records: Iterable[RawRecord], map_keys: str | None) -> Iterator[RawRecord]:
    """The records; if the first lacks a field that --map-keys names, a warning comes with it.

    An optional field that is in no record would otherwise be a typo that nobody sees.
    """
    for index, raw in enumerate(records):
        record = parse_record(raw) if index == 0 else None
        if isinstance(record, Record):
            for name in missing_fields(map_keys, record.fields):
                warn_once(f"--map-keys names a field {name!r}, which {record.place} does not have")
        yield raw


def _chunks(records: Iterable[RawRecord]) -> Iterator[list[RawRecord]]:
    """The records in lists of bounded length, whatever the number of workers."""
    chunk: list[RawRecord] = []
    num_bytes = 0
    for record in records:
        chunk.append(record)
        num_bytes += len(record.text)
        if len(chunk) == _CHUNK_RECORDS or num_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk
