"""Splits of a data set, by the names of its files, as the datasets library reads them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

# As the library writes files to the hub: train_prefs-00000-of-00002.parquet.
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
# The words by which it knows a split (datasets 5.2.0, data_files.py, SPLIT_KEYWORDS).
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}


def splits_of(files: Sequence[Path]) -> dict[str, Path]:
    """The splits to which the names of files, or of directories that differ, say that they belong.

    Subsets of other names alone, as a benchmark has them (gsm8k-00000-of-00001.parquet), are no splits.

    Returns:
        the first file of each split, by name.
    """
    if len(files) < 2:
        return {}
    absolute = [file.absolute() for file in files]  # some may be relative
    above = os.path.commonpath([file.parent for file in absolute])
    found: dict[str, Path] = {}
    for file, place in zip(files, absolute, strict=True):
        split = _split_of(place.relative_to(above))
        if split is not None:
            found.setdefault(split, file)
    return found if any(map(_words_of, found)) else {}


def _split_of(file: Path) -> str | None:
    """The split of a file; None where its name says none, or two."""
    shard = _SHARD.match(file.name)
    if shard is not None and _words_of(shard[1]):
        return shard[1]
    for part in reversed(file.parts):
        named = _words_of(part)
        if named:
            return named.pop() if len(named) == 1 else None
    # "data" is the name of all files that save_to_disk writes.
    return shard[1] if shard is not None and shard[1] != "data" else None


def _words_of(name: str) -> set[str]:
    """The splits that a name has a word of."""
    return {_SPLIT_OF[word] for word in re.split(r"[-._ 0-9]", name.lower()) if word in _SPLIT_OF}
