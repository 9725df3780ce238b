"""pretrain_rm.py: train a reward model, or a policy, on preprocessed pairs."""

from collections.abc import Sequence

from modellink_rm.base.errors import UserError, drop_output, print_error
from modellink_rm.base.flags import groups_of, parse_flags
from modellink_rm.base.launcher import end_with_launcher
from modellink_rm.base.log import set_up_logging
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.ignored import IGNORED_TRAINER_FLAGS
from modellink_rm.config.run import RunConfig

GROUPS = groups_of(RunConfig)


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when the run is done, 75 when it was left early, 1 when a loss was not finite.

    Raises:
        UserError: the flags, the weights, the tokenizer or the data cannot work.
    """
    set_up_logging()
    config = run_config(argv)
    end_with_launcher()
    # Everything below needs torch, which takes seconds to import: a wrong flag is reported immediately.
    from modellink_rm.train.leaving import EXIT_CODE
    from modellink_rm.train.run import run
    from modellink_rm.train.step import NonFiniteError

    try:
        end = run(config)
    except NonFiniteError as error:
        print_error(str(error), is_agreed=True)
        return 1
    except BrokenPipeError:  # not as of commands whose output is all that they make: the run is not done
        drop_output()
        raise UserError(
            "what reads standard output has ended, and the run with it; --auto-resume continues from the "
            "newest checkpoint of --save"
        ) from None
    return 0 if end.is_done else EXIT_CODE


def run_config(argv: Sequence[str]) -> RunConfig:
    """The groups of flags on the command line.

    Raises:
        UserError: an unknown flag, or a value that its group refuses.
    """
    parsed = parse_flags(
        argv,
        tuple(GROUPS.values()),
        prog="pretrain_rm.py",
        description="Train a reward model or a policy on preference pairs, under torchrun or as one process.",
        usage="--stage rm --is-pairwise-dataset --data-path PREFIX --train-iters N --load DIR --save DIR",
        example="torchrun --standalone --nproc_per_node 2 pretrain_rm.py --stage rm "
        "--is-pairwise-dataset --data-path data/pairs --train-iters 500 --load llama-2-7b-hf "
        "--load-checkpoint-loosely --tensor-model-parallel-size 2 --save checkpoints/llama2",
        ignored=IGNORED_TRAINER_FLAGS,
    )
    return RunConfig(**{name: parsed[group] for name, group in GROUPS.items()})


COMMANDS.add(
    Command(summary="train a reward model, or a policy (also under torchrun -m)", main=main), "train"
)
