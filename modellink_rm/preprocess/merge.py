"""Merging shards into the data set of a single run, and indexed files into larger ones."""

import glob
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import check_outputs, whole_files
from modellink_rm.base.parts import first_difference
from modellink_rm.dataset.indexed import IndexedReader, IndexedWriter, bin_path, idx_path
from modellink_rm.dataset.manifest import Manifest, manifest_path, mark_unfinished
from modellink_rm.preprocess.parts import locked_parts, parts_path, read_shard
from modellink_rm.preprocess.pipeline import dataset_outputs, write_dataset
from modellink_rm.preprocess.rows import Rows

_BLOCK_ROWS = 1024


def merge_shards(prefix: Path, *, rejects: str | None) -> Manifest:
    """Write the data set of the shards at `prefix`, byte for byte as a single run does, and remove them.

    Raises:
        UserError: a shard is missing, incomplete, or of another run.
    """
    paths = _shards_of(prefix)
    check_outputs(dataset_outputs(prefix, rejects), inputs=paths)
    with locked_parts(parts_path(prefix), flag=f"--output-prefix {prefix}"):
        shards = [read_shard(path) for path in paths]
        identity = shards[0][0]
        for path, (other, _) in zip(paths, shards, strict=True):
            difference = first_difference(identity.to_json(), other.to_json())
            if difference:
                raise UserError(f"{path} was made with another {difference} than {paths[0].name}")
        if rejects is not None and not identity.keeps_rejects:
            raise UserError("--rejects: the shards ran without it, so they hold no refused records")
        manifest = write_dataset(_in_turns([rows for _, rows in shards]), prefix, identity, rejects=rejects)
        for path in paths:
            path.unlink()
    return manifest


def _shards_of(prefix: Path) -> list[Path]:
    """The shards' files in order."""
    pattern = re.compile(re.escape(prefix.name) + r"_shard_(\d+)_of_(\d+)\.parts")
    names = [path.name for path in prefix.parent.glob(f"{glob.escape(prefix.name)}_shard_*.parts")]
    found = [match for name in names if (match := pattern.fullmatch(name))]
    if not found:
        raise UserError(
            f"there are no shards {prefix}_shard_*.parts: run with --shard-index and --num-shards"
        )
    totals = {int(match[2]) for match in found}
    if len(totals) > 1:
        raise UserError(f"{prefix} has shards of {sorted(totals)}: remove those of the wrong --num-shards")
    (num_shards,) = totals
    missing = sorted(set(range(num_shards)) - {int(match[1]) for match in found})
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise UserError(f"of the {num_shards} shards of {prefix}, these are missing: {shown}")
    return [parts_path(prefix, index, num_shards) for index in range(num_shards)]


def _in_turns(shards: Sequence[Iterator[Rows]]) -> Iterator[Rows]:
    """The blocks in the order of the input: block k is in shard k % num_shards."""
    for blocks in zip_longest(*shards):
        for rows in blocks:
            if rows is not None:
                yield rows


def merge_groups(directory: Path, keys: Sequence[str], prefix: Path) -> dict[str, int]:
    """Key -> rows written: every indexed file of `directory` whose name holds the key, sorted by name.

    The files of all keys appear together, when all are whole.

    Raises:
        UserError: no directory, a key that no file's name holds, or a file that is damaged.
    """
    if not directory.is_dir():
        raise UserError(f"--input {directory} is not a directory")
    outputs = {key: prefix.with_name(f"{prefix.name}_{key}") for key in keys}
    stems = sorted(path.with_suffix("") for path in directory.glob("*.idx"))
    sources: dict[str, list[Path]] = {}
    for key in keys:
        sources[key] = [stem for stem in stems if key in stem.name]
        if not sources[key]:
            raise UserError(f"--merge-group-keys {key}: no file in {directory} has it in its name")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    read = {path(stem) for stems in sources.values() for stem in stems for path in (bin_path, idx_path)}
    paths = [path(output) for output in outputs.values() for path in (bin_path, idx_path)]
    check_outputs([(f"--output-prefix {prefix}", path) for path in paths], inputs=read)
    counts = {}
    with whole_files(paths, before_renaming=lambda: mark_unfinished(prefix)) as files:
        for index, (key, key_sources) in enumerate(sources.items()):
            readers = [IndexedReader(source, dtype=None) for source in key_sources]
            _check_dtypes(key, key_sources, readers)
            writer = IndexedWriter(files[2 * index], files[2 * index + 1], readers[0].dtype)
            for reader in readers:
                _append_file(writer, reader)
            counts[key] = sum(map(len, readers))
            writer.finish()
    manifest_path(prefix).unlink()  # one that was there before was of other files
    return counts


def _check_dtypes(key: str, sources: Sequence[Path], readers: Sequence[IndexedReader]) -> None:
    for source, reader in zip(sources, readers, strict=True):
        if reader.dtype != readers[0].dtype:
            raise UserError(
                f"--merge-group-keys {key}: {idx_path(source)} holds {reader.dtype}, "
                f"{idx_path(sources[0]).name} {readers[0].dtype}"
            )


def _append_file(writer: IndexedWriter, reader: IndexedReader) -> None:
    """Append the rows of a file, document by document."""
    start = 0
    for first in range(0, len(reader.documents), _BLOCK_ROWS):
        documents = reader.documents[first : first + _BLOCK_ROWS]
        stop = start + int(documents.sum())
        rows = np.concatenate([reader[row] for row in range(start, stop)])
        writer.append(rows, reader.lengths[start:stop], documents)
        start = stop
