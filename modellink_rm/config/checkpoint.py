"""Flags for what a run loads and what it saves."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag, flag_name
from modellink_rm.base.registry import unknown_name_message

# Of the loss the lowest is the best, of the others the highest.
BEST_METRICS = ("accuracy", "loss", "margin")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints."""

    load: str | None = flag(
        None,
        help="what to start from: a Hugging Face directory (config.json and safetensors) or a checkpoint "
        "of this tool; without it weights are random",
    )
    load_checkpoint_loosely: bool = flag(
        False, help="accept a base model without a reward head, and ignore its language-model head"
    )
    load_adapter: str | None = flag(
        None,
        metavar="DIR",
        help="adapters of the model of --load to start from: PEFT's directory or a checkpoint of this tool",
    )
    finetune: bool = flag(False, help="of a checkpoint, load the weights only and start at step 0")
    load_optim: bool = flag(True, level="rare", help="of a checkpoint, do not load the optimizer's state")
    load_rng: bool = flag(
        True, level="rare", help="of a checkpoint, do not load the random generators' states"
    )
    save: str | None = flag(None, help="directory for checkpoints and metrics.jsonl")
    save_interval: int | None = flag(
        None, minimum=1, help="steps between checkpoints; by default only at the end"
    )
    async_save: bool = flag(False, help="go on with training while a checkpoint is written")
    keep_last: int | None = flag(
        None, minimum=1, help="remove older checkpoints after a save, but for this number of the newest"
    )
    save_retain_interval: int | None = flag(
        None,
        minimum=1,
        level="rare",
        help="remove older checkpoints after a save, but for those of multiples of this number of steps",
    )
    save_best: str | None = flag(
        None,
        help="also save after an evaluation that is the best so far: by accuracy, loss or margin of "
        "the first held-out set, or NAME/METRIC; --load SAVE/best takes it",
        metavar="METRIC",
    )
    auto_resume: bool = flag(False, help="continue from the newest checkpoint in --save when there is one")
    verify_checksums: bool = flag(
        True,
        level="rare",
        help="take data and checkpoints as they are read, without comparing them with their checksums",
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.save_best is not None:
            if self.save is None:
                raise UserError("--save-best needs --save: it keeps a checkpoint there")
            metric = self.save_best.rpartition("/")[2]
            if metric not in BEST_METRICS:
                unknown = unknown_name_message("metric of --save-best", metric, BEST_METRICS)
                raise UserError(f"{unknown}; for one held-out set give NAME/METRIC: held-out/accuracy")
        if self.auto_resume and self.save is None:
            raise UserError("--auto-resume needs --save: it continues from the checkpoints there")
        for name in ("async_save", "keep_last", "save_retain_interval"):
            if getattr(self, name) and self.save is None:
                raise UserError(f"{flag_name(name)} needs --save: it is about the checkpoints there")
