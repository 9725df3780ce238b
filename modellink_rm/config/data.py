"""Flags for the data that a run reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import LARGEST_NUMBER, check_minimums, flag


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data."""

    data_path: tuple[str, ...] = flag(
        help="prefixes that preprocess_data.py wrote (its --output-prefix); several are mixed by their rows, "
        "or by a weight before each: 0.3 A 0.7 B",
        metavar="PREFIX",
    )
    data_temperature: float | None = flag(
        None,
        above=0,
        level="rare",
        help="mix data sets by their rows to the power of 1/T: 1 is by rows, more evens them out",
    )
    data_epochs: tuple[float, ...] = flag(
        (),
        level="rare",
        help="mix data sets so that an epoch reads each one so many times, in the order of --data-path",
    )
    max_samples: tuple[int, ...] = flag(
        (),
        level="rare",
        help="train on the first rows of each data set, so many at most: one number for all, or one for each",
    )
    valid_data_path: tuple[str, ...] = flag(
        (),
        help="held-out sets that are evaluated beside the validation part: prefixes under names of your "
        "choice; a prefix alone is called by its last component",
        metavar="NAME=PREFIX",
        accumulates=True,
    )
    split: str = flag(
        "969,30,1",
        help="parts of each data set's rows, in file order, for training, validation and test",
        metavar="A,B,C",
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
        self._check_mixture()

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes of --data-path."""
        return weighted_prefixes(self.data_path)[0]

    @property
    def data_weights(self) -> tuple[Fraction, ...]:
        """The weights of --data-path; () where it has none."""
        return weighted_prefixes(self.data_path)[1]

    def _check_mixture(self) -> None:
        number = len(self.prefixes)
        ways = {
            "weights in --data-path": self.data_weights,
            "--data-temperature": self.data_temperature,
            "--data-epochs": self.data_epochs,
        }
        given = [name for name, value in ways.items() if value]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} exclude each other: each says how data sets are mixed")
        if self.data_epochs and len(self.data_epochs) != number:
            raise UserError(
                f"--data-epochs takes a number for each of the {number} data sets of --data-path, got "
                f"{len(self.data_epochs)}"
            )
        if self.max_samples and len(self.max_samples) not in (1, number):
            raise UserError(
                f"--max-samples takes one number, or one for each of the {number} data sets of --data-path, "
                f"got {len(self.max_samples)}"
            )
        for flag_, values in (("--data-epochs", self.data_epochs), ("--max-samples", self.max_samples)):
            if values and not min(values) > 0:
                raise UserError(f"{flag_} must be above 0, got {min(values)}")
            if values and not max(values) < LARGEST_NUMBER:
                raise UserError(f"{flag_} must be below {LARGEST_NUMBER}, got {max(values):g}")


def weighted_prefixes(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[Fraction, ...]]:
    """The prefixes of --data-path and their weights, exactly as written; () where there are none.

    Raises:
        UserError: weights stand before some prefixes only, or one is not above 0.
    """
    if not any(map(_is_number, words)):
        return tuple(words), ()
    weights, prefixes = words[::2], words[1::2]
    if len(weights) != len(prefixes) or not all(map(_is_number, weights)) or any(map(_is_number, prefixes)):
        raise UserError(
            f"--data-path takes a weight before every prefix or before none, got {' '.join(words)}; a prefix "
            "that is a number is written as ./7"
        )
    for weight in weights:
        if not 0 < float(weight) < float("inf"):
            raise UserError(f"--data-path: a weight must be a finite number above 0, got {weight}")
    return tuple(prefixes), tuple(map(Fraction, weights))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


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
