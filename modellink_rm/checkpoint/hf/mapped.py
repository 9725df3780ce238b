"""A safetensors file that is mapped into memory while it is read."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from modellink_rm.base.errors import UserError


class MappedFile:
    """The file with its header read; its length is checked against the header by the library.

    What was read of a mapped file counts as memory of the process as long as it is mapped.
    """

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            UserError: it is damaged.
        """
        self._path = path
        self._mapped: Any = _mapped(path)

    def keys(self) -> Iterable[str]:
        """The names of its tensors."""
        names: Iterable[str] = self._file().keys()
        return names

    def metadata(self) -> Mapping[str, str]:
        """The notes in its header."""
        notes: Mapping[str, str] | None = self._file().metadata()
        return notes or {}

    def get_slice(self, name: str) -> Any:
        """The library's view of a tensor, which is read where it is sliced."""
        return self._file().get_slice(name)

    def get_tensor(self, name: str) -> Any:
        """The whole tensor."""
        return self._file().get_tensor(name)

    def release(self) -> None:
        """Unmap the file until it is read again."""
        self._mapped = None

    def _file(self) -> Any:
        if self._mapped is None:
            self._mapped = _mapped(self._path)
        return self._mapped


def _mapped(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); download it again") from None
