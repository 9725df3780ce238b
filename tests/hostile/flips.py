"""Flipping bits of a file, and what becomes of who reads it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modellink_rm.base.errors import UserError

NUM_FLIPS = 50


def outcomes_of_flips(
    path: Path, read: Callable[[], object], *, first_bytes: int | None = None
) -> Counter[str]:
    """How often a reader refused a file with one flipped bit, met no change, or gave something else.

    Args:
        path: of the file, which is whole again at the end.
        read: gives what is read, or raises UserError.
        first_bytes: flip in these alone.

    Returns:
        "refused by name", "refused" without the file's name, "harmless" where what is read is as it was, and
        "silent" where it is not.
    """
    whole = path.read_bytes()
    expected = read()
    num_bits = 8 * (first_bytes or len(whole))
    bits = np.random.default_rng(len(whole)).choice(num_bits, size=min(NUM_FLIPS, num_bits), replace=False)
    outcomes: Counter[str] = Counter()
    try:
        for bit in bits.tolist():
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            outcomes[_outcome(path, read, expected)] += 1
    finally:
        path.write_bytes(whole)
    return outcomes


def _outcome(path: Path, read: Callable[[], object], expected: object) -> str:
    try:
        return "harmless" if read() == expected else "silent"
    except UserError as error:
        if "\n" in str(error):
            return "refused in several lines"
        return "refused by name" if path.name in str(error) else "refused"
