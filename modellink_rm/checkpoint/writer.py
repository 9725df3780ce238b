"""Writing the tensors of a checkpoint: by threads of this process."""

import functools
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from modellink_rm.base.megatron_compat import write_results_in_this_process


class ThreadedSave(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """The engine's format and files, with a thread for each file instead of a process.

    megatron-core 0.16.1, dist_checkpointing/strategies/filesystem_async.py: its writers are forked. One whose
    process is killed meanwhile waits for ever, with a copy of the model, and forking takes longer than what
    it saves: writing and fsync let other threads run.
    """

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    def save(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: str | Path) -> None:
        """Write the tensors and `.metadata`. A collective."""
        write_results_in_this_process()
        request = self.async_save(sharded_state_dict, Path(checkpoint_dir))
        write = request.async_fn
        if write is not None:  # else there is nothing to write on this process
            write = functools.partial(_write_files, write.args[0])
        AsyncRequest(
            write,
            request.async_fn_args,
            request.finalize_fns,
            request.async_fn_kwargs,
            request.preload_fn,
        ).execute_sync()


def _write_files(
    transforms: list[Any], rank: int, buckets: Sequence[Any], results: "queue.Queue[Any]"
) -> None:
    """Write each bucket to its file, and put what became of all of them into `results`.

    Args:
        transforms: of the storage writer, for the engine's function.
        buckets: a file's path and name, and what it holds.
        results: takes one value, as of the engine's own function: the results by bucket, or the first error.
    """
    done: queue.Queue[Any] = queue.Queue()
    running: queue.Queue[int] = queue.Queue()  # the engine takes one number out of it for each that ends

    def write(number: int) -> None:
        running.put(number)
        FileSystemWriterAsync.write_preloaded_data(
            transforms, number, buckets[number], done, running, use_fsync=True
        )

    with ThreadPoolExecutor(len(buckets)) as pool:
        for _ in pool.map(write, range(len(buckets))):
            pass
    written = dict(sorted(done.get() for _ in buckets))
    errors = [result for result in written.values() if isinstance(result, Exception)]
    results.put(errors[0] if errors else written)
