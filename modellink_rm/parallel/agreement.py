"""What every process of a run must have alike: flags, files, records."""

from collections.abc import Mapping
from typing import Any

import torch

from modellink_rm.base.errors import AgreedError

_LONGEST = 60  # characters of a value in a message


def check_agreed(values: Mapping[str, Any]) -> None:
    """The values of all processes are equal; a collective.

    Processes on several machines are started by a command on each, which may be another one, and read files
    that each machine may have for itself. What differs there would be mixed without a word, or waited for.

    Args:
        values: by the names that a message gives them.

    Raises:
        AgreedError: on every process: names the first value that differs.
    """
    count = torch.distributed.get_world_size()
    if count == 1:
        return
    found: list[Any] = [None] * count
    torch.distributed.all_gather_object(found, {name: repr(value) for name, value in values.items()})
    for name in dict.fromkeys(name for one in found for name in one):
        first = found[0].get(name)
        for rank, one in enumerate(found):
            if one.get(name) != first:
                raise AgreedError(
                    f"the processes do not have the same {name}: {_short(first)} in rank 0, "
                    f"{_short(one.get(name))} in rank {rank}; start all of them with the same flags and files"
                )


def _short(value: str | None) -> str:
    return "none" if value is None else value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
