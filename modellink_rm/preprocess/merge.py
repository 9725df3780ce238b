"""Merging shards into the data set of a single run."""

import glob
import re
from collections.abc import Generator, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import check_outputs
from modellink_rm.base.parts import first_difference
from modellink_rm.dataset.manifest import Manifest
from modellink_rm.preprocess.parts import locked_parts, parts_path, read_shard
from modellink_rm.preprocess.pipeline import dataset_outputs, write_dataset
from modellink_rm.preprocess.rows import Rows


def merge_shards(prefix: Path, *, rejects: str | None) -> Manifest:
    """Write the data set of the shards at `prefix`, byte for byte as a single run does, and remove them.

    Raises:
        UserError: a shard is missing, incomplete, or of another run.
    """
    paths = _shards_of(prefix)
    check_outputs(dataset_outputs(prefix, rejects), inputs=paths)
    with locked_parts(parts_path(prefix), flag=f"--output-prefix {prefix}"):
        shards = [read_shard(path) for path in paths]
        identity = shards[0][0]
        for path, (other, _) in zip(paths, shards, strict=True):
            difference = first_difference(identity.to_json(), other.to_json())
            if difference:
                raise UserError(f"{path} was made with another {difference} than {paths[0].name}")
        if rejects is not None and not identity.keeps_rejects:
            raise UserError("--rejects: the shards ran without it, so they hold no refused records")
        manifest = write_dataset(
            _in_turns(paths, [rows for _, rows in shards]), prefix, identity, rejects=rejects
        )
        for path in paths:
            path.unlink()
    return manifest


def _shards_of(prefix: Path) -> list[Path]:
    """The shards' files in order."""
    pattern = re.compile(re.escape(prefix.name) + r"_shard_(\d+)_of_(\d+)\.parts")
    names = [path.name for path in prefix.parent.glob(f"{glob.escape(prefix.name)}_shard_*.parts")]
    found = [match for name in names if (match := pattern.fullmatch(name))]
    if not found:
        raise UserError(
            f"there are no shards {prefix}_shard_*.parts: run with --shard-index and --num-shards"
        )
    totals = {int(match[2]) for match in found}
    if len(totals) > 1:
        raise UserError(f"{prefix} has shards of {sorted(totals)}: remove those of the wrong --num-shards")
    (num_shards,) = totals
    missing = sorted(set(range(num_shards)) - {int(match[1]) for match in found})
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise UserError(f"of the {num_shards} shards of {prefix}, these are missing: {shown}")
    return [parts_path(prefix, index, num_shards) for index in range(num_shards)]


def _in_turns(paths: Sequence[Path], shards: Sequence[Generator[Rows, None, str]]) -> Iterator[Rows]:
    """The blocks in the order of the input: block k is in shard k % num_shards.

    Raises:
        UserError: a shard is incomplete, or was made when the input had other records.
    """
    checksums: dict[Path, str] = {}
    rows_of = [_rows(checksums, path, shard) for path, shard in zip(paths, shards, strict=True)]
    for blocks in zip_longest(*rows_of):
        for rows in blocks:
            if rows is not None:
                yield rows
    for path in paths:
        if checksums[path] != checksums[paths[0]]:
            raise UserError(
                f"{path} was made of other records than {paths[0].name}: the input changed between them; "
                "run every shard again"
            )


def _rows(
    checksums: dict[Path, str], path: Path, shard: Generator[Rows, None, str]
) -> Generator[Rows, None, None]:
    """The rows of a shard, after which `checksums` holds that of its input."""
    checksums[path] = yield from shard
