"""Reading one file of ModelLink 1.0 or Megatron-LM without running code.

The file is a zip archive: `data.pkl`, which names the classes and functions that its values are made of, and
the numbers of each tensor. Here the names stand for tensors, containers and argparse.Namespace; objects of
the programs that wrote it, such as states of random generators, become ones that hold nothing. No function
that a file names is called, nor is a module imported for it. (torch's own reader of weights would call those
of numpy, which megatron-core allows in every process.)
"""

import collections
import mmap
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modellink_rm.base.errors import UserError

_OTHER_PROGRAMS = (
    "apex",
    "megatron",
    "mindspeed",
    "mindspeed_llm",
    "modellink",
    "numpy",
    "torch",
    "torch_npu",
    "transformer_engine",
)
# Of arguments, and of the states that Transformer Engine keeps beside tensors.
_OTHER_NAMES = (
    "_codecs.encode",
    "_io.BytesIO",
    "collections.defaultdict",
    "datetime.timedelta",
    "pathlib.PosixPath",
    "types.SimpleNamespace",
)
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Of Megatron-LM: before it, checkpoints have the rows of queries, keys and values in another order
# (megatron/training/checkpointing.py, `fix_query_key_value_ordering`).
_FIRST_VERSION = 2.0
_TOO_LARGE = 2**63  # of a flag
_LEVELS = 6  # of dictionaries in a model; a damaged one may hold itself
_LOCAL_HEADER_BYTES = 30  # of an entry of a zip archive, before its name and its extra field


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a rank's file holds.

    Attributes:
        arguments: flags of the run; empty if the file has none.
        chunks: the tensors of each virtual pipeline stage, by name.
        iteration: of the run; None if the file has none.
    """

    arguments: Mapping[str, Any]
    chunks: tuple[Mapping[str, Tensor], ...]
    iteration: int | None = None


def read_shard(path: Path) -> Shard:
    """The file's arguments and tensors; tensors are mapped, and read where they are used.

    Raises:
        UserError: it is damaged, names code, or is not a file of such a checkpoint.
    """
    content = _load(path)
    names = ["model"]
    if isinstance(content, dict) and "model" not in content:
        names = [f"model{number}" for number in range(len(content)) if f"model{number}" in content]
    if not isinstance(content, dict) or not names:
        raise UserError(f"{path} holds no 'model', and is not a checkpoint of ModelLink or Megatron-LM")
    version = content.get("checkpoint_version")
    if isinstance(version, int | float) and version < _FIRST_VERSION:
        raise UserError(
            f"{path} is of checkpoint_version {version}, with queries, keys and values in another order; "
            f"save it with a Megatron-LM that writes {_FIRST_VERSION} or later"
        )
    arguments, iteration = content.get("args"), content.get("iteration")
    return Shard(
        arguments=_plain(arguments) if isinstance(arguments, _Arguments) else {},
        chunks=tuple(dict(_tensors(content[name])) for name in names),
        iteration=iteration if type(iteration) is int else None,
    )


def check_shards(paths: Iterable[Path]) -> None:
    """Compare the numbers of files with the checksums in them, which torch writes.

    Raises:
        UserError: names the file that has changed.
    """
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                changed = archive.testzip()
        except Exception as error:  # a damaged archive can raise any
            raise UserError(f"{path} cannot be read ({error}): copy it again") from None
        if changed is not None:
            raise UserError(
                f"{path} has changed since it was written, in its {changed}: copy it again from where it is "
                "whole; --no-verify-checksums takes it as it is"
            )


def _plain(arguments: "_Arguments") -> dict[str, Any]:
    """The flags that are words and numbers; no others are used."""
    return {
        name: value
        for name, value in vars(arguments).items()
        if isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) < _TOO_LARGE)
    }


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(pickled) as data:
                return _TensorUnpickler(data, archive, mapped, pickled.removesuffix("data.pkl")).load()
    except _NamedCodeError as error:
        raise UserError(f"{path} is no such checkpoint: it names {error}, which is not run") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged pickle can raise any
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"{path} is damaged, or not written by torch 1.6 or later ({reason})") from None


def _tensors(model: Any, prefix: str = "", levels: int = _LEVELS) -> Iterator[tuple[str, Tensor]]:
    """The pairs (name, tensor) of nested dictionaries; Megatron-LM's earlier models are such."""
    for name, value in model.items() if isinstance(model, dict) and levels else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, f"{prefix}{name}.", levels - 1)


class _NamedCodeError(Exception):
    """A pickle names what is none of a checkpoint."""


class _Arguments:
    """The flags of a run, as attributes: what argparse.Namespace is read as.

    With `__setstate__` a pickle can give attributes to an object and not to the class.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Unread:
    """Stands for an object of another program, of which nothing is used."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Unread":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Take a value of a list, and forget it."""


class _TensorOf:
    """Makes a view of a storage's numbers; torch refuses one that reaches beyond them.

    Without attributes, which a pickle could change.
    """

    __slots__ = ()

    def __call__(self, numbers: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        return numbers.as_strided(size, stride, offset)


class _ParameterOf:
    """Makes a parameter of its numbers: these; without attributes likewise."""

    __slots__ = ()

    def __call__(self, data: Tensor, *_: Any) -> Tensor:
        return data


_MEANINGS: Mapping[str, Any] = {
    "argparse.Namespace": _Arguments,
    "builtins.set": set,
    "collections.OrderedDict": collections.OrderedDict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor_v2": _TensorOf(),
    "torch._utils._rebuild_parameter": _ParameterOf(),
    # Its numbers are in the ordinary order (torch_npu, utils/storage.py).
    "torch_npu.utils.storage._rebuild_npu_tensor": _TensorOf(),
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
}


class _TensorUnpickler(pickle.Unpickler):
    """Makes the values of a file, each tensor a view of the mapped archive.

    Args:
        folder: of the archive's entries, with its slash.
    """

    def __init__(self, data: Any, archive: zipfile.ZipFile, mapped: mmap.mmap, folder: str) -> None:
        super().__init__(data, encoding="latin1")
        self._archive = archive
        self._mapped = mapped
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for.

        Raises:
            _NamedCodeError: a checkpoint does not name it.
        """
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if full in _MEANINGS:
            return _MEANINGS[full]
        if full in _OTHER_NAMES or module.split(".")[0] in _OTHER_PROGRAMS:
            return _Unread
        raise _NamedCodeError(full)

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a storage, in one dimension."""
        _, dtype, key, _, count = pid
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"storage {key} is of no known type")
        entry = self._archive.getinfo(f"{self._folder}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < count * dtype.itemsize:
            raise ValueError(f"storage {key} has {entry.file_size} bytes for {count} numbers")
        if count == 0:
            return torch.empty(0, dtype=dtype)
        start = entry.header_offset
        lengths = self._mapped[start + _LOCAL_HEADER_BYTES - 4 : start + _LOCAL_HEADER_BYTES]
        start += _LOCAL_HEADER_BYTES + sum(int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
        return torch.frombuffer(self._mapped, dtype=dtype, count=count, offset=start)
