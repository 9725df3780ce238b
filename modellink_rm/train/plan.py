"""The plan of a run: everything that can be checked before any process group starts."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import check_outputs
from modellink_rm.base.flags import flag_name
from modellink_rm.base.log import warn_once
from modellink_rm.checkpoint.base_model import base_model_files
from modellink_rm.checkpoint.contract import (
    InferenceContract,
    contract_files,
    make_contract,
    read_contract,
)
from modellink_rm.checkpoint.layout import CheckpointInfo, latest_checkpoint
from modellink_rm.checkpoint.source import ModelPlan, ModelSource, open_source, plan_model, tokenizer_of
from modellink_rm.config.checkpoint import CheckpointConfig
from modellink_rm.config.run import RunConfig
from modellink_rm.dataset.blend import Blend
from modellink_rm.model.fits import check_data_fits_shape, check_recompute_fits_shape
from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.objective import Objective
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.train.optimizer import divides_optimizer_state
from modellink_rm.train.plan_data import handler_of, open_datasets, plan_blend, template_of
from modellink_rm.train.profiling import check_profile


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A validated run.

    Attributes:
        continues: go on with the run of the checkpoint that is loaded, not from its weights alone.
        objective: what training and evaluation compute of scores.
        blend: what is trained on and validated.
        batch_size: examples of one step over all replicas.
        max_tokens: tokens of one forward pass.
        train_iters: steps of the whole run.
        info_files: small files that go with every checkpoint, by name.
    """

    config: RunConfig
    model: ModelPlan
    continues: bool
    objective: Objective
    blend: Blend
    batch_size: int
    max_tokens: int
    train_iters: int
    info_files: dict[str, bytes]


def plan_run(config: RunConfig, *, world_size: int) -> RunPlan:
    """Check the flags against each other, the weights, the tokenizer and the data.

    Raises:
        UserError: the first thing that cannot work.
    """
    batch_size = config.training.batch_size(config.parallel.data_parallel_size(world_size))
    train_iters = config.training.num_steps(batch_size)
    objective = choose_objective(config.training.loss_type)
    config.optim.schedule(train_iters, batch_size)
    check_profile(config, train_iters=train_iters, world_size=world_size)
    directories = {
        "--save": config.checkpoint.save,
        "--tensorboard-dir": config.reporting.tensorboard_dir,
    }
    for flag, directory in directories.items():
        _check_writable(flag, directory)
    source, continues = find_source(config.checkpoint)
    _check_outside_of_checkpoint(directories, source)
    if config.checkpoint.save is None:
        warn_once("without --save the trained weights are not kept")
    model = plan_model(
        source, config.model, config.parallel, loosely=config.checkpoint.load_checkpoint_loosely
    )
    check_data_fits_shape(config.data, model.shape)
    check_recompute_fits_shape(config.precision, config.parallel, model.shape)
    tokenizer = load_tokenizer(tokenizer_of(config.tokenizer, source))
    if tokenizer.vocab_size > model.shape.vocab_size:
        raise UserError(
            f"the tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids, above the model's "
            f"{model.shape.vocab_size} embedding rows; give the tokenizer that belongs to the weights"
        )
    datasets = open_datasets(config.data.data_path, tokenizer)
    objective.check_data(datasets)
    template = template_of(config.data.prompt_type, datasets, tokenizer)
    blend = plan_blend(config.data, datasets, template, tokenizer, num_ids=model.shape.vocab_size)
    handler, map_keys = handler_of(datasets)
    contract = make_contract(
        template,
        tokenizer,
        not_use_fast=config.tokenizer.tokenizer_not_use_fast,
        seq_length=config.data.seq_length,
        truncation=config.data.truncation,
        handler=handler,
        map_keys=map_keys,
    )
    if continues:
        assert source.checkpoint is not None
        if config.checkpoint.load_optim:
            _check_optimizer(config, source.checkpoint)
        _check_contract(contract, read_contract(source.checkpoint.path))
        _warn_of_changes(config, source.checkpoint)
    for directory in filter(None, directories.values()):  # a run that is refused leaves none behind
        Path(directory).mkdir(parents=True, exist_ok=True)
    return RunPlan(
        config=config,
        model=model,
        continues=continues,
        objective=objective,
        blend=blend,
        batch_size=batch_size,
        max_tokens=config.training.max_tokens_per_micro_batch
        or 2 * config.training.micro_batch_size * config.data.seq_length,
        train_iters=train_iters,
        info_files={**contract_files(contract, tokenizer), **base_model_files(source)},
    )


def _check_writable(flag: str, directory: str | None) -> None:
    """The directory, if one is named, is there or can be made, and can be written to; it is not made.

    Raises:
        UserError: it cannot, by the nearest of its parents that is there.
    """
    if directory is None:
        return
    nearest = Path(directory).absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{flag} {directory} cannot be made a directory: {nearest} is none")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {directory} cannot be written to")


def _check_outside_of_checkpoint(directories: Mapping[str, str | None], source: ModelSource) -> None:
    """Nothing is written into the checkpoint that is loaded.

    Raises:
        UserError: a directory of a flag is, or lies in, that checkpoint.
    """
    inputs = [source.checkpoint.path] if source.checkpoint is not None else []
    named = [(f"{flag} {directory}", directory) for flag, directory in directories.items() if directory]
    # Each flag has files of its own in its directory, which may be one for both.
    check_outputs(
        [(flag, Path(directory, f".{flag.split()[0]}")) for flag, directory in named], inputs=inputs
    )


def find_source(config: CheckpointConfig) -> tuple[ModelSource, bool]:
    """What the run starts from, and whether it continues the run that wrote it.

    Raises:
        UserError: --save holds checkpoints that this run does not go on from.
    """
    existing = latest_checkpoint(Path(config.save)) if config.save is not None else None
    if existing is not None and config.auto_resume:
        return open_source(str(existing)), True
    source = open_source(config.load)
    continues = source.checkpoint is not None and not config.finetune
    if existing is not None and not (continues and _is(source, existing)):
        raise UserError(
            f"--save {config.save} holds a run up to {existing.name}, which this run would write over; give "
            "--auto-resume to continue that one, or another --save"
        )
    return source, continues


def _is(source: ModelSource, checkpoint: Path) -> bool:
    return source.checkpoint is not None and source.checkpoint.path.resolve() == checkpoint.resolve()


def _check_optimizer(config: RunConfig, checkpoint: CheckpointInfo) -> None:
    """The optimizer's state can be read: its kind is the one that wrote it.

    Raises:
        UserError: --bf16 or --use-distributed-optimizer differs.
    """
    before = checkpoint.config
    was_bf16, is_bf16 = before["precision"]["bf16"], config.precision.bf16
    was_divided = before["optim"]["use_distributed_optimizer"] or was_bf16
    is_divided = divides_optimizer_state(config.optim, config.precision)
    for flag, was, now in (
        ("--bf16", was_bf16, is_bf16),
        ("--use-distributed-optimizer", was_divided, is_divided),
    ):
        if was != now:
            raise UserError(
                f"{checkpoint.path} was written {'with' if was else 'without'} {flag}, whose optimizer "
                f"state is another; {'give it too' if was else 'leave it out'}, or give --no-load-optim"
            )


def _check_contract(now: InferenceContract, then: InferenceContract) -> None:
    """The run that is continued goes on with the tokenizer and the template it began with.

    Raises:
        UserError: one of them differs.
    """
    for name, flag in (("tokenizer_fingerprint", "tokenizer"), ("template_fingerprint", "--prompt-type")):
        if getattr(now, name) != getattr(then, name):
            raise UserError(
                f"the run cannot go on with another {flag} than it began with; --finetune starts a new run "
                "from its weights, under another --save"
            )


# What may change without a change in what is learned: where and how fast it runs, what it tells.
_FREE_GROUPS = ("parallel", "kernels", "checkpoint", "reporting", "tokenizer")
_FREE_FIELDS = (
    "micro_batch_size",
    "eval_interval",
    "eval_iters",
    "train_iters",
    "train_samples",
    "num_workers",
    "gradient_accumulation_fusion",
)


def _warn_of_changes(config: RunConfig, checkpoint: CheckpointInfo) -> None:
    """Say which flags differ from the run that is continued: its numbers will not go on alike."""
    now: dict[str, dict[str, Any]] = json.loads(json.dumps(dataclasses.asdict(config)))
    for group, fields in now.items():
        before = checkpoint.config.get(group, {})
        for name, value in fields.items():
            if group in _FREE_GROUPS or name in _FREE_FIELDS or before.get(name, value) == value:
                continue
            warn_once(f"the run goes on with {flag_name(name)} {value!r}; it began with {before[name]!r}")
