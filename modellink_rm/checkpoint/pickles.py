"""Reading checkpoints without running code: pickles may name only what checkpoints consist of.

A pickle names functions and calls them as it is read. Read with python's `pickle` are, in torch 2.13 and
megatron-core 0.16.1:

- `.metadata`, in torch/distributed/checkpoint/filesystem.py, `FileSystemReader.read_metadata`: `pickle.load`;
- objects inside of .distcp files, in torch/distributed/checkpoint/default_planner.py, `load_bytes`:
  `torch.load(weights_only=False)`;
- tensors inside of .distcp files (filesystem.py, `read_data`) and common.pt (in megatron-core,
  dist_checkpointing/strategies/common.py): `torch.load`, already with weights_only.
"""

import contextlib
import os
import pickle
import re
import types
from collections.abc import Iterator
from typing import Any, BinaryIO

# What .metadata consists of, by module. None of these does more than hold values, when called with any.
_METADATA_NAMES = {
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.planner": (
        "BytesIOWriteData",
        "SavePlan",
        "TensorWriteData",
        "WriteItem",
        "WriteItemType",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size", "device"),
    "collections": ("OrderedDict",),
    "pathlib": ("PosixPath",),
    "pathlib._local": ("PosixPath",),  # python 3.13's name of it
}
_ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


@contextlib.contextmanager
def pickles_without_code() -> Iterator[None]:
    """Within the block torch and the engine unpickle nothing but what checkpoints consist of.

    Raises:
        pickle.UnpicklingError: what reads a pickle met anything else in it, which is not run; torch may wrap
            the error.
    """
    from torch.distributed.checkpoint import filesystem

    before, original = os.environ.get(_ONLY_WEIGHTS), filesystem.pickle  # type: ignore[attr-defined]
    # torch reads this at each `torch.load`, whatever its caller asks for.
    os.environ[_ONLY_WEIGHTS] = "1"
    filesystem.pickle = types.SimpleNamespace(load=load_metadata)  # type: ignore
    try:
        yield
    finally:
        filesystem.pickle = original  # type: ignore[attr-defined]
        if before is None:
            del os.environ[_ONLY_WEIGHTS]
        else:
            os.environ[_ONLY_WEIGHTS] = before


def load_metadata(file: BinaryIO) -> Any:
    """What a .metadata file says: which tensors there are, and where in the checkpoint's files.

    Raises:
        pickle.UnpicklingError: it names something else, or files outside of the checkpoint.
    """
    metadata = _MetadataUnpickler(file).load()
    for place in (getattr(metadata, "storage_data", None) or {}).values():
        name = place.relative_path
        if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
            raise pickle.UnpicklingError(f"{name!r} is not a file of the checkpoint")
    return metadata


def refused_name(message: str) -> str | None:
    """The name for which a pickle was refused, by torch's message or ours; None of other messages."""
    found = _REFUSED.search(message)
    return None if found is None else found[1]


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        import torch

        if name in _METADATA_NAMES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is none of a checkpoint")
