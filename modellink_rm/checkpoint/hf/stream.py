"""A safetensors file that is written tensor by tensor, so that one of them is in memory at a time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from modellink_rm.base.files import naming

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorType:
    """What a file says of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Of its numbers."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class SafetensorsWriter:
    """Writes the header at once, and each tensor when it is given, at its place.

    The format: a length (8 bytes, little-endian), a JSON header with the place of each tensor, the tensors
    (safetensors 0.8, README.md). Wider types come first, so that each tensor is aligned to its type.

    Args:
        path: of the file, which must not be there yet.
        types: of every tensor, by name.
        notes: for the header.
    """

    def __init__(
        self, path: Path, types: Mapping[str, TensorType], *, notes: Mapping[str, str] | None = None
    ) -> None:
        self._types = types
        self._missing = set(types)
        self._path = path
        entries: dict[str, object] = {"__metadata__": {"format": "pt", **(notes or {})}}
        self._starts: dict[str, int] = {}
        start = 0
        for name, kind in sorted(types.items(), key=lambda item: -item[1].dtype.itemsize):
            self._starts[name] = start
            offsets = [start, start + kind.num_bytes]
            entries[name] = {"dtype": _DTYPES[kind.dtype], "shape": list(kind.shape), "data_offsets": offsets}
            start += kind.num_bytes
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        self._data_start = 8 + len(header)
        with naming(path):
            self._file = path.open("xb")
            self._file.write(len(header).to_bytes(8, "little") + header)
            self._file.truncate(self._data_start + start)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor on the host, converted to the dtype that the header has."""
        kind = self._types[name]
        assert tuple(tensor.shape) == kind.shape, f"{name}: {tuple(tensor.shape)} instead of {kind.shape}"
        with naming(self._path):
            self._file.seek(self._data_start + self._starts[name])
            numbers = tensor.to(kind.dtype).contiguous().view(-1)
            self._file.write(numbers.view(torch.uint8).numpy().data)
        self._missing.discard(name)

    def __enter__(self) -> "SafetensorsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with naming(self._path):
            self._file.close()
        assert error is not None or not self._missing, f"never written: {sorted(self._missing)}"
