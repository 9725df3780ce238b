"""Checksums: of blocks as they are written, and of JSON that says its own."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from modellink_rm.base.checksums import (
    BLOCK_BYTES,
    BlockChecksums,
    VerifiedBlocks,
    num_blocks,
    sealed_json,
    unsealed,
)
from modellink_rm.base.errors import UserError

DATA = np.random.default_rng(5).bytes(3 * BLOCK_BYTES + 100)


def sums_of(data: bytes, step: int) -> BlockChecksums:
    sums = BlockChecksums()
    for start in range(0, len(data), step):
        sums.update(data[start : start + step])
    return sums


@pytest.mark.parametrize("step", [1000, BLOCK_BYTES, 2 * BLOCK_BYTES + 7, len(DATA)])
def test_checksums_do_not_depend_on_how_the_bytes_came(step: int) -> None:
    expected = [zlib.crc32(DATA[start : start + BLOCK_BYTES]) for start in range(0, len(DATA), BLOCK_BYTES)]
    assert sums_of(DATA, step).values().tolist() == expected


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_number_of_blocks_is_that_of_their_checksums(size: int) -> None:
    assert num_blocks(size) == len(sums_of(bytes(size), 1 << 20).values())


def test_only_the_blocks_that_are_read_are_compared() -> None:
    damaged = bytearray(DATA)
    damaged[BLOCK_BYTES + 5] ^= 1
    blocks = VerifiedBlocks(Path("x.bin"), memoryview(damaged), sums_of(DATA, len(DATA)).values())
    blocks.verify(0, BLOCK_BYTES)
    blocks.verify(2 * BLOCK_BYTES, len(DATA))
    blocks.verify(BLOCK_BYTES + 5, BLOCK_BYTES + 5)  # a row of nothing
    for start, stop in ((BLOCK_BYTES - 1, BLOCK_BYTES + 1), (BLOCK_BYTES + 9, BLOCK_BYTES + 10)):
        with pytest.raises(UserError, match=r"x\.bin has changed .* bytes 65536 to 131071"):
            blocks.verify(start, stop)


def test_sealed_json_is_readable_and_gives_its_fields_back() -> None:
    values = {"b": 1.5, "a": {"é": [1, None]}}
    content = sealed_json(values, indent=1)
    assert list(json.loads(content)) == ["b", "a", "checksum"]
    assert "é" in content.decode()
    assert unsealed(json.loads(content)) == values


@pytest.mark.parametrize("edit", [{"b": 1.25}, {"c": 0}, {"checksum": "0" * 64}, {"checksum": None}])
def test_sealed_json_that_was_changed_is_refused(edit: dict[str, object]) -> None:
    sealed = json.loads(sealed_json({"b": 1.5}, indent=1))
    with pytest.raises(ValueError, match="not those of its checksum"):
        unsealed({**sealed, **edit})
