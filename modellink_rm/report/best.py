"""The best checkpoint of a run: best.json names it, and `--load SAVE/best` takes it."""

import json
from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import write_whole
from modellink_rm.base.json_types import known_fields

FILE_NAME = "best.json"
DIRECTORY_NAME = "best"  # stands for the checkpoint, and is not there


@dataclass(frozen=True, kw_only=True)
class BestCheckpoint:
    """What best.json says.

    Attributes:
        iteration: of the checkpoint.
        metric: of --save-best, as metrics.jsonl names it: valid/accuracy.
        value: of the metric then.
    """

    iteration: int
    metric: str
    value: float


def write_best(root: Path, best: BestCheckpoint) -> None:
    """Write best.json under --save; its checkpoint must be whole."""
    values = {"iteration": best.iteration, "metric": best.metric, "value": best.value}
    write_whole(root / FILE_NAME, json.dumps(values).encode() + b"\n")


def read_best(root: Path) -> BestCheckpoint | None:
    """What best.json under --save says; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    path = root / FILE_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
        best = BestCheckpoint(**known_fields(BestCheckpoint, values, str(path)))
        float(best.value)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}): remove it") from None
    return best


def kept_iterations(root: Path) -> frozenset[int]:
    """The iterations whose checkpoints under --save are never pruned.

    Raises:
        UserError: best.json is damaged.
    """
    best = read_best(root)
    return frozenset() if best is None else frozenset({best.iteration})
