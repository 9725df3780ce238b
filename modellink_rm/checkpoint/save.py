"""Saving checkpoints in megatron-core's distributed format: whole or not at all, at once or in background."""

import errno
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from torch.distributed.checkpoint.storage import WriteResult

from modellink_rm.base.checksums import FileEntry
from modellink_rm.base.errors import AgreedError, UserError, file_error_message
from modellink_rm.base.files import replace_directory, write_whole
from modellink_rm.base.log import info
from modellink_rm.checkpoint.files import FILES_NAME, describe_files, files_json
from modellink_rm.checkpoint.layout import (
    LATEST_NAME,
    RUN_NAME,
    RunInfo,
    checkpoint_directory,
    iteration_of,
)
from modellink_rm.checkpoint.prune import UNFINISHED, Retention, prune
from modellink_rm.checkpoint.replicas import divide_replicas
from modellink_rm.checkpoint.state import sharded_rng, sharded_state, sharded_weights
from modellink_rm.checkpoint.together import Together, Work
from modellink_rm.checkpoint.writer import PlannedSave
from modellink_rm.parallel.groups import Ranks

# torch's writer of files reports a full disk as a position in this source file that is not the expected one.
_TORCH_FILE_WRITER = "inline_container.cc"
_MIN_FREE_BYTES = 1 << 20


_ALL = Retention()


class CheckpointNotWrittenError(AgreedError):
    """On every process: a checkpoint could not be written, and nothing is left of it."""


class CheckpointSaver:
    """Writes checkpoints under one directory, one after another.

    In the background, the training goes on while files are written: `save` returns when the state is
    described, a thread copies it before the next update of the weights (`before_update`), and writes the
    files; `after_step` goes on with what the processes do together, as soon as each has done its part. All
    methods but `before_update` are collectives over all processes.

    At the end of the block, or where all processes leave it with an error, the checkpoint that is being
    written is finished.
    """

    def __init__(
        self, root: Path, ranks: Ranks, *, in_background: bool = False, retention: Retention = _ALL
    ) -> None:
        self._root = root
        self._retention = retention
        self._ranks = ranks
        self._in_background = in_background
        self._together = Together()
        self._phases: Iterator[Work] | None = None
        self._work = Work()
        self._copied = threading.Event()
        self._copied.set()
        self._is_validated = False

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, AgreedError):
            self.finish()

    def save(
        self,
        *,
        chunks: Sequence[Any],
        optimizer: Any,
        scheduler: Any,
        run: RunInfo,
        info_files: Mapping[str, bytes],
        when_whole: Callable[[], Collection[int]] = tuple,
    ) -> Path:
        """Write `root/iter_N`, and then the file that names the newest, after the save before.

        Args:
            chunks: the process's stage or virtual stages, unwrapped or with gradient buffers.
            run: written as run.json.
            info_files: further small files that go with it, by name relative to the checkpoint.
            when_whole: called on the first process when the checkpoint has its name, by a thread in the
                background; the iterations whose checkpoints are not removed, besides those of the retention.

        Returns:
            The checkpoint's directory, which is there when the save is finished.

        Raises:
            CheckpointNotWrittenError: of this one, or of the one before.
            UserError: on the first process alone, while the others wait for it.
        """

        def state() -> dict[str, Any]:
            return {
                **sharded_state(chunks, optimizer, is_loading=False),
                "scheduler": scheduler.state_dict(),
                "progress": {"iteration": run.iteration, "consumed_samples": run.consumed_samples},
                "rng": sharded_rng(self._ranks),
            }

        return self._save(state, run, info_files, when_whole)

    def save_weights(self, *, chunks: Sequence[Any], run: RunInfo, info_files: Mapping[str, bytes]) -> Path:
        """Write a checkpoint of weights that no run has trained; as `save` otherwise."""
        return self._save(lambda: sharded_weights(chunks), run, info_files)

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._phases is not None

    def before_update(self) -> None:
        """Wait until what is being saved is copied: the weights may change then."""
        self._copied.wait()

    def after_step(self) -> None:
        """Go on with the save in the background, if all processes were ready to after the step before.

        Raises:
            CheckpointNotWrittenError: it failed.
        """
        if self._phases is not None and self._together.are_ready(self._work):
            self._go_on()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if there is one.

        Raises:
            CheckpointNotWrittenError: it could not be.
        """
        self._together.forget()
        while self._phases is not None:
            self._work.wait()
            self._go_on()

    def _save(
        self,
        make_state: Callable[[], dict[str, Any]],
        run: RunInfo,
        info_files: Mapping[str, bytes],
        when_whole: Callable[[], Collection[int]] = tuple,
    ) -> Path:
        self.finish()
        final = checkpoint_directory(self._root, run.iteration)
        small_files = {**info_files, RUN_NAME: run.to_json()}
        self._phases = self._written(make_state, final, small_files, when_whole)
        self._go_on()
        if not self._in_background:
            self.finish()
        return final

    def _go_on(self) -> None:
        """Do what follows the work that all processes have done, up to the next work."""
        assert self._phases is not None
        try:
            work = next(self._phases, None)
        except BaseException:
            self._phases = None
            raise
        if work is None:
            self._phases = None
            return
        self._work = work
        if self._in_background:
            work.start()
        else:
            work.run()

    def _written(
        self,
        make_state: Callable[[], dict[str, Any]],
        final: Path,
        small_files: Mapping[str, bytes],
        when_whole: Callable[[], Collection[int]],
    ) -> Iterator[Work]:
        """Write a checkpoint: what the processes do together, with the work of each one between."""
        unfinished = final.with_name(final.name + UNFINISHED)
        is_first = self._ranks.rank == 0
        if is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        torch.distributed.barrier()
        planned = self._planned(make_state(), unfinished)
        self._copied.clear()
        writing = Work(lambda: self._write_tensors(planned, unfinished))
        yield writing
        self._check(writing, unfinished)
        parts = self._together.gathered((planned.writer.results, writing.result))

        def finish() -> list[Path]:
            _finish(unfinished, final, small_files, planned, parts)
            return prune(self._root, iteration_of(final), self._retention, when_whole())

        finishing = Work(finish if is_first else None)
        yield finishing
        self._check(finishing, unfinished)
        info(f"saved {final}")
        for path in finishing.result or ():
            info(f"removed {path}")

    def _planned(self, state: dict[str, Any], unfinished: Path) -> PlannedSave:
        """What each process writes; the first one has written what is no tensor. A collective."""
        apply_factories(state)
        divide_replicas([value for value in nested_values(state) if isinstance(value, ShardedTensor)])
        planned = PlannedSave()
        try:
            dist_checkpointing.save(
                state,
                str(unfinished),
                planned,
                # The checkpoints of a run have one structure.
                validate_access_integrity=not self._is_validated,
                async_sharded_save=True,
            )
        except (OSError, RuntimeError) as error:  # of the file that the first process writes alone
            message = _not_written(unfinished, error)
            if message is None:
                raise
            shutil.rmtree(unfinished, ignore_errors=True)
            raise UserError(message) from error
        self._is_validated = True
        return planned

    def _write_tensors(self, planned: PlannedSave, unfinished: Path) -> dict[str, FileEntry]:
        """Write this process's tensors; size and checksum of the files, which are read again."""
        try:
            if self._in_background:
                planned.writer.copy()
        finally:
            self._copied.set()
        planned.writer.write()
        return describe_files(unfinished, planned.writer.paths)

    def _check(self, work: Work, unfinished: Path) -> None:
        """See what became of the work of all processes; a collective.

        Raises:
            CheckpointNotWrittenError: that of one of them failed.
        """
        message = None
        if work.error is not None:
            message = _not_written(unfinished, work.error)
            if message is None:
                raise work.error
        message = self._together.first_of(message)
        if message is not None:
            if self._ranks.rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointNotWrittenError(message)


def _finish(
    unfinished: Path,
    final: Path,
    small_files: Mapping[str, bytes],
    planned: PlannedSave,
    parts: Sequence[tuple[list[WriteResult], dict[str, FileEntry]]],
) -> None:
    """Write the small files, at last the list of all files, and give the directory its name.

    Args:
        parts: of each process, where its tensors are, and what its files of tensors hold.
    """
    assert planned.metadata is not None
    planned.writer.finish(planned.metadata, [results for results, _ in parts])
    save_config(CheckpointingConfig(planned.backend, planned.version), str(unfinished))
    for name, content in small_files.items():
        path = unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    tensors = {name: entry for _, entries in parts for name, entry in entries.items()}
    others = [path for path in unfinished.rglob("*") if path.is_file() and path.name not in tensors]
    entries = {**tensors, **describe_files(unfinished, others)}
    write_whole(unfinished / FILES_NAME, files_json(entries))
    replace_directory(unfinished, final)
    write_whole(final.parent / LATEST_NAME, f"{iteration_of(final)}\n".encode())


def _not_written(unfinished: Path, error: BaseException) -> str | None:
    """Why the checkpoint could not be written, in one line; None of errors that are not of files."""
    if isinstance(error, OSError) and error.filename is not None:
        return file_error_message(error)
    if not isinstance(error, OSError) and _TORCH_FILE_WRITER not in str(error):
        return None
    free = shutil.disk_usage(unfinished.parent).free
    is_full = free < _MIN_FREE_BYTES or os.strerror(errno.ENOSPC) in str(error)
    cause = "no space left on device; free some space" if is_full else str(error).strip().splitlines()[-1]
    return f"the checkpoint {unfinished.with_suffix('')} could not be written: {cause}"
