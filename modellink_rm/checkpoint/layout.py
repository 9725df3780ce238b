"""The files of a checkpoint, read without torch."""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_types import known_fields
from modellink_rm.base.log import warn_once
from modellink_rm.checkpoint.base_reference import BaseReference
from modellink_rm.checkpoint.files import (
    FILES_NAME,
    TENSOR_SUFFIX,
    check_contents,
    check_sizes,
    read_files,
)
from modellink_rm.model.spec import HEADS, ModelSpec
from modellink_rm.report.best import DIRECTORY_NAME, FILE_NAME, read_best

LATEST_NAME = "latest_checkpointed_iteration.txt"
RUN_NAME = "run.json"
# Of run.json and what lies beside it. Raised when a reader of the number before would misread a checkpoint,
# as it would one whose model has a part that it does not know; a new field that may be ignored does not
# raise it. Version 1 did not say its number; in version 2 files.json had no checksum of tensors, nor its own;
# version 4 has parts of models that earlier ones do not know, as the scaling of rotary angles; version 5 has
# adapters alone of a model that has some.
FORMAT_VERSION = 5
_MOST_DIGITS = 18  # of an iteration
_ITERATION_NAME = re.compile("iter_[0-9]+")


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run at the step of a checkpoint, as run.json describes it.

    Attributes:
        parallel_sizes: (pipeline, tensor, data, context) sizes of the run that wrote it.
        config: every flag of that run, by group and field; --global-batch-size as it was in force.
        consumed_samples: examples (pairs) of its steps; None in checkpoints of earlier versions, as what
            follows.
        schedule: (warmup, decay) of the learning rate, in samples.
        data: what tells its data sets from others, in the order of --data-path.
        base: of a model with adapters, the one that they update: the checkpoint holds what is trained alone.
        held_out: of each set of --valid-data-path, by its name, checksums of its files.
    """

    iteration: int
    spec: ModelSpec
    parallel_sizes: tuple[int, int, int, int]
    config: dict[str, dict[str, Any]]
    consumed_samples: int | None = None
    schedule: tuple[int, int] | None = None
    data: tuple[dict[str, Any], ...] | None = None
    base: BaseReference | None = None
    held_out: dict[str, dict[str, str]] | None = None

    @property
    def has_train_state(self) -> bool:
        """Whether a run wrote it, which can be continued; an imported one holds weights alone."""
        return self.iteration > 0

    def setting(self, group: str, name: str) -> Any:
        """A flag of the run; None where the checkpoint does not say."""
        return self.config.get(group, {}).get(name)

    def says(self, group: str, name: str) -> bool:
        """Whether the checkpoint says what a flag was, perhaps that it was not given."""
        return name in self.config.get(group, {})

    def to_json(self) -> bytes:
        """The content of run.json."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["spec"] = dataclasses.asdict(self.spec)
        values["base"] = None if self.base is None else dataclasses.asdict(self.base)
        return json.dumps({"format_version": FORMAT_VERSION, **values}, indent=1).encode()


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint on the disk.

    Attributes:
        path: the directory iter_N.
        run: what its run.json says.
    """

    path: Path
    run: RunInfo


def checkpoint_directory(root: Path, iteration: int) -> Path:
    """`root/iter_0000100`, as Megatron-LM names it."""
    return root / f"iter_{iteration:07d}"


def latest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint under `root`; None if there is none.

    Raises:
        UserError: the file that names it holds no iteration, or names one that is not there.
    """
    tracker = root / LATEST_NAME
    if not os.path.lexists(tracker):
        # A run killed between its first checkpoint and the file that names it, or a lost file.
        return max(checkpoint_directories(root), key=iteration_of, default=None)
    try:
        with tracker.open("rb") as file:
            word = file.read(100).decode(errors="replace").strip()
    except OSError as error:
        raise UserError(f"{tracker} cannot be read: {error.strerror}; remove it") from None
    if not (word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS):
        raise UserError(
            f"{tracker} must hold the iteration of the newest checkpoint, got {word[:40]!r}; remove the "
            "file, and the newest iter_ directory is taken"
        )
    directory = checkpoint_directory(root, int(word))
    if not directory.is_dir():
        raise UserError(
            f"{tracker} names iteration {word}, but there is no {directory}; remove the file, and the newest "
            "iter_ directory is taken"
        )
    newest = max(checkpoint_directories(root), key=iteration_of)
    if iteration_of(newest) > int(word):
        warn_once(f"{tracker} names iteration {word}, which is taken, though there is {newest}")
    return directory


def checkpoint_directories(root: Path) -> list[Path]:
    """The checkpoints under `root`, in any order."""
    return [path for path in root.glob("iter_*") if _ITERATION_NAME.fullmatch(path.name) and path.is_dir()]


def iteration_of(directory: Path) -> int:
    """The N of iter_N."""
    return int(directory.name.removeprefix("iter_"))


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint at `path`, or the newest one under it, of SAVE/best the best; None if there is none.

    Raises:
        UserError: the file that names the newest or the best one is damaged, or it is not there.
    """
    best = read_best(path.parent) if path.name == DIRECTORY_NAME and not path.exists() else None
    if best is not None:
        path = checkpoint_directory(path.parent, best.iteration)
        if not path.is_dir():
            raise UserError(
                f"{path.parent / FILE_NAME} names iteration {best.iteration}, but there is no {path}"
            )
    if (path / RUN_NAME).is_file():
        return path
    return latest_checkpoint(path)


def read_checkpoint_info(directory: Path) -> CheckpointInfo:
    """What the checkpoint iter_N says of itself, its files' sizes checked, and what small files hold.

    The files of tensors, which may be many gigabytes, are checked when they are loaded, by all processes.

    Raises:
        UserError: a file is missing, or is not what was written, or was written by a newer version.
    """
    for name in (RUN_NAME, FILES_NAME):
        if not (directory / name).is_file():
            raise UserError(f"{directory} is not a checkpoint of this tool: it has no {name}")
    files = read_files(directory / FILES_NAME)
    with _damage_named(directory):
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
        run = _read_run(directory, values, version)
    if _ITERATION_NAME.fullmatch(directory.name) and iteration_of(directory) != run.iteration:
        warn_once(
            f"{directory} holds the checkpoint of iteration {run.iteration}, which is taken, whatever its "
            "name says; was it renamed?"
        )
    check_sizes(directory, files)
    check_contents(
        directory, {name: entry for name, entry in files.items() if not name.endswith(TENSOR_SUFFIX)}
    )
    return CheckpointInfo(path=directory, run=run)


@contextlib.contextmanager
def _damage_named(directory: Path) -> Iterator[None]:
    """Report content that cannot be read as damage."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{directory}: {RUN_NAME} or {FILES_NAME} is damaged ({reason})") from error


def _read_run(directory: Path, values: dict[str, Any], version: int) -> RunInfo:
    """What run.json says, of any version so far."""
    if version == 1:
        spec = {name: values.pop(name) for name in ("padded_vocab_size", "post_layer_norm", "head_bias")}
        values["spec"] = {"shape": values.pop("shape"), **spec}
    known = known_fields(RunInfo, values, f"{directory / RUN_NAME}")
    if known["iteration"] < 0 or min(known["parallel_sizes"]) < 1:
        raise ValueError(f"iteration {known['iteration']}, parallel_sizes {known['parallel_sizes']}")
    if known["spec"].head not in HEADS:
        raise ValueError(f"head {known['spec'].head!r} is none of {', '.join(HEADS)}")
    return RunInfo(**known)
