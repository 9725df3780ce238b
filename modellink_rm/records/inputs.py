"""What --input can name: files, directories, globs and data sets of the hub."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from modellink_rm.base.errors import UserError, listed
from modellink_rm.base.log import warn_once
from modellink_rm.config.limits import DEFAULT_LIMITS, Limits
from modellink_rm.records.compressed import format_suffix
from modellink_rm.records.hub import is_hub_name, read_hub
from modellink_rm.records.record import BadRecord, RawRecord, Record, parse_record
from modellink_rm.records.splits import splits_of
from modellink_rm.records.tables import read_arrow, read_parquet
from modellink_rm.records.text_formats import read_csv, read_json, read_lines

# How to read a file, by the ending of its name.
READERS: dict[str, Callable[[Path, Limits], Iterator[RawRecord]]] = {
    ".arrow": read_arrow,
    ".csv": read_csv,
    ".json": read_json,
    ".jsonl": read_lines,
    ".parquet": read_parquet,
    ".txt": read_lines,
}
_KINDS = ", ".join(sorted(READERS)) + ", or one of them with .gz or .zst"
# Endings of records that are not read; other files of a directory, such as readmes, hold none.
_OTHER_RECORDS = (".7z", ".bz2", ".lz4", ".ndjson", ".orc", ".tar", ".tsv", ".xz", ".zip")
# Files of a directory that is not read, by which it is told whether it holds records.
_MOST_LOOKED_AT = 1000
# Files that the datasets library or LLaMA-Factory puts beside the data.
_ABOUT_THE_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def read_records(
    inputs: str | Sequence[str], limits: Limits = DEFAULT_LIMITS, *, flag: str = "--input"
) -> Iterator[Record | BadRecord]:
    """The records of one or more --input, one at a time.

    Args:
        flag: what messages call the flag that names them.

    Raises:
        UserError: a path does not exist or holds nothing to read, or a file is cut off or damaged.
    """
    return map(parse_record, read_raw_records(inputs, limits, flag=flag))


def read_raw_records(
    inputs: str | Sequence[str], limits: Limits = DEFAULT_LIMITS, *, flag: str = "--input"
) -> Iterator[RawRecord]:
    """The texts of the records of one or more --input, in order; a problem for each one over the limits.

    Raises:
        UserError: a path does not exist or holds nothing to read, or a file is cut off, damaged or over
            the limits.
    """
    for given in _each(inputs):
        if _is_of_hub(given):
            yield from read_hub(given, limits, flag=flag)
            continue
        for file in _files_of(given, flag):
            yield from READERS[format_suffix(file)](file, limits)


def input_files(inputs: str | Sequence[str], *, flag: str = "--input") -> list[Path]:
    """The files that one or more --input name, in order; names of the hub have none.

    Warns where they are of several splits: a directory of the hub has its test split beside the others.

    Raises:
        UserError: a path does not exist, holds no file of a known kind, or names a file twice.
    """
    files = [file for given in _each(inputs) if not _is_of_hub(given) for file in _files_of(given, flag)]
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise UserError(f"{flag} names {file} twice")
        seen.add(file.resolve())
    splits = splits_of(files)
    if len(splits) > 1:
        first = next((file for split, file in splits.items() if "train" in split), files[0])
        warn_once(
            f"{flag.removesuffix(':')}: the splits {listed(sorted(splits))} are read together; to read one "
            f"alone, name its files, such as {first}"
        )
    return files


def _each(inputs: str | Sequence[str]) -> Sequence[str]:
    return (inputs,) if isinstance(inputs, str) else inputs


def _is_of_hub(given: str) -> bool:
    """False if the parent directory exists: a mistyped path must not be looked up on the hub."""
    path = Path(given)
    return is_hub_name(given) and not path.parent.exists() and format_suffix(path) not in READERS


def _files_of(given: str, flag: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        return _files_in(path, flag)
    if path.exists():
        return [_of_known_kind(path, flag)]
    if not glob.has_magic(given):
        raise UserError(f"{flag} {given} does not exist")
    found = [Path(name) for name in sorted(glob.glob(given, recursive=True)) if not _is_beside_the_data(name)]
    if not found:
        raise UserError(f"{flag} {given} matches no file")
    return [
        file
        for name in found
        for file in (_files_in(name, flag) if name.is_dir() else [_of_known_kind(name, flag)])
    ]


def _of_known_kind(file: Path, flag: str) -> Path:
    if not file.is_file():
        raise UserError(f"{flag} {file} is no regular file, as a pipe cannot be read twice: write one first")
    if format_suffix(file) not in READERS:
        raise UserError(f"{flag} {file}: cannot tell its format; a file must end in one of {_KINDS}")
    return file


def _files_in(directory: Path, flag: str) -> list[Path]:
    """The files of a directory by name; .txt files, often readmes, only if there are no others."""
    files = sorted(file for file in directory.iterdir() if file.is_file() and _is_input(file))
    files = [file for file in files if format_suffix(file) != ".txt"] or files
    others = sorted(file.name for file in directory.iterdir() if _is_not_read(file))
    if not files:
        within = [name for name in others if (directory / name).is_dir()]
        instead = f"; name a directory within it: {listed(within)}" if within else ""
        raise UserError(f"{flag} {directory} holds no file of a known kind ({_KINDS}){instead}")
    if others:
        warn_once(
            f"{flag} {directory}: not read are {listed(others)}; files end in one of {_KINDS}, and a "
            "directory within is read where it is named too"
        )
    return files


def _is_not_read(path: Path) -> bool:
    """Whether it may hold records, and is beside files that are read: of another kind, or a directory.

    Of a directory its first files are looked at, but .txt files, which are often readmes.
    """
    if not path.is_dir():
        return path.suffix.lower() in _OTHER_RECORDS
    if path.name.startswith(".") or not os.access(path, os.R_OK | os.X_OK):
        return False
    with os.scandir(path) as entries:  # perhaps a million pictures
        found = (Path(one) for one in islice(entries, _MOST_LOOKED_AT) if one.is_file())
        return any(_is_input(file) and format_suffix(file) != ".txt" for file in found)


def _is_input(file: Path) -> bool:
    return not _is_beside_the_data(file.name) and format_suffix(file) in READERS


def _is_beside_the_data(path: str) -> bool:
    """True for hidden files, files that describe the data, and the manifest of an earlier run.

    And for what the datasets library keeps of `map`, `filter` and `shuffle` beside the data that it was
    loaded from, cache-88c4c2c2d1ed3e8d.arrow: the same rows once more, or their places.
    """
    name = Path(path).name
    is_kept = name.startswith("cache-") and name.endswith(".arrow")
    return is_kept or name.startswith(".") or name.endswith("_manifest.json") or name in _ABOUT_THE_DATA
