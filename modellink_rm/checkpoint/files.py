"""Lists of files with their sizes and checksums, such as a checkpoint's files.json; read without torch."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modellink_rm.base.checksums import FileEntry, sealed_json, sha256_of_all, unsealed
from modellink_rm.base.errors import UserError
from modellink_rm.base.json_types import check_types, has_type

FILES_NAME = "files.json"
CHECKSUMS_FILE = "modellink_rm_checksums.json"  # beside the safetensors and the contract of an export
TENSOR_SUFFIX = ".distcp"
_CHANGED = "has changed since it was written: copy it again from where it is whole"


def describe_files(directory: Path, paths: Iterable[Path]) -> dict[str, FileEntry]:
    """Size and checksum of files of a directory, by their names relative to it."""
    listed = sorted(paths)
    return {
        path.relative_to(directory).as_posix(): FileEntry(size=path.stat().st_size, sha256=digest)
        for path, digest in zip(listed, sha256_of_all(listed), strict=True)
    }


def files_json(entries: Mapping[str, FileEntry], *, checkpoint: str = "") -> bytes:
    """The content of such a list, with a checksum of itself.

    Args:
        checkpoint: of an export, the fingerprint of the checkpoint that it was made of; "" for none.
    """
    files = {name: dataclasses.asdict(entries[name]) for name in sorted(entries)}
    return sealed_json({"files": files, **({"checkpoint": checkpoint} if checkpoint else {})}, indent=1)


def exported_checkpoint(directory: Path) -> str | None:
    """The fingerprint of the checkpoint that an export was made of; None where that is not known."""
    try:
        found = unsealed(json.loads((directory / CHECKSUMS_FILE).read_bytes())).get("checkpoint")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def read_files(path: Path) -> dict[str, FileEntry]:
    """What a list holds; the checksum of a file is "" where an earlier version did not keep one.

    Raises:
        UserError: it is not what was written, or names a file that is not of its directory.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        if "checksum" in content:
            files = unsealed(content)["files"]
            for entry in files.values():
                check_types(FileEntry, entry)
            entries = {name: FileEntry(**entry) for name, entry in files.items()}
        elif has_type(content, dict[str, tuple[int, str | None]]):  # of version 1 and 2 of a checkpoint
            entries = {name: FileEntry(size=size, sha256=sha or "") for name, (size, sha) in content.items()}
        else:
            raise ValueError("it is no list of files")
        if not entries:
            raise ValueError("it lists no file")
        if not all(map(str.isprintable, entries)):
            raise ValueError("the name of a file is not printable")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}): copy it again from where it is whole") from error
    for name in entries:
        _check_is_inside(path, name)
    return entries


def _check_is_inside(path: Path, name: str) -> None:
    """A name that the list `path` holds is of a file beside it, links followed.

    Raises:
        UserError: it leads out of it.
    """
    root = os.path.realpath(path.parent)
    if os.path.commonpath([root, os.path.realpath(os.path.join(root, name))]) != root:
        raise UserError(f"{path} lists {name!r}, which leads out of it")


def check_sizes(directory: Path, entries: Mapping[str, FileEntry]) -> None:
    """Every listed file is there, as long as it was written.

    Raises:
        UserError: names the file that is not.
    """
    for name, entry in entries.items():
        path = directory / name
        try:
            if not path.is_file():
                raise UserError(f"checkpoint file {path} is missing")
            size = path.stat().st_size
        except OSError as error:  # of a name that is too long, say
            raise UserError(f"checkpoint file {path} cannot be read: {error.strerror}") from None
        if size != entry.size:
            raise UserError(f"checkpoint file {path} has {size} bytes; {entry.size} were written")


def check_contents(directory: Path, entries: Mapping[str, FileEntry]) -> None:
    """Every listed file holds what was written, where its checksum is known.

    Raises:
        UserError: names the file that does not, or cannot be read.
    """
    names = [name for name, entry in entries.items() if entry.sha256]
    try:
        digests = sha256_of_all(directory / name for name in names)
    except OSError as error:
        raise UserError(f"checkpoint file {error.filename} cannot be read: {error.strerror}") from None
    for name, digest in zip(names, digests, strict=True):
        if digest != entries[name].sha256:
            raise UserError(f"checkpoint file {directory / name} {_CHANGED}")
