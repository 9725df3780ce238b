"""python -m modellink_rm inspect: show the contents of a data set."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import parse_flags, with_first_flag
from modellink_rm.base.log import info, set_up_logging
from modellink_rm.base.terminal import has_colours, without_commands
from modellink_rm.checkpoint.contract import contract_tokenizer, read_contract
from modellink_rm.checkpoint.layout import find_checkpoint
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.inspect import InspectConfig
from modellink_rm.config.tokenizer import TokenizerConfig

_DESCRIPTION = (
    "Show the report of a data set, and rows of it decoded. A control token is "
    "written as [</s> 2], the token where the score is read >>so<<."
)


def main(argv: Sequence[str]) -> int:
    """Run the command with these words after its name; return its exit code.

    Raises:
        UserError: a mistake of the user's, to be printed without a traceback.
    """
    set_up_logging()
    groups = parse_flags(
        with_first_flag(argv, "--data-path"),
        [InspectConfig, TokenizerConfig],
        prog="python -m modellink_rm inspect",
        description=_DESCRIPTION,
        usage="PREFIX",
        example="python -m modellink_rm inspect data/pairs --load llama-2-7b-hf --rows 1",
    )
    from modellink_rm.dataset.dataset import open_dataset, verify_contents
    from modellink_rm.dataset.inspect import COLOURED, PLAIN, decoded_rows, report
    from modellink_rm.tokenizers.load import load_tokenizer

    config: InspectConfig = groups[InspectConfig]
    tokenizer_config: TokenizerConfig = groups[TokenizerConfig]
    is_given = (tokenizer_config.tokenizer_name_or_path or tokenizer_config.tokenizer_model) is not None
    if config.load is not None and not is_given:
        tokenizer_config = _tokenizer_of_model(tokenizer_config, config.load)
        is_given = True
    tokenizer = load_tokenizer(tokenizer_config) if is_given else None
    dataset = open_dataset(Path(config.data_path))
    if config.first_row >= max(1, len(dataset)):
        raise UserError(
            f"--first-row {config.first_row} must be below the number of rows of {config.data_path}, "
            f"{len(dataset):,}"
        )
    if config.verify:
        verify_contents(dataset)
    if tokenizer is not None:
        dataset.check_tokenizer(tokenizer.fingerprint)
    if dataset.manifest is not None:
        print(*map(without_commands, report(dataset.manifest)), sep="\n")
    if config.verify:
        print("verified       every file is what was written")
    rows = range(len(dataset))[config.first_row : config.first_row + config.rows]
    if tokenizer is None and rows:
        info("rows are shown as token ids; --load DIR or --tokenizer-name-or-path DIR shows their text")
    marks = COLOURED if has_colours(sys.stdout) else PLAIN
    for line in decoded_rows(dataset.rows, rows, tokenizer, marks):
        print(line)
    return 0


def _tokenizer_of_model(config: TokenizerConfig, load: str) -> TokenizerConfig:
    """The tokenizer's flags for the tokenizer of a checkpoint, or of a Hugging Face directory."""
    checkpoint = find_checkpoint(Path(load))
    if checkpoint is None:
        return dataclasses.replace(config, tokenizer_name_or_path=load)
    return contract_tokenizer(config, read_contract(checkpoint), checkpoint)


COMMANDS.add(Command(summary="show what a preprocessed data set holds", main=main), "inspect")
