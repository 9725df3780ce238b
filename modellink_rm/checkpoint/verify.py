"""Comparing the large files of a checkpoint or a model with their checksums, divided over the processes."""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from modellink_rm.base.checksums import FileEntry
from modellink_rm.base.errors import AgreedError, UserError
from modellink_rm.base.files import version_of
from modellink_rm.base.log import warn_once
from modellink_rm.checkpoint.base_reference import checkpoint_reference
from modellink_rm.checkpoint.files import FILES_NAME, TENSOR_SUFFIX, check_contents, read_files
from modellink_rm.checkpoint.layout import CheckpointInfo, read_checkpoint_info
from modellink_rm.checkpoint.pickles import check_pickles, pickles_without_code, reason_of, refused_name
from modellink_rm.checkpoint.prune import in_use
from modellink_rm.parallel.groups import Ranks, of_every_process


class CheckpointNotReadError(AgreedError):
    """On every process: a checkpoint or a model is not what was written, or cannot be read."""


def check_contents_together(directory: Path, entries: Mapping[str, FileEntry], ranks: Ranks) -> None:
    """Every listed file holds what was written; each process reads a share of them. A collective.

    Raises:
        CheckpointNotReadError: on every process: names the first file that does not.
    """
    share = {name: entries[name] for name in sorted(entries)[ranks.rank :: ranks.world_size]}
    check_together(lambda: check_contents(directory, share), ranks)


@contextlib.contextmanager
def reading(checkpoint: CheckpointInfo, ranks: Ranks, *, verifies: bool) -> Iterator[None]:
    """Within the block the engine reads this checkpoint, and no other in its place. A collective.

    No run removes it meanwhile to save space. Nothing that its pickles name is run, and what cannot be read
    is reported in one line.

    Raises:
        CheckpointNotReadError: a file is not what was written, cannot be read, or would run code; or another
            checkpoint took the place meanwhile.
        UserError: likewise of a file that each process reads by itself.
    """
    with in_use(checkpoint.path):
        yield from _reading(checkpoint, ranks, verifies=verifies)


def _reading(checkpoint: CheckpointInfo, ranks: Ranks, *, verifies: bool) -> Iterator[None]:
    path = checkpoint.path
    version = version_of(path / FILES_NAME)
    check_together(lambda: _check_is_still(checkpoint), ranks)
    # A --save has a newest checkpoint, which may have been another one when another process looked.
    if len(set(of_every_process(checkpoint_reference(path).fingerprint))) > 1:
        raise CheckpointNotReadError(
            f"{path} is not what every process reads: a newer checkpoint was saved beside it meanwhile, or "
            "the processes do not see the same files; start again, or give one iter_ directory as --load"
        )
    if verifies:
        entries = read_files(path / FILES_NAME)
        tensors = {name: entry for name, entry in entries.items() if name.endswith(TENSOR_SUFFIX)}
        if not all(entry.sha256 for entry in tensors.values()):
            warn_once(f"{path} was written before tensors had checksums: its weights are not verified")
        check_contents_together(path, tensors, ranks)
    try:
        with pickles_without_code():
            check_pickles(path)
            yield
    except CheckpointException as error:  # raised on every process
        raise CheckpointNotReadError(_not_read(path, error)) from error
    except (
        CheckpointingException,
        OSError,
        pickle.UnpicklingError,
    ) as error:  # of files that all read
        raise UserError(_not_read(path, error)) from error
    if version_of(path / FILES_NAME) != version:
        raise CheckpointNotReadError(f"{path} was removed or written anew while it was read: try again")


def _check_is_still(checkpoint: CheckpointInfo) -> None:
    """The checkpoint is the one that was looked at when the run was planned.

    Raises:
        UserError: it is gone, or another.
    """
    if read_checkpoint_info(checkpoint.path) != checkpoint:
        raise UserError(f"{checkpoint.path} was written anew after the run was planned: start the run again")


def check_together(check: Callable[[], None], ranks: Ranks) -> None:
    """A check of this process's own, whose first failure on any process is every process's."""
    failure = None
    try:
        check()
    except UserError as error:
        failure = str(error)
    failures: list[str | None] = [None] * ranks.world_size
    torch.distributed.all_gather_object(failures, failure)
    found = [message for message in failures if message is not None]
    if found:
        raise CheckpointNotReadError(found[0])


def _not_read(path: Path, error: BaseException) -> str:
    name = refused_name(str(error))
    if name is not None:
        return (
            f"{path} holds a pickle that names {name}, which is not of a checkpoint and could run code; it "
            "was not run: get the checkpoint from where you trust it"
        )
    return f"{path} cannot be read: {reason_of(error)}"
