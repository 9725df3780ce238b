"""The checksums beside the files of a data set, by array."""

import hashlib
from pathlib import Path

import numpy as np

from modellink_rm.base.checksums import num_blocks
from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.dataset.indexed import ArrayChecksums, bin_path, idx_path
from modellink_rm.dataset.manifest import (
    PAIR_ARRAYS,
    Manifest,
    array_prefix,
    checksums_path,
    columns_of,
    key_of,
)


def read_checksums(prefix: Path, manifest: Manifest) -> dict[str, ArrayChecksums]:
    """Of every array and column of a data set, by its name.

    Raises:
        UserError: their file is missing, or is not what was written.
    """
    names = [*PAIR_ARRAYS, *columns_of(prefix, manifest)]
    blocks = _blocks_by_file(prefix, manifest)
    if not blocks:
        warn_once(
            f"{prefix} was made before blocks of .bin files had checksums: what is read of them is not "
            f"verified; `python -m modellink_rm inspect {prefix} --verify` does it once"
        )
    return {
        name: ArrayChecksums(
            idx_sha256=manifest.files[key_of(idx_path(array_prefix(prefix, name)), prefix)].sha256,
            bin_blocks=blocks.get(key_of(bin_path(array_prefix(prefix, name)), prefix)),
        )
        for name in names
    }


def _blocks_by_file(prefix: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Of every .bin the checksums of its blocks, by the manifest's name of it; none in older data."""
    path = checksums_path(prefix)
    entry = manifest.files.get(key_of(path, prefix))
    if entry is None:
        return {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it belongs to the data set as its 8 files do") from None
    if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise UserError(f"{path} has changed since it was written: preprocess the data again")
    bins = {name: file for name, file in manifest.files.items() if name.endswith(".bin")}
    ends = np.cumsum([num_blocks(file.size) for file in bins.values()])
    return dict(zip(bins, np.split(np.frombuffer(content, "<u4"), ends[:-1]), strict=True))
