"""Flags for the data that a run reads."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data."""

    data_path: tuple[str, ...] = flag(
        help="prefixes that preprocess_data.py wrote (its --output-prefix); several are read together"
    )
    valid_data_path: tuple[str, ...] = flag(
        (),
        help="held-out sets that are evaluated beside the validation part: prefixes under names of your "
        "choice; a prefix alone is called by its last component",
        metavar="NAME=PREFIX",
        accumulates=True,
    )
    split: str = flag(
        "969,30,1", help="parts of each data set's rows, in file order, for training, validation and test"
    )
    seq_length: int = flag(
        1024, minimum=2, help="longest prompt + response, in tokens; longer ones are truncated"
    )
    truncation: str = flag(
        "right",
        help="right: cut prompt and response at their ends, as LLaMA-Factory does; keep-ends: keep the "
        "assistant's opener and the response's closing tokens",
        choices=("right", "keep-ends"),
    )
    prompt_type: str | None = flag(
        None, level="rare", help="template of the data; by default what its manifest says"
    )
    prefix_sharing: bool = flag(
        True, level="rare", help="compute a pair's prompt once per response instead of sharing it"
    )
    shuffle: bool = flag(True, level="rare", help="read the training rows in file order")
    num_workers: int = flag(
        1,
        minimum=0,
        level="rare",
        help="global batches prepared ahead, in as many threads; 0 prepares each when its step begins",
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        split_fractions(self.split)


def split_fractions(split: str) -> tuple[float, float, float]:
    """Shares of training, validation and test, adding up to 1, of "969,30,1".

    Raises:
        UserError: not one to three numbers, none negative and at least one positive.
    """
    try:
        weights = [float(word) for word in split.split(",")]
    except ValueError:
        weights = []
    if not 1 <= len(weights) <= 3 or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise UserError(f"--split takes up to three weights such as 969,30,1, got {split!r}")
    weights += [0.0] * (3 - len(weights))
    total = sum(weights)
    return weights[0] / total, weights[1] / total, weights[2] / total
