"""The plan of a run: everything that can be checked before any process group starts."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import check_outputs
from modellink_rm.base.log import warn_once
from modellink_rm.checkpoint.base_model import base_model_files
from modellink_rm.checkpoint.contract import contract_files, make_contract
from modellink_rm.checkpoint.layout import latest_checkpoint
from modellink_rm.checkpoint.model_plan import ModelPlan, plan_model, with_attributes
from modellink_rm.checkpoint.source import ModelSource, open_source, tokenizer_of
from modellink_rm.config.checkpoint import CheckpointConfig
from modellink_rm.config.run import RunConfig
from modellink_rm.dataset.blend import Blend
from modellink_rm.model.fits import (
    check_recompute_fits_shape,
    check_seq_length,
    check_trained_layers,
    shares_prompts,
)
from modellink_rm.objective.objective import Objective
from modellink_rm.report.best import read_best
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.tokenizer import Tokenizer
from modellink_rm.train.continuing import (
    RunLength,
    check_continues,
    check_contract,
    plan_length,
    with_margins_as_before,
)
from modellink_rm.train.held_out import HeldOutSet, files_of_sets, metric_of, plan_held_out
from modellink_rm.train.metrics_files import check_rows
from modellink_rm.train.plan_data import (
    handler_of,
    open_datasets,
    placeholder_of,
    plan_blend,
    report_mixture,
    template_of,
)
from modellink_rm.train.plan_reference import Reference, plan_reference
from modellink_rm.train.profiling import check_profile
from modellink_rm.train.stages import STAGES
from modellink_rm.train.trackers import check_trackers
from modellink_rm.train.without_effect import flags_without_effect


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A validated run.

    Attributes:
        continues: resume the run of the checkpoint that is loaded, not from its weights alone.
        objective: what training and evaluation compute of scores.
        blend: what is trained on and validated.
        held_out: what is evaluated, the validation part first.
        best_metric: that of --save-best, as metrics.jsonl names it.
        tokenizer: of the data.
        length: of the whole run.
        existing: the newest checkpoint under --save when this was planned.
        max_tokens: tokens of one forward pass; on a GPU with room more, unless the flags say how many.
        fingerprints: what tells the data sets from others, in their order.
        held_out_files: of the sets of --valid-data-path by name, checksums of their files.
        info_files: small files that go with every checkpoint, by name.
        reference: the reference model of --stage dpo; None without one.
    """

    config: RunConfig
    model: ModelPlan
    continues: bool
    objective: Objective
    blend: Blend
    held_out: tuple[HeldOutSet, ...]
    best_metric: str | None
    tokenizer: Tokenizer
    length: RunLength
    existing: Path | None
    max_tokens: int
    fingerprints: tuple[dict[str, Any], ...]
    held_out_files: dict[str, dict[str, str]]
    info_files: dict[str, bytes]
    reference: Reference | None = None

    @functools.cached_property
    def shares_prompts(self) -> bool:
        """Whether a prompt is computed once for all its responses; what keeps a run from it is logged."""
        data = self.config.data
        return data.prefix_sharing and shares_prompts(data.seq_length, self.model.shape)

    @property
    def batch_size(self) -> int:
        """Examples of one step over all replicas."""
        return self.length.batch_size

    @property
    def train_iters(self) -> int:
        """Steps of the whole run."""
        return self.length.train_iters


def plan_run(config: RunConfig, *, world_size: int) -> RunPlan:
    """Check the flags against each other, the weights, the tokenizer and the data.

    Then make the directories of --save and --tensorboard-dir.

    Raises:
        UserError: the first thing that cannot work.
    """
    num_replicas = config.parallel.data_parallel_size(world_size)
    directories = {
        "--save": config.checkpoint.save,
        "--tensorboard-dir": config.reporting.tensorboard_dir,
    }
    for flag, directory in directories.items():
        _check_writable(flag, directory)
    existing = newest_under_save(config.checkpoint)
    source, continues = find_source(config.checkpoint, existing)
    _check_outside_of_checkpoint(directories, source)
    resumed = source.checkpoint.run if source.checkpoint is not None and continues else None
    if resumed is not None and config.checkpoint.save is not None:
        check_rows(Path(config.checkpoint.save))
    if config.checkpoint.save is not None:
        read_best(Path(config.checkpoint.save))  # every save reads it, to keep what it names
    given, config = config, with_margins_as_before(config, resumed)
    stage = STAGES[config.training.stage]
    objective = stage.objective(config)
    for line in flags_without_effect(given):
        warn_once(line)
    _check_no_dropout_with_length_penalty(config)
    check_trackers(config.reporting)
    if config.checkpoint.save is None:
        warn_once("without --save the trained weights are not kept")
    model = plan_model(
        source,
        config.model,
        config.parallel,
        loosely=config.checkpoint.load_checkpoint_loosely,
        lora=config.lora,
        head=stage.head,
    )
    check_trained_layers(
        config.training.num_trained_layers, model.shape, has_adapters=model.spec.lora is not None
    )
    if resumed is not None and model.spec.lora != resumed.spec.lora:
        raise UserError(
            f"--lora-r trains another kind of model than the run in {source.name} did; --finetune starts a "
            "new run from its weights, under another --save"
        )
    check_seq_length(config.data.seq_length, model.shape)
    check_recompute_fits_shape(config.precision, config.parallel, model.shape)
    tokenizer_config = tokenizer_of(config.tokenizer, source)
    tokenizer = load_tokenizer(tokenizer_config)
    if tokenizer.vocab_size > model.shape.vocab_size:
        raise UserError(
            f"the tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids, above the model's "
            f"{model.shape.vocab_size} embedding rows; give the tokenizer that belongs to the weights"
        )
    reference = plan_reference(config, model, continues=continues) if stage.has_reference(config) else None
    datasets = open_datasets(config.data.prefixes, tokenizer, verifies=config.checkpoint.verify_checksums)
    objective = objective.for_data(datasets)
    attributes = datasets[0].rows.attributes
    model = with_attributes(model, attributes)
    template = template_of(config.data.prompt_type, datasets, tokenizer)
    blend = plan_blend(config.data, datasets, template, tokenizer, num_ids=model.shape.vocab_size)
    length = plan_length(config, num_replicas, resumed, num_examples=blend.mixture.epoch_size)
    report_mixture(blend, num_samples=length.num_samples)
    done = resumed.iteration if resumed is not None else 0
    check_profile(config, train_iters=length.train_iters, world_size=world_size, done=done)
    # The batch as it is in force, so that the checkpoints say it.
    training = dataclasses.replace(config.training, global_batch_size=length.batch_size)
    config = dataclasses.replace(config, training=training)
    placeholder = placeholder_of(datasets)
    held_out = plan_held_out(
        config,
        blend,
        batch_size=length.batch_size,
        template=template,
        tokenizer=tokenizer,
        objective=objective,
        placeholder=placeholder,
    )
    handler, map_keys = handler_of(datasets)
    contract = make_contract(
        template,
        tokenizer,
        not_use_fast=tokenizer_config.tokenizer_not_use_fast,
        seq_length=config.data.seq_length,
        truncation=config.data.truncation,
        handler=handler,
        map_keys=map_keys,
        attributes=attributes,
        placeholder_token=placeholder,
    )
    fingerprints = tuple(dataset.fingerprint() for dataset in datasets)
    held_out_files = files_of_sets(held_out)
    if continues:
        assert source.checkpoint is not None
        assert source.contract is not None
        check_contract(contract, source.contract)
        check_continues(
            config,
            source.checkpoint,
            length=length,
            fingerprints=fingerprints,
            held_out=held_out_files,
        )
    for directory in filter(None, directories.values()):  # a run that is refused leaves none behind
        Path(directory).mkdir(parents=True, exist_ok=True)
    return RunPlan(
        config=config,
        model=model,
        continues=continues,
        objective=objective,
        blend=blend,
        held_out=held_out,
        best_metric=metric_of(config, held_out),
        tokenizer=tokenizer,
        length=length,
        existing=existing,
        max_tokens=config.training.max_tokens_per_micro_batch
        or 2 * config.training.micro_batch_size * config.data.seq_length,
        fingerprints=fingerprints,
        held_out_files=held_out_files,
        info_files={**contract_files(contract, tokenizer), **base_model_files(source)},
        reference=reference,
    )


def _check_no_dropout_with_length_penalty(config: RunConfig) -> None:
    """The scores of a step are those of the pass before it, of which the penalty has its correlation.

    Raises:
        UserError: dropout would make them others.
    """
    dropouts = {
        "--attention-dropout": config.model.attention_dropout,
        "--hidden-dropout": config.model.hidden_dropout,
        "--head-dropout": config.model.head_dropout,
        "--lora-dropout": config.lora.lora_dropout,
    }
    given = [f"{name} {value:g}" for name, value in dropouts.items() if value]
    if config.objective.length_penalty_weight and given:
        raise UserError(
            f"--length-penalty-weight goes without dropout, got {given[0]}: the correlation is of the scores "
            "of the step, which a pass before it computes"
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


def newest_under_save(config: CheckpointConfig) -> Path | None:
    """The newest checkpoint under --save, if there is one.

    Raises:
        UserError: the file that names it is damaged.
    """
    return latest_checkpoint(Path(config.save)) if config.save is not None else None


def find_source(config: CheckpointConfig, existing: Path | None) -> tuple[ModelSource, bool]:
    """What the run starts from, and whether it continues the run that wrote it.

    Args:
        existing: the newest checkpoint under --save.

    Raises:
        UserError: --save holds checkpoints that this run does not go on from, or is a model's own directory.
    """
    # A directory with a checkpoint is read as that checkpoint, by --load of every command.
    if existing is None and config.save is not None and Path(config.save, "config.json").is_file():
        raise UserError(
            f"--save {config.save} is a Hugging Face directory: a checkpoint in it would be read in place of "
            "its model; give another --save"
        )
    if existing is not None and config.auto_resume:
        newest = open_source(str(existing), base_elsewhere=config.load)
        return newest, newest.has_train_state
    source = open_source(config.load, adapter=config.load_adapter)
    continues = source.has_train_state and not config.finetune and config.load_adapter is None
    if existing is not None and not (continues and _is_same_checkpoint(source, existing)):
        raise UserError(
            f"--save {config.save} holds a run up to {existing.name}, which this run would write over; give "
            "--auto-resume to continue that one, or another --save"
        )
    return source, continues


def _is_same_checkpoint(source: ModelSource, checkpoint: Path) -> bool:
    return source.checkpoint is not None and source.checkpoint.path.resolve() == checkpoint.resolve()
