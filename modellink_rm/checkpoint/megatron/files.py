"""The files of a checkpoint of ModelLink 1.0 or Megatron-LM, found without torch.

    latest_checkpointed_iteration.txt            an iteration, or "release"
    iter_0000100/mp_rank_00_000/model_optim_rng.pt

The numbers of mp_rank_ are the tensor-parallel rank, then, if it is divided so, the pipeline-parallel and the
expert-parallel rank (megatron-core 0.8, megatron/training/checkpointing.py, `get_checkpoint_name`).
"""

import re
from pathlib import Path

from modellink_rm.base.errors import UserError, listed
from modellink_rm.checkpoint.layout import LATEST_NAME

_RANK = re.compile("mp_rank_([0-9]{2,})(?:_([0-9]{3,}))?(_[0-9]{3,})?")
_FILE_NAME = "model_optim_rng.pt"


def find_megatron_checkpoint(path: Path) -> Path | None:
    """The directory of mp_rank_ directories: `path`, or the newest one in it; None if there is none."""
    if _has_ranks(path):
        return path
    try:
        word = (path / LATEST_NAME).read_bytes()[:100].decode(errors="replace").strip()
    except OSError:
        named = sorted(found for found in path.glob("iter_*") if _has_ranks(found))
        return named[-1] if named else None
    directory = path / (f"iter_{int(word):07d}" if word.isascii() and word.isdigit() else "release")
    return directory if _has_ranks(directory) else None


def shard_files(directory: Path) -> list[list[Path]]:
    """The files of the ranks, by pipeline stage and tensor-parallel rank.

    Raises:
        UserError: experts are divided, or files of some ranks are missing.
    """
    files: dict[tuple[int, int], Path] = {}
    for path in directory.glob("mp_rank_*"):
        found = _RANK.fullmatch(path.name)
        if found is None or found[3]:
            raise UserError(
                f"{directory}: {path.name} is not of a tensor-parallel and a pipeline-parallel rank; "
                "checkpoints of mixtures of experts are not read"
            )
        files[int(found[2] or 0), int(found[1])] = path / _FILE_NAME
    num_stages = 1 + max(stage for stage, _ in files)
    num_ranks = 1 + max(rank for _, rank in files)
    missing = [
        f"stage {stage} rank {rank}"
        for stage in range(num_stages)
        for rank in range(num_ranks)
        if (stage, rank) not in files or not files[stage, rank].is_file()
    ]
    if missing:
        raise UserError(f"{directory} lacks {_FILE_NAME} of {listed(missing)}; copy every mp_rank_ directory")
    return [[files[stage, rank] for rank in range(num_ranks)] for stage in range(num_stages)]


def _has_ranks(directory: Path) -> bool:
    return any(path.is_dir() for path in directory.glob("mp_rank_*"))
