"""Flags of the run: what is trained, for how long, and when it is evaluated."""

import math
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import LARGEST_NUMBER, check_minimums, flag

# Of data that are not pairs.
RATINGS_LOSS = "regression"
PROCESS_STAGE = "prm"
POLICY_STAGE = "dpo"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training.

    Sizes and samples count examples: pairs of responses.
    """

    stage: str = flag(
        help="what is trained: rm (or orm), a reward model of whole responses; prm, one of their steps; dpo, "
        "a language model",
        choices=("rm", "orm", PROCESS_STAGE, POLICY_STAGE),
    )
    is_pairwise_dataset: bool = flag(
        False,
        help="the data are preference pairs; required with --stage rm, but for --loss-type regression",
    )
    loss_type: str = flag(
        "sigmoid",
        level="rare",
        help="loss of a pair, or regression on ratings (any other word lists them all)",
        metavar="NAME",
    )
    micro_batch_size: int = flag(
        1,
        minimum=1,
        help="pairs in one forward pass, if every response with its prompt has --seq-length tokens",
    )
    max_tokens_per_micro_batch: int | None = flag(
        None,
        minimum=1,
        level="rare",
        help="tokens of one forward pass; by default 2 x micro-batch size x sequence length, on a GPU with "
        "room for them at least 8192 or 16384",
    )
    global_batch_size: int | None = flag(
        None,
        minimum=1,
        help="pairs of one optimizer step; by default the micro-batch size times data parallelism",
    )
    train_iters: int | None = flag(None, minimum=1, help="optimizer steps")
    train_samples: int | None = flag(
        None, minimum=1, help="pairs to train on, instead of --train-iters; rounded down to whole batches"
    )
    train_epochs: float | None = flag(
        None,
        above=0,
        help="times to train on every pair, instead of --train-iters; rounded up to a whole batch",
    )
    eval_interval: int = flag(
        1000,
        minimum=0,
        help="steps between evaluations; there is also one before the first step and one after the last",
    )
    eval_iters: int = flag(
        100, minimum=0, help="global batches of one evaluation of each held-out set, at most all of it"
    )
    early_stopping_patience: int | None = flag(
        None,
        minimum=1,
        help="end the run when so many evaluations in a row did not improve the metric of --save-best",
    )
    exit_interval: int | None = flag(
        None,
        minimum=1,
        level="rare",
        help="save and leave after a step that is a multiple of this, with exit code 75",
    )
    exit_duration_in_mins: int | None = flag(
        None, minimum=1, level="rare", help="save and leave after so many minutes, with exit code 75"
    )
    exit_signal_handler: bool = flag(
        False, level="rare", help="save and leave on SIGTERM too, as on SIGUSR1, with exit code 75"
    )
    freeze_base: bool = flag(False, help="train the reward head alone")
    train_last_n_layers: int | None = flag(
        None, minimum=1, help="train only the last N layers, the final norm and the reward head"
    )
    seed: int = flag(1234, help="seed of the order of samples, of dropout and of weights that are not loaded")

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.stage == PROCESS_STAGE:
            self._check_process_stage()
        elif self.stage != POLICY_STAGE and not self.is_pairwise_dataset and self.loss_type != RATINGS_LOSS:
            raise UserError(
                f"--stage {self.stage} needs --is-pairwise-dataset: it is trained on pairs, or on ratings by "
                f"--loss-type {RATINGS_LOSS}"
            )
        if self.freeze_base and self.train_last_n_layers is not None:
            raise UserError(
                "--freeze-base and --train-last-n-layers exclude each other: the first trains no layer"
            )
        lengths = (self.train_iters, self.train_samples, self.train_epochs)
        if sum(length is not None for length in lengths) != 1:
            raise UserError("a run needs one of --train-iters, --train-samples and --train-epochs")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed must lie between 0 and {2**31 - 1}, got {self.seed}")

    @property
    def num_trained_layers(self) -> int | None:
        """The last layers that are trained, 0 for the head alone; None where nothing is frozen."""
        return 0 if self.freeze_base else self.train_last_n_layers

    def _check_process_stage(self) -> None:
        """No flag of preferences is given.

        Raises:
            UserError: one is.
        """
        if self.is_pairwise_dataset:
            raise UserError(
                f"--stage {PROCESS_STAGE} is trained on labelled steps, not on pairs: leave out "
                "--is-pairwise-dataset"
            )
        if self.loss_type != "sigmoid":
            raise UserError(
                f"--loss-type {self.loss_type} is a loss of pairs: --stage {PROCESS_STAGE} has one loss, the "
                "cross entropy of each step"
            )

    def batch_size(self, data_parallel_size: int) -> int:
        """Pairs of one step over all replicas.

        Raises:
            UserError: fewer pairs than replicas.
        """
        size = self.global_batch_size or self.micro_batch_size * data_parallel_size
        if size < data_parallel_size:
            raise UserError(
                f"--global-batch-size {size} is below the {data_parallel_size} data-parallel replicas: "
                "each needs a pair in every step"
            )
        return size

    def num_steps(
        self, batch_size: int, *, num_examples: int, done: int = 0, consumed_samples: int = 0
    ) -> int:
        """Optimizer steps of the run; --train-samples are rounded down to whole batches, --train-epochs up.

        Args:
            num_examples: of one epoch.
            done: steps of it that were taken before, perhaps with batches of another size.
            consumed_samples: examples (pairs) of those steps.

        Raises:
            UserError: --train-samples or --train-epochs make no step, or more than any run takes.
        """
        if self.train_iters is not None:
            return self.train_iters
        if self.train_epochs is not None:
            # Rounded, so that 3 epochs of 0.1 of ten pairs are 3 pairs.
            samples = round(self.train_epochs * num_examples, 6)
            if not 0 < samples < LARGEST_NUMBER * batch_size:
                raise UserError(
                    f"--train-epochs {self.train_epochs:g} of {num_examples} examples must make a step at "
                    f"least, and fewer than {LARGEST_NUMBER}"
                )
            num_samples = math.ceil(samples)
            return done + max(0, math.ceil((num_samples - consumed_samples) / batch_size))
        assert self.train_samples is not None
        if self.train_samples < batch_size:
            raise UserError(
                f"--train-samples {self.train_samples} is below one global batch of {batch_size} pairs"
            )
        return done + (self.train_samples - consumed_samples) // batch_size
