"""Merging indexed files by a key in their names, as ModelLink does, where their manifests let them be one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from modellink_rm.base.errors import UserError, listed
from modellink_rm.base.files import check_outputs, remove_remains, version_of, whole_files
from modellink_rm.base.log import info, warn_once
from modellink_rm.dataset.checksums import read_checksums
from modellink_rm.dataset.indexed import ArrayChecksums, IndexedReader, IndexedWriter, bin_path, idx_path
from modellink_rm.dataset.manifest import (
    COLUMNS,
    PAIR_ARRAYS,
    Manifest,
    array_prefix,
    manifest_path,
    mark_unfinished,
    read_manifest,
)
from modellink_rm.preprocess.parts import locked_parts, parts_path

_BLOCK_ROWS = 1024
_ARRAYS = (*PAIR_ARRAYS, *COLUMNS)
_OF_A_DATASET = re.compile(rf"(.*)_packed_({'|'.join(_ARRAYS)})_document")
# What one model cannot be trained on together, and what only tells how rows were read.
_MUST_BE_ALIKE = {
    "tokenizer_fingerprint": "tokenizers",
    "template_fingerprint": "templates (--prompt-type)",
    "attributes": "attributes of ratings",
    "placeholder_token": "ends of steps (--placeholder-token)",
}
_MAY_DIFFER = {"handler": "--handler-name", "map_keys": "--map-keys", "seq_length": "--seq-length"}


@dataclass(frozen=True, kw_only=True)
class _Source:
    """An indexed file.

    Attributes:
        stem: its path without .bin or .idx.
        prefix: of the data set that it is of by its name; None for another name.
        array: its name in the data set; "" for another name.
    """

    stem: Path
    prefix: Path | None
    array: str


def merge_groups(directory: Path, keys: Sequence[str], prefix: Path) -> dict[str, int]:
    """Key -> rows written: every indexed file of `directory` whose name holds the key, sorted by name.

    The files of all keys appear together, when all are whole. What manifests beside them vouch for is
    verified as it is read.

    Raises:
        UserError: no directory, a key that no file's name holds, a file that is damaged, or files that do not
            belong into one data set; or another run writes to the prefix.
    """
    if not directory.is_dir():
        raise UserError(f"--input {directory} is not a directory")
    sources = {key: _sources_of(directory, key) for key in keys}
    prefix.parent.mkdir(parents=True, exist_ok=True)
    stems = {source.stem for of_key in sources.values() for source in of_key}
    outputs = [prefix.with_name(f"{prefix.name}_{key}") for key in keys]
    paths = [path(output) for output in outputs for path in (bin_path, idx_path)]
    check_outputs(
        [(f"--output-prefix {prefix}", path) for path in paths],
        inputs={path(stem) for stem in stems for path in (bin_path, idx_path)},
    )
    with locked_parts(parts_path(prefix), flag=f"--output-prefix {prefix}"):
        _check_left_over(prefix, outputs)
        readers = _open_together(sources)
        remove_remains(paths)
        with whole_files(paths, before_renaming=lambda: mark_unfinished(prefix)) as files:
            counts = _write(readers, files)
        manifest_path(prefix).unlink()  # one that was there before was of other files
    return counts


def _write(readers: Mapping[str, Sequence[IndexedReader]], files: Sequence[BinaryIO]) -> dict[str, int]:
    """Key -> rows written to the .bin and the .idx of each key."""
    counts = {}
    for index, (key, of_key) in enumerate(readers.items()):
        writer = IndexedWriter(files[2 * index], files[2 * index + 1], of_key[0].dtype)
        for reader in of_key:
            _append_file(writer, reader)
        counts[key] = sum(map(len, of_key))
        writer.finish()
    return counts


def _sources_of(directory: Path, key: str) -> list[_Source]:
    """The files whose names hold the key.

    Raises:
        UserError: there is none.
    """
    stems = sorted(path.with_suffix("") for path in directory.glob("*.idx") if key in path.stem)
    if not stems:
        raise UserError(f"--merge-group-keys {key}: no file in {directory} has it in its name")
    return [_source(stem) for stem in stems]


def _source(stem: Path) -> _Source:
    found = _OF_A_DATASET.fullmatch(stem.name)
    if found is None:
        return _Source(stem=stem, prefix=None, array="")
    return _Source(stem=stem, prefix=stem.with_name(found[1]), array=found[2])


def _check_left_over(prefix: Path, outputs: Sequence[Path]) -> None:
    """No other array of the output would be read as one of the merged data.

    Raises:
        UserError: the output is a data set with further arrays.
    """
    others = [array_prefix(prefix, array) for array in _ARRAYS]
    others = [stem for stem in others if stem not in outputs and idx_path(stem).exists()]
    if not others:
        return
    names = listed([idx_path(stem).name for stem in others])
    if manifest_path(prefix).exists():
        raise UserError(
            f"--output-prefix {prefix} is a data set that has {names} too, which would stay beside the "
            "merged files: give their keys too, or another prefix"
        )
    warn_once(f"{names}, of an earlier merge, stays beside the merged files, and is read with them")


def _open_together(sources: Mapping[str, Sequence[_Source]]) -> dict[str, list[IndexedReader]]:
    """The files of each key, opened, of data sets that can be one.

    Raises:
        UserError: they cannot, or a file is damaged or being written.
    """
    prefixes = dict.fromkeys(source.prefix for of_key in sources.values() for source in of_key)
    datasets = [prefix for prefix in prefixes if prefix is not None]
    versions = {prefix: version_of(manifest_path(prefix)) for prefix in datasets}
    manifests = {prefix: read_manifest(prefix) for prefix in datasets}
    _check_alike(manifests)
    checksums = {prefix: read_checksums(prefix, one) for prefix, one in manifests.items() if one is not None}
    readers = {key: [_opened(source, checksums) for source in of_key] for key, of_key in sources.items()}
    for key, of_key in sources.items():
        _check_dtypes(key, of_key, readers[key])
    _check_complete(sources)
    for prefix, version in versions.items():
        if version_of(manifest_path(prefix)) != version:
            raise UserError(f"{manifest_path(prefix)} was written anew while it was read: try again")
    return readers


def _opened(source: _Source, checksums: Mapping[Path, Mapping[str, ArrayChecksums]]) -> IndexedReader:
    if source.prefix is None or source.prefix not in checksums:
        return IndexedReader(source.stem, dtype=None)
    of_dataset = checksums[source.prefix]
    if source.array not in of_dataset:
        raise UserError(f"{manifest_path(source.prefix)} does not list {idx_path(source.stem).name}")
    return IndexedReader(source.stem, dtype=None, checksums=of_dataset[source.array])


def _check_alike(manifests: Mapping[Path, Manifest | None]) -> None:
    """A model can be trained on these data sets together, as far as their manifests say.

    Raises:
        UserError: it cannot.
    """
    known = {prefix: manifest for prefix, manifest in manifests.items() if manifest is not None}
    if not known:
        return
    first, wanted = next(iter(known.items()))
    for prefix, manifest in known.items():
        for name, what in _MUST_BE_ALIKE.items():
            if getattr(manifest, name) != getattr(wanted, name):
                raise UserError(
                    f"--merge-group-keys: {prefix} and {first} were made with different {what}, and one data "
                    "set has one: preprocess them alike"
                )
    for name, flag in _MAY_DIFFER.items():
        if len({getattr(manifest, name) for manifest in known.values()}) > 1:
            info(f"the data sets were made with different {flag}; the merged one holds rows of all")
    unknown = [prefix for prefix, manifest in manifests.items() if manifest is None]
    if unknown:
        warn_once(
            f"{listed(unknown)}: no manifest says whether the tokenizer and the template are those of {first}"
        )


def _check_dtypes(key: str, sources: Sequence[_Source], readers: Sequence[IndexedReader]) -> None:
    first, dtype = sources[0].stem, readers[0].dtype
    for source, reader in zip(sources, readers, strict=True):
        if reader.dtype != dtype:
            raise UserError(
                f"--merge-group-keys {key}: {idx_path(source.stem)} holds {reader.dtype}, "
                f"{idx_path(first).name} {dtype}"
            )


def _check_complete(sources: Mapping[str, Sequence[_Source]]) -> None:
    """Each key is of one array, and all keys have files of the same data sets: their rows belong together.

    Raises:
        UserError: they do not.
    """
    wanted: tuple[str, list[Path]] | None = None
    for key, of_key in sources.items():
        found = [source.prefix for source in of_key if source.prefix is not None]
        if len(found) < len(of_key):
            continue  # a name that says nothing of a data set
        arrays = sorted({source.array for source in of_key})
        if len(arrays) > 1:
            raise UserError(f"--merge-group-keys {key}: names hold it of several arrays, {listed(arrays)}")
        if wanted is None:
            wanted = key, found
        elif found != wanted[1]:
            raise UserError(
                f"--merge-group-keys: {key} is in files of {listed(found)}, {wanted[0]} in files of "
                f"{listed(wanted[1])}: merge files of the same data sets"
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
