"""--output of the commands that read a model."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modellink_rm.base.checksums import sha256_of_all
from modellink_rm.base.outputs import prepare_output
from modellink_rm.base.parts import file_identity
from modellink_rm.checkpoint.layout import LATEST_NAME, find_checkpoint, read_checkpoint_info
from modellink_rm.records.table_output import check_table_output
from modellink_rm.tokenizers.directory import hugging_face_files

_SUFFIXES_OF_WEIGHTS = (".safetensors", ".bin")


def prepare_rows(output: str | None, *, inputs: Iterable[Path]) -> None:
    """`prepare_output` of a command that writes rows, as JSON lines or a table.

    Raises:
        UserError: the output cannot be written there, or is one of the inputs.
    """
    prepare_output(output, inputs=inputs)
    if output is not None:
        check_table_output(Path(output))


def files_of_model(load: Path, adapter: str | None = None) -> list[Path]:
    """What is read of --load: a checkpoint, in whose directory nothing may be written, or a model's files.

    Args:
        adapter: --load-adapter, of which the same is read.

    Raises:
        UserError: a checkpoint is damaged.
    """
    files = [file for place in places_of_model(load, adapter) for file in _files_at(place)]
    return files if adapter is None else [*files, *peft_files(Path(adapter))]


def places_of_model(load: Path, adapter: str | None = None) -> list[Path]:
    """The directories that a model is read from: of adapters also that of the model that they update.

    Args:
        adapter: --load-adapter.

    Raises:
        UserError: a checkpoint is damaged.
    """
    places = [load] if adapter is None else [load, Path(adapter)]
    checkpoints = [find_checkpoint(place) for place in places]
    bases = [read_checkpoint_info(one).run.base for one in checkpoints if one is not None]
    return [*places, *(Path(base.path) for base in bases if base is not None)]


def _files_at(place: Path) -> list[Path]:
    checkpoint = find_checkpoint(place)
    if checkpoint is None:
        return hugging_face_files(place)
    return [checkpoint, checkpoint.parent / LATEST_NAME, checkpoint.parent / "metrics.jsonl"]


def identity_of_files(paths: Iterable[Path]) -> dict[str, list[Any]]:
    """What tells the files of a model, its tokenizer and a handler from others, for the parts of a run."""
    files = [path for path in paths if path.is_file()]
    # Reading all of the weights would take as long as loading them; who changes some changes their time.
    weights = [path for path in files if path.suffix in _SUFFIXES_OF_WEIGHTS]
    others = [path for path in files if path not in weights]
    return {
        "weights": [(*file_identity(path), path.stat().st_mtime_ns) for path in weights],
        "model, tokenizer or handler": [
            (path.name, digest) for path, digest in zip(others, sha256_of_all(others), strict=True)
        ],
    }


def peft_files(adapter: Path) -> list[Path]:
    """The files of an adapter in PEFT's form; none where it is in another."""
    return sorted(path for path in adapter.glob("adapter_*") if path.is_file())
