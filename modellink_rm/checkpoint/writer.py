"""Writing the tensors of a checkpoint: planned with the other processes, written by threads of this one."""

import contextlib
import os
import queue
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import (
    ShardedBase,
    ShardedObject,
    ShardedStateDict,
    is_main_replica,
)
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.state_dict_saver import save_state_dict_async_plan
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    mcore_to_pyt_state_dict,
)
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from modellink_rm.checkpoint.files import TENSOR_SUFFIX

# Of a process; as many as the engine writes, each by a thread of its own.
_NUM_FILES = 2


class PlannedSave(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """The engine's format and plan; what it planned is in `writer` and `metadata`.

    megatron-core 0.16.1, dist_checkpointing/strategies/filesystem_async.py: its writers are forked. One whose
    process is killed meanwhile waits for ever, with a copy of the model, and forking takes longer than what
    it saves: writing and fsync let other threads run.

    Attributes:
        writer: writes this process's part.
        metadata: what all processes write; on the first one alone.
    """

    writer: "TensorWriter"
    metadata: Metadata | None

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    def async_save(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: str | Path) -> AsyncRequest:
        """Plan with the other processes; nothing is written yet. A collective."""
        by_key: defaultdict[str, list[ShardedBase]] = defaultdict(list)
        for value in nested_values(sharded_state_dict):
            if is_main_replica(value.replica_id):
                by_key[value.unique_key if isinstance(value, ShardedObject) else value.key].append(value)
        self.writer = TensorWriter(checkpoint_dir)
        planner = MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
        (_, self.metadata, _), *_ = save_state_dict_async_plan(
            mcore_to_pyt_state_dict(by_key), self.writer, planner=planner
        )
        return AsyncRequest(None, (), [])


class TensorWriter(FileSystemWriterAsync):  # type: ignore[misc]
    """Writes the files of one process, from the tensors themselves or from copies of them.

    Attributes:
        results: where each tensor is, once it is written.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(directory, thread_count=_NUM_FILES)
        self.results: list[WriteResult] = []
        self._files: list[_File] = []
        self._stream: torch.cuda.Stream | None = None

    def prepare_write_data(self, plan: SavePlan, planner: SavePlanner) -> None:
        """Divide what this process writes over files."""
        prefix = plan.storage_data.prefix
        for number, items in enumerate(_divided(plan.items, _NUM_FILES)):
            name = f"{prefix}{number}{TENSOR_SUFFIX}"
            contents = [(item, planner.resolve_data(item)) for item in items]
            self._files.append(_File(Path(self.checkpoint_dir, name), contents))
        if any(file.is_on_gpu for file in self._files):
            # Copies wait for the step before them, and later steps do not wait for copies.
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream())

    def copy(self) -> None:
        """Copy all tensors to memory of the host: later `write` does not need themselves any more."""
        with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext():
            for file in self._files:
                file.copy()

    def write(self) -> None:
        """Write the files, each by a thread; what is on a GPU is copied tensor by tensor.

        Raises:
            OSError: of the first file that cannot be written; likewise other errors of torch's writer.
        """
        done: queue.Queue[Any] = queue.Queue()
        # Daemons: a process that is to end does not wait for its files.
        threads = [
            threading.Thread(target=file.write, args=(number, self.transforms, done), daemon=True)
            for number, file in enumerate(self._files)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        written = dict(done.get() for _ in threads)
        for number in sorted(written):
            if isinstance(written[number], Exception):
                raise written[number]
            self.results += written[number]

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [file.path for file in self._files]


class _File:
    """One file of tensors and pickled objects."""

    def __init__(self, path: Path, contents: Sequence[tuple[WriteItem, Any]]) -> None:
        self.path = path
        self._objects = [pair for pair in contents if pair[0].type == WriteItemType.BYTE_IO]
        self._tensors = deque(pair for pair in contents if pair[0].type != WriteItemType.BYTE_IO)

    @property
    def is_on_gpu(self) -> bool:
        """Whether tensors are to be copied from a GPU."""
        return any(tensor.is_cuda for _, tensor in self._tensors)

    def copy(self) -> None:
        """Replace the tensors by copies in memory of the host."""
        self._tensors = deque((item, _copied(tensor)) for item, tensor in self._tensors)

    def write(self, number: int, transforms: Any, results: "queue.Queue[Any]") -> None:
        """Write the file, and put (number, what became of it) into `results`."""
        running: queue.Queue[int] = queue.Queue()  # the engine takes one number out of it at its end
        running.put(number)
        contents = (os.fspath(self.path), self.path.name, (self._objects, self._in_host_memory()))
        FileSystemWriterAsync.write_preloaded_data(
            [transforms], number, contents, results, running, use_fsync=True
        )

    def _in_host_memory(self) -> Iterator[tuple[WriteItem, Tensor]]:
        """The tensors in memory of the host, a copy of which is let go when the next one is asked for."""
        while self._tensors:
            item, tensor = self._tensors.popleft()
            yield item, _alone(tensor) if tensor.is_cpu and tensor.is_contiguous() else _copied(tensor)


def _alone(tensor: Tensor) -> Tensor:
    """The same memory, with nothing else in its storage: torch saves whole storages."""
    bytes_of_it = tensor.detach().view(-1).view(torch.uint8).numpy()
    return torch.from_numpy(bytes_of_it).view(tensor.dtype).view(tensor.shape)


def _copied(tensor: Tensor) -> Tensor:
    """A copy in memory of the host."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _divided(items: Iterable[WriteItem], number: int) -> list[list[WriteItem]]:
    """The items in lists of about the same number of bytes, at most `number`, none of them empty."""
    lists: list[list[WriteItem]] = [[] for _ in range(number)]
    loads = [0] * number
    for item in sorted(items, key=_num_bytes, reverse=True):
        least = loads.index(min(loads))
        lists[least].append(item)
        loads[least] += max(_num_bytes(item), 1)
    return [one for one in lists if one]


def _num_bytes(item: WriteItem) -> int:
    """Of a tensor; objects are small."""
    if item.tensor_data is None:
        return 0
    return item.tensor_data.chunk.sizes.numel() * item.tensor_data.properties.dtype.itemsize
