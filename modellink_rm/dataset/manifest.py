"""The manifest beside the files of a data set, and the names of those files."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from modellink_rm.base.checksums import FileEntry, sealed_json, unsealed
from modellink_rm.base.errors import UserError
from modellink_rm.base.files import write_whole
from modellink_rm.base.json_types import known_fields
from modellink_rm.dataset.indexed import bin_path, idx_path
from modellink_rm.dataset.lengths import LengthStatistics

# Version 1 has neither its own checksum nor the file of block checksums.
FORMAT_VERSION = 2
PAIR_ARRAYS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")
# Optional columns for records that say more than a pair, and their dtypes.
COLUMNS = {
    "ranks": "int32",
    "margin": "float32",
    "probability": "float32",
    "ratings": "float32",
    "source": "uint8",
    "step_ends": "int32",
    "step_labels": "float32",
}
_UNFINISHED = "unfinished"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How a data set was made and what it holds.

    Attributes:
        format_version: of the manifest itself.
        package_version: of the package that wrote it.
        num_read: records read.
        num_kept: pairs, prompts with their responses, or rated responses, in the files, one row each.
        dropped: reason -> number of records.
        notes: finding -> number of kept pairs with it.
        num_tokens: of both sides of every pair, the prompt counted with each.
        longest: tokens of the longest row.
        handler: name given as --handler-name.
        map_keys: as given, or None.
        seq_length: as given, or None.
        template: name given as --prompt-type.
        template_fingerprint: of the template's content.
        template_definition: the template itself, as in a file of --prompt-type-path.
        tokenizer: name of the directory or file.
        tokenizer_fingerprint: of what determines the ids.
        checks: what was looked for -> number of pairs with it, dropped ones included.
        drop: names given as --drop.
        num_responses: number of responses to a prompt -> how many prompts; {"2": num_kept} for pairs,
            {"1": num_kept} for single responses, rated or in steps.
        attributes: what the ratings of each response are of, in their order.
        num_ties: prompts two of whose responses have one rank.
        num_steps: labelled steps of all responses.
        num_wrong_steps: those of them whose label is below 0.5.
        placeholder_token: the text after each step, at whose last token it is scored; None if the responses
            are not in steps.
        lengths: "prompt", "chosen", "rejected" (answers) and "row" (prompt and an answer) -> statistics
            of their tokens; empty in data of earlier versions.
        files: file name without the prefix's (so that a data set can be renamed) -> size, checksum. The
            .bin files stand in the order in which the file of block checksums has theirs.
    """

    format_version: int = FORMAT_VERSION
    package_version: str
    num_read: int
    num_kept: int
    dropped: dict[str, int]
    notes: dict[str, int]
    num_tokens: int
    longest: int
    handler: str
    map_keys: str | None
    seq_length: int | None
    template: str
    template_fingerprint: str
    template_definition: dict[str, Any] | None = None
    tokenizer: str
    tokenizer_fingerprint: str
    checks: dict[str, int] = field(default_factory=dict)
    drop: list[str] = field(default_factory=list)
    num_responses: dict[str, int] = field(default_factory=dict)
    attributes: list[str] = field(default_factory=list)
    num_ties: int = 0
    num_steps: int = 0
    num_wrong_steps: int = 0
    placeholder_token: str | None = None
    lengths: dict[str, LengthStatistics] = field(default_factory=dict)
    files: dict[str, FileEntry]


def array_prefix(prefix: Path, array: str) -> Path:
    """Path of one array's files without .bin or .idx: data/x -> data/x_packed_chosen_labels_document."""
    return prefix.with_name(f"{prefix.name}_packed_{array}_document")


def data_files(prefix: Path) -> list[Path]:
    """The 8 files of a data set of pairs: a .bin and a .idx for each array."""
    prefixes = [array_prefix(prefix, array) for array in PAIR_ARRAYS]
    return [path(array) for array in prefixes for path in (bin_path, idx_path)]


def column_files(prefix: Path, column: str) -> list[Path]:
    """The .bin and the .idx of one of COLUMNS."""
    return [path(array_prefix(prefix, column)) for path in (bin_path, idx_path)]


def columns_of(prefix: Path, manifest: Manifest | None) -> list[str]:
    """Which of COLUMNS a data set has: what its manifest lists, or what there is without one."""
    if manifest is None:
        return [column for column in COLUMNS if column_files(prefix, column)[1].exists()]
    return [column for column in COLUMNS if key_of(column_files(prefix, column)[1], prefix) in manifest.files]


def key_of(path: Path, prefix: Path) -> str:
    """How the manifest of `prefix` calls one of its files."""
    return path.name.removeprefix(prefix.name)


def manifest_path(prefix: Path) -> Path:
    """{prefix}_manifest.json."""
    return prefix.with_name(f"{prefix.name}_manifest.json")


def checksums_path(prefix: Path) -> Path:
    """{prefix}_checksums.crc32: uint32, little-endian, a CRC-32 of every 64 KiB of every .bin."""
    return prefix.with_name(f"{prefix.name}_checksums.crc32")


def mark_unfinished(prefix: Path) -> None:
    """Make the data set impossible to open until its manifest is written."""
    mark = {"format_version": FORMAT_VERSION, _UNFINISHED: True}
    write_whole(manifest_path(prefix), json.dumps(mark).encode() + b"\n")


def serialized(manifest: Manifest) -> bytes:
    """The content of {prefix}_manifest.json."""
    return sealed_json(dataclasses.asdict(manifest), indent=2)


def read_manifest(prefix: Path) -> Manifest | None:
    """The manifest of a data set; None if it has none.

    Raises:
        UserError: the file is no manifest, has changed, or is one of a later format; or the data set is being
            written.
    """
    path = manifest_path(prefix)
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = orjson.loads(path.read_bytes())
        if content["format_version"] not in (1, FORMAT_VERSION):
            raise UserError(
                f"{path} has format version {content['format_version']}, this package reads up to "
                f"{FORMAT_VERSION}"
            )
        if content.get(_UNFINISHED):
            raise UserError(
                f"{path}: the data set is being written, or the run that wrote it was stopped within; wait "
                "for its end, or preprocess the data again"
            )
        if content["format_version"] > 1:
            content = unsealed(content)
        where = str(path)
        content["files"] = _file_entries(content["files"], where)
        content["lengths"] = {
            name: LengthStatistics(**known_fields(LengthStatistics, entry, where))
            for name, entry in content.get("lengths", {}).items()
        }
        return Manifest(**known_fields(Manifest, content, where))
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): preprocess the data again") from None


def _file_entries(files: dict[str, Any], where: str) -> dict[str, FileEntry]:
    """The entries of a manifest, whose names stay in its directory.

    Raises:
        ValueError: one does not.
    """
    for name in files:
        if "/" in name or "\\" in name:
            raise ValueError(f"{name!r} is a path, not the end of a file's name")
    return {name: FileEntry(**known_fields(FileEntry, entry, where)) for name, entry in files.items()}
