"""Records of a data set of the Hugging Face hub, through the datasets library."""

import functools
import re
from collections.abc import Iterator

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info
from modellink_rm.config.limits import DEFAULT_LIMITS, Limits
from modellink_rm.records.record import RawRecord, record_of_row

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_name(given: str) -> bool:
    """Whether it has the form of a data set's name on the hub: owner/name."""
    return _NAME.fullmatch(given) is not None


def read_hub(name: str, limits: Limits = DEFAULT_LIMITS, *, flag: str = "--input") -> Iterator[RawRecord]:
    """The rows of the train split, streamed; nothing is stored on disk. A line says which rows they are.

    Raises:
        UserError: the datasets library is not installed, or the hub does not return that data set.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{flag} {name} does not exist; if it is a data set of the Hugging Face hub: "
            "pip install 'modellink-rm[datasets]'"
        ) from None
    try:
        rows = iter(datasets.load_dataset(name, split="train", streaming=True))
        _say_what_is_read(flag.removesuffix(":"), name)
        for index, row in enumerate(rows):
            yield record_of_row(f"{name}[{index}]", row, limits)
    except (OSError, ValueError, RuntimeError) as error:  # datasets, its hub client and httpx differ
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{flag} {name} does not exist here, and the Hugging Face hub did not return it: {reason}"
        ) from None


@functools.cache
def _say_what_is_read(flag: str, name: str) -> None:
    """Once a process: a held-out set of this name would be what others train on."""
    info(f"{flag}: {name} of the Hugging Face hub, its train split in its default configuration")
