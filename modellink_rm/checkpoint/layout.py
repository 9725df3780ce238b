"""The files of a checkpoint, read without torch."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec

LATEST_NAME = "latest_checkpointed_iteration.txt"
RUN_NAME = "run.json"
FILES_NAME = "files.json"
TENSOR_SUFFIX = ".distcp"
# Of run.json and what lies beside it. Raised when a reader of the number before would misread a checkpoint,
# as it would one whose model has a part that it does not know; a new field that may be ignored does not
# raise it. Version 1 did not say its number.
FORMAT_VERSION = 2


@dataclass(frozen=True)
class CheckpointInfo:
    """The description of a checkpoint.

    Attributes:
        path: the directory iter_N.
        parallel_sizes: (pipeline, tensor, data, context) sizes of the run that wrote it.
        config: every flag of that run, by group and field.
    """

    path: Path
    iteration: int
    spec: ModelSpec
    parallel_sizes: tuple[int, ...]
    config: dict[str, dict[str, Any]]

    def to_json(self) -> bytes:
        """The content of run.json."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["path"]
        values["spec"] = dataclasses.asdict(self.spec)
        return json.dumps({"format_version": FORMAT_VERSION, **values}, indent=1).encode()


def checkpoint_directory(root: Path, iteration: int) -> Path:
    """`root/iter_0000100`, as Megatron-LM names it."""
    return root / f"iter_{iteration:07d}"


def latest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint under `root`; None if there is none.

    Raises:
        UserError: the file that names it is not a number, or names one that is not there.
    """
    tracker = root / LATEST_NAME
    if not tracker.is_file():
        # A run killed between its first checkpoint and the file that names it, or a lost file.
        return max(root.glob("iter_*[0-9]"), default=None)
    word = tracker.read_text().strip()
    if not word.isdigit():
        raise UserError(f"{tracker} must hold an iteration, got {word!r}")
    directory = checkpoint_directory(root, int(word))
    if not directory.is_dir():
        raise UserError(f"{tracker} names iteration {word}, but there is no {directory}")
    return directory


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint at `path`, or the newest one under it; None if there is none."""
    if (path / RUN_NAME).is_file():
        return path
    return latest_checkpoint(path)


def describe_files(directory: Path) -> dict[str, tuple[int, str | None]]:
    """(size in bytes, sha256 or None) of each file of a checkpoint, by its name relative to it.

    The files of tensors, which may be many gigabytes, are known by their size alone.
    """
    return {
        str(path.relative_to(directory)): (
            path.stat().st_size,
            None if path.suffix == TENSOR_SUFFIX else _sha256(path),
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_checkpoint_info(directory: Path) -> CheckpointInfo:
    """What the checkpoint iter_N says of itself, its files' sizes checked, and small files' content.

    Raises:
        UserError: a file is missing, or is not what was written, or was written by a newer version.
    """
    for name in (RUN_NAME, FILES_NAME):
        if not (directory / name).is_file():
            raise UserError(f"{directory} is not a checkpoint of this tool: it has no {name}")
    with _damage_named(directory):
        files: dict[str, tuple[int, str | None]] = json.loads((directory / FILES_NAME).read_bytes())
        values = json.loads((directory / RUN_NAME).read_bytes())
        version = values.pop("format_version", 1)
        if type(version) is not int or version < 1:
            raise ValueError(f"format_version {version!r}")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{directory} is of format version {version} and this package reads up to {FORMAT_VERSION}: a "
            "newer modellink-rm wrote it; upgrade this one to read it"
        )
    with _damage_named(directory):
        checkpoint = _read_run(directory, values, version)
    for name, (size, digest) in files.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"checkpoint file {path} is missing")
        if path.stat().st_size != size:
            raise UserError(f"checkpoint file {path} has {path.stat().st_size} bytes; {size} were written")
        if digest is not None and _sha256(path) != digest:
            raise UserError(f"checkpoint file {path} has changed since it was written")
    return checkpoint


@contextlib.contextmanager
def _damage_named(directory: Path) -> Iterator[None]:
    """Tell a user that what cannot be read within is damaged."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{directory}: {RUN_NAME} or {FILES_NAME} is damaged ({error})") from error


def _read_run(directory: Path, values: dict[str, Any], version: int) -> CheckpointInfo:
    """What run.json says, of any version so far."""
    if version == 1:
        spec = {name: values.pop(name) for name in ("padded_vocab_size", "post_layer_norm", "head_bias")}
        values["spec"] = {"shape": values.pop("shape"), **spec}
    spec, where = values["spec"], f"{directory / RUN_NAME}"
    shape = ModelShape(**_known(ModelShape, spec["shape"], where))
    known = _known(CheckpointInfo, {**values, "path": directory}, where)
    known["spec"] = ModelSpec(**{**_known(ModelSpec, spec, where), "shape": shape})
    known["parallel_sizes"] = tuple(known["parallel_sizes"])
    return CheckpointInfo(**known)


def _known(kind: type, values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values of the fields of a dataclass; others, of a later package, are told of and left out."""
    names = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - names)
    if unknown:
        warn_once(f"{where}: {', '.join(unknown)} is unknown to this version of modellink-rm and is ignored")
    return {name: value for name, value in values.items() if name in names}
