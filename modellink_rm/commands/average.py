"""python -m modellink_rm average: write the mean of the weights of checkpoints as a checkpoint."""

from collections.abc import Sequence

from modellink_rm.base.flags import parse_flags, with_first_flag
from modellink_rm.base.launcher import end_with_launcher
from modellink_rm.base.log import set_up_logging
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.average import AverageConfig
from modellink_rm.config.parallel import ParallelConfig


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when the checkpoint is written.

    Raises:
        UserError: the checkpoints do not belong together, or theirs cannot be written.
    """
    set_up_logging()
    parsed = parse_flags(
        with_first_flag(argv, "--load"),
        (AverageConfig, ParallelConfig),
        prog="python -m modellink_rm average",
        description="Average the weights of checkpoints of one run, or of runs from one base model.",
        usage="CHECKPOINT CHECKPOINT ... --output DIR",
        example="python -m modellink_rm average runs/seed1 runs/seed2 runs/seed3 --output runs/mean",
    )
    end_with_launcher()
    # Everything below needs torch, which takes seconds to import: a wrong flag is reported immediately.
    from modellink_rm.conversion.average import average_checkpoints, plan_average

    average_checkpoints(plan_average(parsed[AverageConfig], parsed[ParallelConfig]))
    return 0


COMMANDS.add(Command(summary="average the weights of checkpoints", main=main), "average")
