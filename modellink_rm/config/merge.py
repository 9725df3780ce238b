"""Flags of preprocess_data.py when it merges files instead of reading records."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Merging: no records are read, and no tokenizer is needed."""

    merge_shards: bool = flag(
        False, help="merge the shards that runs with --num-shards wrote at --output-prefix into one data set"
    )
    merge_group_keys: tuple[str, ...] = flag(
        (),
        help="merge every X.bin and X.idx of the directory --input whose name X holds the key, sorted by "
        "name, into PREFIX_key.bin and .idx, for each of the keys",
        metavar="KEY",
    )
    input: str | None = flag(None, help="the directory for --merge-group-keys", metavar="DIR")
    output_prefix: str = flag(help="where the files go, as without merging", metavar="PREFIX")
    rejects: str | None = flag(
        None,
        help="with --merge-shards: the refused records; the shards ran with --rejects too",
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        if self.merge_shards == bool(self.merge_group_keys):
            raise UserError("give one of --merge-shards and --merge-group-keys")
        if (self.input is None) == bool(self.merge_group_keys):
            raise UserError(
                "--merge-group-keys needs --input, the directory of the files; --merge-shards takes none"
            )
        if self.rejects is not None and not self.merge_shards:
            raise UserError("--rejects needs --merge-shards")
