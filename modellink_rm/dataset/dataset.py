"""A data set, opened once with all its checks."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.checksums import sha256_of_all
from modellink_rm.base.errors import UserError
from modellink_rm.base.files import version_of
from modellink_rm.base.log import warn_once
from modellink_rm.dataset.checksums import read_checksums
from modellink_rm.dataset.indexed import ArrayChecksums, bin_path
from modellink_rm.dataset.manifest import (
    Manifest,
    array_prefix,
    column_files,
    columns_of,
    data_files,
    key_of,
    manifest_path,
    read_manifest,
)
from modellink_rm.dataset.row_files import RowFiles
from modellink_rm.templates.choice import kept_template
from modellink_rm.templates.table import Template

_ID_ARRAYS = ("chosen_input_ids", "rejected_input_ids")
_BYTES_OF_AN_END = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The files that preprocess_data.py wrote under one --output-prefix, or another tool in its format.

    Attributes:
        prefix: path of the files without their endings; what messages call the data set.
        manifest: how it was made; None if another tool wrote it.
        rows: its arrays and columns.
    """

    prefix: Path
    manifest: Manifest | None
    rows: RowFiles

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def holds_rankings(self) -> bool:
        """Whether some prompt has more than two responses."""
        return self.rows.ranks is not None and not self.rows.attributes and not self.rows.holds_steps

    def template(self) -> Template | None:
        """The template that the data was made with, as in its manifest; None without a manifest.

        Raises:
            UserError: the manifest names a template that nothing defines.
        """
        if self.manifest is None:
            return None
        return kept_template(
            self.manifest.template, self.manifest.template_definition, where="the data's manifest"
        )

    def check_tokenizer(self, fingerprint: str) -> None:
        """The data was made with that tokenizer, as far as its manifest says.

        Raises:
            UserError: it was made with another one.
        """
        if self.manifest is not None and fingerprint != self.manifest.tokenizer_fingerprint:
            raise UserError(
                f"{manifest_path(self.prefix)}: the data was made with another tokenizer "
                f"({self.manifest.tokenizer}, fingerprint {self.manifest.tokenizer_fingerprint[:12]}, not "
                f"{fingerprint[:12]}): give that one or preprocess again"
            )

    def check_template(self, fingerprint: str) -> None:
        """The data was made with that template, as far as its manifest says.

        Raises:
            UserError: it was made with another one.
        """
        if self.manifest is not None and fingerprint != self.manifest.template_fingerprint:
            raise UserError(
                f"{manifest_path(self.prefix)}: the data was made with --prompt-type "
                f"{self.manifest.template}, another template than the one given now: give that one or "
                "preprocess again"
            )

    def fingerprint(self) -> dict[str, Any]:
        """What tells its content from another data set's, wherever it lies, for JSON.

        Checksums of its files, as the manifest has them; without one, of what is read of them in no time: a
        .idx, and both ends of a .bin.
        """
        if self.manifest is not None:
            entries = self.manifest.files.items()
            files = {name: entry.sha256 for name, entry in entries if name.endswith((".bin", ".idx"))}
        else:
            columns = [
                path for name in columns_of(self.prefix, None) for path in column_files(self.prefix, name)
            ]
            paths = [*data_files(self.prefix), *columns]
            files = {key_of(path, self.prefix): _quick_checksum(path) for path in paths}
        return {"prefix": str(self.prefix), "num_rows": len(self), "files": files}

    def has_rows_of(self, other: "Dataset") -> bool:
        """Whether both are the same files, or files of the same token ids."""
        if _ids_file(self.prefix) == _ids_file(other.prefix):
            return True
        if self.manifest is None or other.manifest is None:
            return False
        return _id_checksums(self.prefix, self.manifest) == _id_checksums(other.prefix, other.manifest)


def open_dataset(prefix: Path, *, verifies: bool = True) -> Dataset:
    """The data set of a prefix, whole, its files mapped into memory.

    Args:
        verifies: compare what is read with the checksums of what was written: .idx files now, a block of a
            .bin when a row in it is first read.

    Raises:
        UserError: names the file that is missing, cut off or changed, or whose rows are not those of the
            others; or the data set is being replaced.
    """
    version = version_of(manifest_path(prefix))
    manifest = read_manifest(prefix)
    columns = [path for column in columns_of(prefix, manifest) for path in column_files(prefix, column)]
    paths = [*data_files(prefix), *columns]
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"{path} is missing: --data-path {prefix} stands for 8 files and a manifest, and is what "
                "preprocess_data.py was given as --output-prefix"
            )
    checksums: dict[str, ArrayChecksums] = {}
    if manifest is None:
        warn_once(f"{prefix} has no manifest: written by another tool, its tokenizer cannot be checked")
    else:
        _check_sizes(prefix, manifest, paths)
        checksums = read_checksums(prefix, manifest) if verifies else {}
    rows = RowFiles.open(prefix, manifest, checksums)
    # Who replaces a data set marks the manifest first and writes it last: the files that are open belong
    # together if it is still the same.
    if version_of(manifest_path(prefix)) != version:
        raise UserError(f"{manifest_path(prefix)} was written anew while the data set was opened: try again")
    return Dataset(prefix=prefix, manifest=manifest, rows=rows)


def verify_contents(dataset: Dataset) -> None:
    """Read all of a data set and compare it with its checksums.

    Raises:
        UserError: names the file that is not what was written, or there are no checksums.
    """
    prefix, manifest = dataset.prefix, dataset.manifest
    if manifest is None:
        raise UserError(f"{prefix} has no manifest, so there are no checksums to verify it by")
    names = [name for name in manifest.files if name.endswith((".bin", ".idx"))]
    paths = [prefix.with_name(prefix.name + name) for name in names]
    for name, path, digest in zip(names, paths, sha256_of_all(paths), strict=True):
        if digest != manifest.files[name].sha256:
            raise UserError(
                f"{path} has changed since it was written: copy it again from where it is whole, or "
                "preprocess the data again"
            )


def _check_sizes(prefix: Path, manifest: Manifest, paths: list[Path]) -> None:
    for path in paths:
        entry = manifest.files.get(key_of(path, prefix))
        if entry is None:
            raise UserError(f"{manifest_path(prefix)} does not list {path.name}")
        size = path.stat().st_size
        if size != entry.size:
            raise UserError(
                f"{path} has {size} bytes, its manifest says {entry.size}: preprocess the data again"
            )


def _quick_checksum(path: Path) -> str:
    """sha256 of the size and the content, of a .bin its first and last bytes alone."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if path.suffix == ".bin" and size > 2 * _BYTES_OF_AN_END:
            digest.update(file.read(_BYTES_OF_AN_END))
            file.seek(-_BYTES_OF_AN_END, os.SEEK_END)
        digest.update(file.read())
    return digest.hexdigest()


def _ids_file(prefix: Path) -> Path:
    return bin_path(array_prefix(prefix, _ID_ARRAYS[0])).resolve()


def _id_checksums(prefix: Path, manifest: Manifest) -> list[str]:
    paths = [bin_path(array_prefix(prefix, array)) for array in _ID_ARRAYS]
    return [manifest.files[key_of(path, prefix)].sha256 for path in paths]
