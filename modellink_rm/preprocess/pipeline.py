"""Preference records to indexed files: the pipeline of preprocess_data.py."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.checksums import FileEntry
from modellink_rm.base.errors import UserError
from modellink_rm.base.files import check_outputs, remove_remains, whole_files
from modellink_rm.base.log import info, warn_once
from modellink_rm.base.parts import InputChangedError
from modellink_rm.config.preprocess import PreprocessConfig, placeholder_text
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.dataset.indexed import bin_path, idx_path
from modellink_rm.dataset.manifest import (
    COLUMNS,
    Manifest,
    array_prefix,
    checksums_path,
    column_files,
    data_files,
    key_of,
    manifest_path,
    mark_unfinished,
    serialized,
)
from modellink_rm.handlers import missing_fields
from modellink_rm.handlers.custom import files_of_handler
from modellink_rm.preprocess.encode import RecordEncoder
from modellink_rm.preprocess.executor.local import WorkerDiedError, ordered_map
from modellink_rm.preprocess.identity import RunIdentity, identity_of
from modellink_rm.preprocess.parts import Parts, locked_parts, parts_path
from modellink_rm.preprocess.report import Progress
from modellink_rm.preprocess.rows import Refused, Rows, from_bytes
from modellink_rm.preprocess.tokenizer_comparison import warn_if_files_differ
from modellink_rm.preprocess.writer import RowWriter
from modellink_rm.records import (
    RawRecord,
    Record,
    RecordBlock,
    blocks_of,
    check_resumed_block,
    input_files,
    parse_record,
    read_raw_records,
    text_bytes,
    text_crc32,
)
from modellink_rm.tokenizers.directory import tokenizer_files

# Records in a block; its bytes are bounded too, for very long records.
_BLOCK_RECORDS = 64
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The shard that one process of a job array wrote.

    Attributes:
        path: of its parts file.
        num_records: number of records in it.
    """

    path: Path
    num_records: int


def preprocess(config: PreprocessConfig, tokenizer_config: TokenizerConfig) -> Manifest | Shard:
    """Write the 8 files of a data set and its manifest, which appear together when all is done.

    With --num-shards: write one shard's parts, which `merge_shards` makes the data set of.

    Raises:
        UserError: the flags or the input cannot work, another run writes the same files, nothing was
            kept, or there is a bad record and --strict was given.
        OSError: a file cannot be read or written.
    """
    check_outputs(_outputs(config), inputs=_inputs(config, tokenizer_config))
    work = RecordEncoder(config, tokenizer_config)
    warn_if_files_differ(work.tokenizer, tokenizer_config, _raw_records(config))
    return preprocess_with(work, config)


def preprocess_with(work: RecordEncoder, config: PreprocessConfig) -> Manifest | Shard:
    """As `preprocess`, with a tokenizer that is loaded already."""
    identity = identity_of(config, work)
    prefix = Path(config.output_prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    path = parts_path(prefix, config.shard_index, config.num_shards)
    with locked_parts(path, flag=f"--output-prefix {prefix}") as parts:
        if config.resume:
            parts.check(identity)
        try:
            blocks = _all_rows(config, work, parts, identity)
            if config.num_shards > 1:
                num_records = sum(rows.num_records for rows in blocks)
                return Shard(path=path, num_records=num_records)
            manifest = write_dataset(blocks, prefix, identity, rejects=config.rejects)
        except (WorkerDiedError, InputChangedError):
            raise  # finished parts stay valid: --resume continues from them
        except UserError:
            parts.remove()
            raise
        parts.remove()
    return manifest


def write_dataset(
    blocks: Iterable[Rows], prefix: Path, identity: RunIdentity, *, rejects: str | None
) -> Manifest:
    """Write rows as a data set, in their order.

    Args:
        blocks: the rows.
        prefix: of the files.
        identity: of the run or the shards that made the rows.
        rejects: path for the refused records, or None.

    Raises:
        UserError: nothing was kept.
    """
    columns = [path for column in COLUMNS for path in column_files(prefix, column)]
    data_paths = [*data_files(prefix), *columns]
    paths = [path for _, path in dataset_outputs(prefix, rejects)]
    remove_remains(paths)
    with whole_files(paths, optional=columns, before_renaming=lambda: mark_unfinished(prefix)) as files:
        data, (*rest, checksums_file, manifest_file) = files[: len(data_paths)], files[len(data_paths) :]
        writer = RowWriter(data, drop=identity.drop, rejects=rest[0] if rest else None)
        for rows in blocks:
            writer.add(rows)
        if writer.num_kept == 0:
            raise UserError(_nothing_kept_message(writer, identity))
        manifest = _manifest(writer, prefix, identity)
        checksums_file.write(writer.block_checksums())
        manifest_file.write(serialized(manifest))
    return manifest


def dataset_outputs(prefix: Path, rejects: str | None) -> list[tuple[str, Path]]:
    """Every file of a data set and --rejects if there is one, each with its flag; the manifest last.

    The last one to take its name, it says which files belong together.
    """
    columns = [path for column in COLUMNS for path in column_files(prefix, column)]
    flag = f"--output-prefix {prefix}"
    return [
        *((flag, path) for path in (*data_files(prefix), *columns)),
        *([(f"--rejects {rejects}", Path(rejects))] if rejects else []),
        (flag, checksums_path(prefix)),
        (flag, manifest_path(prefix)),
    ]


def _outputs(config: PreprocessConfig) -> list[tuple[str, Path]]:
    prefix = Path(config.output_prefix)
    parts = parts_path(prefix, config.shard_index, config.num_shards)
    return [*dataset_outputs(prefix, config.rejects), (f"--output-prefix {prefix}", parts)]


def _inputs(config: PreprocessConfig, tokenizer_config: TokenizerConfig) -> list[Path]:
    """The files that are read."""
    others = [Path(config.prompt_type_path)] if config.prompt_type_path else []
    others += files_of_handler(config.handler_name)
    return [*input_files(config.input), *tokenizer_files(tokenizer_config), *others]


def _raw_records(config: PreprocessConfig) -> Iterator[RawRecord]:
    return read_raw_records(config.input, config)


def _all_rows(
    config: PreprocessConfig, work: RecordEncoder, parts: Parts, identity: RunIdentity
) -> Iterator[Rows]:
    """The results of every block in order: first those of an earlier run, then new ones.

    The parts of a shard are complete afterwards.
    """
    num_bytes = text_bytes(input_files(config.input))
    records = _checked_against_map_keys(_raw_records(config), config.map_keys)
    all_blocks = blocks_of(records, num_records=_BLOCK_RECORDS, num_bytes=_BLOCK_BYTES)
    input_crc32 = _InputChecksum()
    if config.num_shards > 1:
        all_blocks = input_crc32.read(all_blocks)
    blocks = itertools.islice(all_blocks, config.shard_index, None, config.num_shards)
    with Progress(num_bytes // config.num_shards, log_interval=config.log_interval) as progress:
        finished: Iterator[Rows] = iter(())
        if config.resume:
            finished = parts.whole_parts(identity)
        else:
            if parts.holds_parts():
                info(f"{parts.path}, left by a run that did not end, is replaced; --resume would continue it")
            parts.start(identity)
        num_finished = 0
        for rows in finished:
            num_finished += 1
            check_resumed_block(next(blocks, RecordBlock()), num_records=rows.num_records, crc32=rows.crc32)
            _bad_records(rows, is_strict=config.strict)  # the earlier run may have been without the flag
            progress.add(num_records=rows.num_records, num_bytes=rows.num_bytes, bad=[])
            yield rows
        if config.resume:
            info(f"--resume: {num_finished:,} parts were there already")
        for part in ordered_map(work, blocks, workers=config.workers):
            new = from_bytes(part)
            assert new is not None
            bad = _bad_records(new, is_strict=config.strict)
            parts.append(part)
            progress.add(num_records=new.num_records, num_bytes=new.num_bytes, bad=bad)
            yield new
    if config.num_shards > 1:
        parts.end(input_crc32.value)


class _InputChecksum:
    """The checksum of the records that are read, by which shards of one input are known."""

    def __init__(self) -> None:
        self.value = 0

    def read(self, blocks: Iterable[RecordBlock]) -> Iterator[RecordBlock]:
        """The blocks, whose records `value` then covers."""
        for block in blocks:
            self.value = text_crc32(block, self.value)
            yield block


def _bad_records(rows: Rows, *, is_strict: bool) -> list[Refused]:
    """The records of a block that cannot be used.

    Raises:
        UserError: there is one, and --strict is given.
    """
    bad = [refused for refused in rows.refused if refused.is_bad]
    if is_strict and bad:
        raise UserError(f"{bad[0].place}: {bad[0].message}")
    return bad


def _manifest(writer: RowWriter, prefix: Path, identity: RunIdentity) -> Manifest:
    entries = {
        key_of(path(array_prefix(prefix, name)), prefix): entry
        for name, pair in writer.finish().items()
        for path, entry in zip((bin_path, idx_path), pair, strict=True)
    }
    blocks = writer.block_checksums()
    entries[key_of(checksums_path(prefix), prefix)] = FileEntry(
        size=len(blocks), sha256=hashlib.sha256(blocks).hexdigest()
    )
    lengths = {name: counts.statistics() for name, counts in writer.lengths.items()}
    return Manifest(
        package_version=identity.package_version,
        num_read=writer.num_read,
        num_kept=writer.num_kept,
        dropped=dict(writer.dropped),
        notes=writer.notes(),
        num_tokens=lengths["row"].total,
        longest=lengths["row"].longest,
        handler=identity.handler_name,
        map_keys=identity.map_keys,
        seq_length=identity.seq_length,
        template=identity.prompt_type,
        template_fingerprint=identity.template_fingerprint,
        template_definition=identity.template_definition,
        tokenizer=identity.tokenizer,
        tokenizer_fingerprint=identity.tokenizer_fingerprint,
        checks=writer.found(),
        drop=list(identity.drop),
        num_responses={str(number): writer.num_responses[number] for number in sorted(writer.num_responses)},
        attributes=writer.attributes,
        num_ties=writer.num_ties,
        num_steps=writer.num_steps,
        num_wrong_steps=writer.num_wrong_steps,
        placeholder_token=placeholder_text(identity.other_flags["placeholder_token"])
        if writer.num_steps
        else None,
        lengths=lengths,
        files=entries,
    )


def _nothing_kept_message(writer: RowWriter, identity: RunIdentity) -> str:
    if writer.num_read == 0:
        return f"--input {' '.join(identity.input)} holds no records; nothing was written"
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in writer.dropped.most_common())
    lacks_fields = any(reason.endswith("is missing") for reason in writer.dropped)
    remedy = (
        "; give the names of your fields with --map-keys, or another --handler-name" if lacks_fields else ""
    )
    return f"none of the {writer.num_read:,} records was kept ({reasons}); nothing was written{remedy}"


def _checked_against_map_keys(records: Iterable[RawRecord], map_keys: str | None) -> Iterator[RawRecord]:
    """The records; warns if the first one lacks a field that --map-keys names.

    Otherwise nobody would notice a mistyped name of an optional field.
    """
    for index, raw in enumerate(records):
        record = parse_record(raw) if index == 0 else None
        if isinstance(record, Record):
            for name in missing_fields(map_keys, record.fields):
                warn_once(f"--map-keys names a field {name!r}, which {record.place} does not have")
        yield raw
