"""python -m modellink_rm export: write a checkpoint as a Hugging Face directory."""

from collections.abc import Sequence

from modellink_rm.base.flags import parse_flags
from modellink_rm.base.launcher import end_with_launcher
from modellink_rm.base.log import set_up_logging
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.export import ExportConfig
from modellink_rm.config.parallel import ParallelConfig


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when the directory is written.

    Raises:
        UserError: the checkpoint cannot be written as the flags ask, or scores differ.
    """
    set_up_logging()
    parsed = parse_flags(
        argv,
        (ExportConfig, ParallelConfig),
        prog="python -m modellink_rm export",
        description="Write a checkpoint as a directory that transformers, TRL, vLLM and others open.",
        usage="--load CHECKPOINT --output DIR",
        example="python -m modellink_rm export --load checkpoints/llama2 --output llama2-rm",
    )
    end_with_launcher()
    # Everything below needs torch, which takes seconds to import: a wrong flag is reported immediately.
    from modellink_rm.conversion.adapter import export_adapter, is_of_adapters
    from modellink_rm.conversion.export import export_checkpoint
    from modellink_rm.conversion.plan import plan_export

    config, parallel = parsed[ExportConfig], parsed[ParallelConfig]
    if is_of_adapters(config):
        export_adapter(config, parallel)
    else:
        export_checkpoint(plan_export(config, parallel))
    return 0


COMMANDS.add(Command(summary="write a checkpoint as a Hugging Face directory", main=main), "export")
