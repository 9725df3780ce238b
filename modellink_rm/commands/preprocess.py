"""preprocess_data.py: preprocess records into the files of a data set."""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import set_up_logging
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.merge import MergeConfig
from modellink_rm.config.preprocess import IGNORED_FLAGS, PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig

_DESCRIPTION = (
    "Turn preference pairs into the token files that pretrain_rm.py reads. "
    "@FILE on the command line stands for the words of FILE."
)


def main(argv: Sequence[str]) -> int:
    """Run the command with these words after its name; return its exit code.

    Raises:
        UserError: a mistake of the user's, to be printed without a traceback.
    """
    set_up_logging()
    if any(word.split("=")[0] in ("--merge-shards", "--merge-group-keys") for word in argv):
        return _merge(argv)
    groups = parse_flags(
        argv,
        [PreprocessConfig, TokenizerConfig],
        prog="preprocess_data.py",
        description=f"{_DESCRIPTION} Files are merged with --merge-shards or --merge-group-keys, which have "
        "flags of their own (--merge-shards --help).",
        usage="--input PATH ... --handler-name NAME --tokenizer-name-or-path DIR --output-prefix PREFIX",
        example="python preprocess_data.py --input pairs.jsonl --handler-name AlpacaStylePairwiseHandler "
        "--prompt-type llama2 --tokenizer-name-or-path llama-2-7b-hf --output-prefix data/pairs",
        ignored=IGNORED_FLAGS,
    )
    # Imported late, so that --help answers at once.
    from modellink_rm.preprocess.pipeline import Shard
    from modellink_rm.preprocess.report import closing_lines
    from modellink_rm.preprocess.run import preprocess_data

    config: PreprocessConfig = groups[PreprocessConfig]
    started = time.monotonic()
    # A signal must not end the process before the temporary files are removed.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        manifest = preprocess_data(config, groups[TokenizerConfig])
    except KeyboardInterrupt:
        print("interrupted: nothing was written; --resume continues from what was done", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    if isinstance(manifest, Shard):
        print(
            f"shard {config.shard_index} of {config.num_shards}: {manifest.num_records:,} records in "
            f"{manifest.path}; when all are there: --merge-shards"
        )
        return 0
    print(closing_lines(manifest, Path(config.output_prefix), seconds=time.monotonic() - started))
    return 0


def _merge(argv: Sequence[str]) -> int:
    """Run preprocess_data.py --merge-shards or --merge-group-keys; return the exit code."""
    groups = parse_flags(
        argv,
        [MergeConfig],
        prog="preprocess_data.py",
        description="Merge indexed files.",
        usage="--merge-shards --output-prefix PREFIX",
        example="python preprocess_data.py --merge-shards --output-prefix data/pairs",
    )
    from modellink_rm.preprocess.merge import merge_shards
    from modellink_rm.preprocess.merge_groups import merge_groups
    from modellink_rm.preprocess.report import closing_lines

    config: MergeConfig = groups[MergeConfig]
    prefix = Path(config.output_prefix)
    started = time.monotonic()
    if config.merge_shards:
        manifest = merge_shards(prefix, rejects=config.rejects)
        print(closing_lines(manifest, prefix, seconds=time.monotonic() - started))
        return 0
    counts = merge_groups(Path(config.input or ""), config.merge_group_keys, prefix)
    for key, count in counts.items():
        print(f"{prefix}_{key}.bin and .idx: {count:,} rows")
    return 0


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


COMMANDS.add(Command(summary="write preference pairs as indexed binary files", main=main), "preprocess")
