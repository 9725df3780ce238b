"""Going on with the run of a checkpoint: what it needs, what is the default, what is announced or refused."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag_name
from modellink_rm.base.log import info, warn_once
from modellink_rm.checkpoint.contract import InferenceContract
from modellink_rm.checkpoint.layout import CheckpointInfo, RunInfo
from modellink_rm.config.data import DataConfig, split_fractions, weighted_prefixes
from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.run import RunConfig
from modellink_rm.config.training import TrainingConfig

_NEW_RUN = "--finetune starts a new run from its weights, under another --save"
# Flags that change what is learned, and may change on the way. Of the others some are free; some are compared
# by more than their words: with the weights, the contract, the optimizer's kind, the content of the data.
_ANNOUNCED = {
    "training": {"loss_type", "global_batch_size", "seed"},
    "data": {"seq_length", "truncation", "shuffle", "data_temperature", "data_epochs", "max_samples"},
    "objective": {"margin_weight", "focal_gamma", "label_smoothing", "tie_threshold", "centering_weight"}
    | {"score_l2_weight", "range_penalty_weight", "score_range", "length_penalty_weight"},
    "dpo": {"dpo_loss_type", "dpo_beta", "dpo_label_smoothing", "pref_ftx", "simpo_gamma"},
    "optim": {"lr", "min_lr", "lr_decay_style", "lr_warmup_init", "weight_decay", "clip_grad"}
    | {"lr_wsd_decay_style", "lr_wsd_decay_iters"}
    | {"adam_beta1", "adam_beta2", "adam_eps"},
    "model": {"attention_dropout", "hidden_dropout", "head_dropout"},
}


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """How long a run is.

    Attributes:
        batch_size: examples of one step over all replicas.
        train_iters: steps of the whole run, those of the checkpoint included.
        num_samples: examples of all of them, some perhaps in batches of another size.
        schedule: (warmup, decay) of the learning rate, in samples.
        wsd_decay: of --lr-decay-style WSD, samples of the decay at the end; None for others.
    """

    batch_size: int
    train_iters: int
    num_samples: int
    schedule: tuple[int, int]
    wsd_decay: int | None = None


def plan_length(
    config: RunConfig, num_replicas: int, resumed: RunInfo | None, *, num_examples: int
) -> RunLength:
    """The length of a run; one that resumes another keeps its global batch by default.

    Args:
        num_examples: of the training part.

    Raises:
        UserError: a batch below the number of replicas, or warmup for all the steps.
    """
    training = config.training
    if resumed is None:
        batch_size = training.batch_size(num_replicas)
        train_iters = training.num_steps(batch_size, num_examples=num_examples)
        return _length(config.optim, batch_size, train_iters, num_samples=train_iters * batch_size)
    before = batch_size_of(resumed)
    if training.global_batch_size is None and before is not None:
        if before != training.micro_batch_size * num_replicas:
            info(f"--global-batch-size {before}, as in the run that is resumed")
        training = dataclasses.replace(training, global_batch_size=before)
    batch_size = training.batch_size(num_replicas)
    done, consumed = resumed.iteration, consumed_samples_of(resumed)
    train_iters = training.num_steps(
        batch_size, num_examples=num_examples, done=done, consumed_samples=consumed
    )
    num_samples = consumed + (train_iters - done) * batch_size
    return _length(config.optim, batch_size, train_iters, num_samples=max(num_samples, batch_size))


def _length(optim: OptimConfig, batch_size: int, train_iters: int, *, num_samples: int) -> RunLength:
    """The length of a run over so many samples."""
    schedule = optim.schedule(num_samples, batch_size)
    wsd_decay = optim.wsd_decay(schedule, batch_size) if optim.lr_decay_style == "WSD" else None
    return RunLength(
        batch_size=batch_size,
        train_iters=train_iters,
        num_samples=num_samples,
        schedule=schedule,
        wsd_decay=wsd_decay,
    )


def batch_size_of(run: RunInfo) -> int | None:
    """Examples of one step of the run, even if its flags do not give them."""
    size = run.setting("training", "global_batch_size")
    if size is None:
        micro_batch_size = run.setting("training", "micro_batch_size")
        size = micro_batch_size * run.parallel_sizes[2] if type(micro_batch_size) is int else None
    return size if type(size) is int and size > 0 else None


def consumed_samples_of(run: RunInfo) -> int:
    """Examples of the run's steps so far."""
    if run.consumed_samples is not None:
        return run.consumed_samples
    return run.iteration * (batch_size_of(run) or 0)


def with_margins_as_before(config: RunConfig, resumed: RunInfo | None) -> RunConfig:
    """The flags of a run; one that resumes a run of a version without --margin-weight uses no margins."""
    if resumed is None or "objective" in resumed.config or not config.objective.margin_weight:
        return config
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, margin_weight=0.0))


def check_continues(
    config: RunConfig,
    checkpoint: CheckpointInfo,
    *,
    length: RunLength,
    fingerprints: Sequence[Mapping[str, Any]],
    held_out: Mapping[str, Mapping[str, str]],
) -> None:
    """Refuse flags and data with which the run cannot go on, and announce those with which it changes.

    Args:
        config: with the global batch that is in force.
        fingerprints: of the data sets, in order.
        held_out: of the held-out sets by name, checksums of their files.

    Raises:
        UserError: the optimizer's kind, the data or their division differ.
    """
    if config.checkpoint.load_optim:
        _check_optimizer(config, checkpoint)
        _check_frozen(config.training, checkpoint.run)
    run = checkpoint.run
    _check_data(fingerprints, run)
    _check_split(config.data.split, run)
    changes = (
        *_changed_flags(config, run),
        *_changed_mixture(config.data, run),
        *_changed_schedule(config, run, length),
        *_changed_evaluations(config, run),
        *_changed_rows(held_out, run),
    )
    for change in changes:
        warn_once(f"the run is resumed with {change}")


def check_contract(now: InferenceContract, then: InferenceContract) -> None:
    """Check that a continued run keeps the tokenizer and the template that it started with.

    Raises:
        UserError: one of them differs.
    """
    for name, flag in (("tokenizer_fingerprint", "tokenizer"), ("template_fingerprint", "--prompt-type")):
        if getattr(now, name) != getattr(then, name):
            raise UserError(f"the run cannot be resumed with another {flag} than it started with; {_NEW_RUN}")


def _changed_flags(config: RunConfig, run: RunInfo) -> Iterator[str]:
    """Each flag that is announced and differs: "--lr 0.1; it started with 0.01"."""
    for group, names in _ANNOUNCED.items():
        flags = getattr(config, group)
        for field in dataclasses.fields(flags):
            now, before = getattr(flags, field.name), run.setting(group, field.name)
            if field.name == "global_batch_size":
                before = batch_size_of(run)
            before = tuple(before) if isinstance(before, list) else before
            if field.name in names and before != now and run.says(group, field.name):
                yield _changed_flag(field, now, before)


def _changed_flag(field: "dataclasses.Field[Any]", now: Any, before: Any) -> str:
    """A flag that differs, with what it was."""
    if isinstance(now, bool):
        name = flag_name(field.name, negated=field.default is True)
        return f"{name}; it started without" if now is not field.default else f"no {name}; it started with it"
    name = flag_name(field.name)
    if now in (None, ()):
        return f"no {name}; it started with {_as_typed(before)}"
    if before in (None, ()):
        return f"{name} {_as_typed(now)}; it started without"
    return f"{name} {_as_typed(now)}; it started with {_as_typed(before)}"


def _as_typed(value: Any) -> str:
    return " ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)


def _changed_mixture(config: DataConfig, run: RunInfo) -> Iterator[str]:
    """What differs in the weights of data sets; a run of an earlier version did not mix its data sets."""
    words = run.setting("data", "data_path")
    paths = tuple(map(str, words)) if isinstance(words, list | tuple) else ()
    before, now = weighted_prefixes(paths)[1], config.data_weights
    if [one / sum(now) for one in now] != [one / sum(before) for one in before]:
        yield (
            f"the weights {_weights(now)} of its data sets; it started with {_weights(before)}, and what "
            "was read of each is not made up for"
        )
    knows_mixtures = run.setting("data", "max_samples") is not None or not run.config.get("data")
    if len(config.prefixes) > 1 and config.shuffle and not knows_mixtures:
        yield "data sets in turns; it started with their rows shuffled together, some of which come again"


def _weights(weights: Sequence[Fraction]) -> str:
    return " ".join(f"{float(weight):g}" for weight in weights) or "by rows"


def _changed_schedule(config: RunConfig, run: RunInfo, length: RunLength) -> Iterator[str]:
    """What differs in the lengths of the schedule, as far as the learning rate depends on them."""
    if run.schedule is None:  # of an earlier version
        return
    names = ("warmup",) if config.optim.lr_decay_style == "constant" else ("warmup", "decay")
    for name, now, before in zip(names, length.schedule, run.schedule, strict=False):
        if now != before:
            yield f"a learning rate whose {name} takes {now} samples; it started with {before}"


def _changed_evaluations(config: RunConfig, run: RunInfo) -> Iterator[str]:
    """What differs in the evaluations by which --save-best knows the best checkpoint."""
    if config.checkpoint.save_best is None:
        return
    for group, name in (("data", "valid_data_path"), ("training", "eval_iters")):
        now, before = getattr(getattr(config, group), name), run.setting(group, name)
        before = tuple(before) if isinstance(before, list) else before
        if before not in (None, now):
            yield (
                f"another {flag_name(name)}; --save-best {config.checkpoint.save_best} compares with "
                "evaluations of what was given before"
            )


def _changed_rows(held_out: Mapping[str, Mapping[str, str]], run: RunInfo) -> Iterator[str]:
    """The held-out sets that hold other rows under the same name."""
    before = run.held_out or {}
    for name, files in held_out.items():
        if before.get(name, files) != files:
            yield f"other rows in the held-out set {name}; its evaluations so far are of those before"


def _check_optimizer(config: RunConfig, checkpoint: CheckpointInfo) -> None:
    """Check that the optimizer has the kind that wrote the state.

    Raises:
        UserError: --bf16 or --use-distributed-optimizer differs.
    """
    was_bf16, is_bf16 = checkpoint.run.setting("precision", "bf16") is True, config.precision.bf16
    was_divided = checkpoint.run.setting("optim", "use_distributed_optimizer") is True or was_bf16
    is_divided = config.optim.divides_state(config.precision)
    for flag, was, now in (
        ("--bf16", was_bf16, is_bf16),
        ("--use-distributed-optimizer", was_divided, is_divided),
    ):
        if was != now:
            raise UserError(
                f"{checkpoint.path} was written {'with' if was else 'without'} {flag}, whose optimizer "
                f"state is another; {'give it too' if was else 'leave it out'}, or give --no-load-optim"
            )


def _check_frozen(training: TrainingConfig, run: RunInfo) -> None:
    """Check that the weights are trained that have an optimizer state.

    Raises:
        UserError: --freeze-base or --train-last-n-layers differs.
    """
    for name, default in (("freeze_base", False), ("train_last_n_layers", None)):
        now, before = getattr(training, name), run.setting("training", name) or default
        if now != before:
            then = f"with {flag_name(name)}" + (f" {before}" if default is None else "")
            raise UserError(
                f"the run cannot be resumed with other weights to train: it started "
                f"{then if before else f'without {flag_name(name)}'}; --no-load-optim starts their optimizer "
                "state anew"
            )


def _check_data(fingerprints: Sequence[Mapping[str, Any]], run: RunInfo) -> None:
    """Check that the data sets and their order are those of the run's start; their paths may differ.

    Raises:
        UserError: they are not.
    """
    if run.data is None:  # of an earlier version
        return
    if len(fingerprints) != len(run.data):
        raise UserError(
            f"the run cannot be resumed with {len(fingerprints)} data sets: it started with "
            f"{len(run.data)}; {_NEW_RUN}"
        )
    for one, then in zip(fingerprints, run.data, strict=True):
        if one["files"] != then.get("files"):
            raise UserError(
                f"the run cannot be resumed with other data than it started with: --data-path "
                f"{one['prefix']} holds {one['num_rows']} rows, other ones than the "
                f"{then.get('num_rows')} of {then.get('prefix')}; {_NEW_RUN}"
            )


def _check_split(split: str, run: RunInfo) -> None:
    before = run.setting("data", "split")
    if isinstance(before, str) and split_fractions(before) != split_fractions(split):
        raise UserError(
            f"the run cannot be resumed with --split {split}: rows that were trained on would be "
            f"validated on; it started with {before}; {_NEW_RUN}"
        )
