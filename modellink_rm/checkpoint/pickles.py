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
import dataclasses
import functools
import os
import pickle
import re
import types
from collections.abc import Iterator
from pathlib import Path
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
_ADVICE_OF_TORCH = "Check the documentation of torch.load"
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


@contextlib.contextmanager
def pickles_without_code() -> Iterator[None]:
    """Within the block torch and the engine unpickle nothing but what checkpoints consist of.

    Raises:
        pickle.UnpicklingError: what reads a pickle met anything else in it, which is not run; torch may wrap
            the error.
    """
    import torch
    from torch.distributed.checkpoint import filesystem

    before, original = os.environ.get(_ONLY_WEIGHTS), filesystem.pickle  # type: ignore[attr-defined]
    # torch reads this at each `torch.load`, whatever its caller asks for.
    os.environ[_ONLY_WEIGHTS] = "1"
    filesystem.pickle = types.SimpleNamespace(load=load_metadata)  # type: ignore
    # The engine allows numpy's arrays everywhere, whose pickled types may lie about the memory they describe.
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)
        filesystem.pickle = original  # type: ignore[attr-defined]
        if before is None:
            del os.environ[_ONLY_WEIGHTS]
        else:
            os.environ[_ONLY_WEIGHTS] = before


def load_metadata(file: BinaryIO) -> Any:
    """What a .metadata file says: which tensors there are, and where in the checkpoint's files.

    Raises:
        pickle.UnpicklingError: it is damaged, or names something else, or files outside of the checkpoint.
    """
    try:
        metadata = _MetadataUnpickler(file).load()
        names = [place.relative_path for place in metadata.storage_data.values()]
    except (pickle.UnpicklingError, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise any
        raise pickle.UnpicklingError(f".metadata is damaged ({reason_of(error)})") from error
    for name in names:
        if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
            raise pickle.UnpicklingError(f"{name!r} is not a file of the checkpoint")
    return metadata


def check_pickles(checkpoint: Path) -> None:
    """The pickles that are files of their own can be read, and name nothing else.

    Raises:
        pickle.UnpicklingError: one cannot; within `pickles_without_code` nothing of it is run.
        OSError: there is none.
    """
    import torch

    with (checkpoint / ".metadata").open("rb") as file:
        load_metadata(file)
    try:
        common = torch.load(checkpoint / "common.pt", map_location="cpu", weights_only=True)
        if not isinstance(common, dict):
            raise TypeError(f"it holds {type(common).__name__}")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # as above
        if refused_name(str(error)) is not None:
            raise
        raise pickle.UnpicklingError(f"common.pt is damaged ({reason_of(error)})") from error


def refused_name(message: str) -> str | None:
    """The name for which a pickle was refused, by torch's message or ours; None of other messages."""
    found = _REFUSED.search(message)
    return None if found is None else found[1]


def reason_of(error: BaseException) -> str:
    """The line of an error that says why; torch's own stands at the end, before its advice."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(_ADVICE_OF_TORCH)]
    return lines[-1] if lines else type(error).__name__


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        import torch

        if name in _METADATA_NAMES.get(module, ()):
            return _protected(super().find_class(module, name))
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is none of a checkpoint")


@functools.cache
def _protected(named: Any) -> Any:
    """What a pickle gets of a class or a function: it makes the same objects.

    A pickle can give attributes to whatever it names (its operation BUILD), which would then be those of
    torch's own class. It cannot to a class with `__setstate__`, which it would call without an object, and
    those of a new function are nobody's.
    """
    if not (isinstance(named, type) and dataclasses.is_dataclass(named)):
        return lambda *arguments: named(*arguments)

    def new(_: type) -> Any:
        return object.__new__(named)

    def set_state(self: Any, state: Any) -> None:
        raise pickle.UnpicklingError(f"a {named.__name__} is none of another class")

    return type(named.__name__, (), {"__new__": new, "__setstate__": set_state})
