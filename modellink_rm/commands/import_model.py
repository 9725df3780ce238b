"""python -m modellink_rm import: write a Hugging Face directory as a checkpoint."""

from collections.abc import Sequence

from modellink_rm.base.flags import parse_flags
from modellink_rm.base.launcher import end_with_launcher
from modellink_rm.base.log import set_up_logging
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.export import ImportConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.tokenizer import TokenizerConfig


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when the checkpoint is written.

    Raises:
        UserError: the directory is no model that is supported, or the checkpoint cannot be written.
    """
    set_up_logging()
    parsed = parse_flags(
        argv,
        (ImportConfig, TokenizerConfig, ParallelConfig),
        prog="python -m modellink_rm import",
        description="Write a Hugging Face directory, of a base or a reward model, as a checkpoint.",
        usage="--load DIR --output CHECKPOINT",
        example="python -m modellink_rm import --load llama2-rm --output checkpoints/llama2",
    )
    end_with_launcher()
    # Everything below needs torch, which takes seconds to import: a wrong flag is reported immediately.
    from modellink_rm.conversion.import_model import import_directory, plan_import

    plan = plan_import(parsed[ImportConfig], parsed[TokenizerConfig], parsed[ParallelConfig])
    import_directory(plan)
    return 0


COMMANDS.add(Command(summary="write a Hugging Face directory as a checkpoint", main=main), "import")
