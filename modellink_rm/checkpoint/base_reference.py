"""Which model adapters were trained on: where it lies, and what tells it from others."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.files import FILES_NAME

_BYTES_OF_TENSOR = 4096
_LONGEST_HEADER = 1 << 28


@dataclass(frozen=True, kw_only=True)
class BaseReference:
    """The model that adapters update.

    Attributes:
        path: of the Hugging Face directory, or the checkpoint.
        fingerprint: sha256 of what tells it from others.
    """

    path: str
    fingerprint: str


def checkpoint_reference(checkpoint: Path) -> BaseReference:
    """The reference of a checkpoint iter_N, by the list of its files, which has their checksums."""
    content = (checkpoint / FILES_NAME).read_bytes()
    return BaseReference(path=str(checkpoint.resolve()), fingerprint=hashlib.sha256(content).hexdigest())


def directory_reference(directory: Path) -> BaseReference:
    """The reference of a Hugging Face directory.

    By its config.json, and of its safetensors the names, types and shapes, and the beginning of every tensor:
    a model that was trained further differs there, and a large one is not read whole.

    Raises:
        UserError: a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        digest.update((directory / "config.json").read_bytes())
        for path in sorted(directory.glob("*.safetensors")):
            digest.update(path.name.encode())
            _add_tensors(digest, path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory}: a file cannot be read ({error}); download it again") from None
    return BaseReference(path=str(directory.resolve()), fingerprint=digest.hexdigest())


def _add_tensors(digest: "hashlib._Hash", path: Path) -> None:
    """Add the header of a safetensors file, and the beginning of every tensor."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"a header of {length} bytes in {path.name}")
        content = file.read(length)
        digest.update(content)
        for name, entry in sorted(json.loads(content).items()):
            if name == "__metadata__":
                continue
            start, stop = entry["data_offsets"]
            file.seek(8 + length + start)
            digest.update(file.read(min(stop - start, _BYTES_OF_TENSOR)))
