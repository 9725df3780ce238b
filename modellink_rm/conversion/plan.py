"""The plan of an export: everything that can be checked before any process group starts."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.checkpoint.base_reference import checkpoint_reference
from modellink_rm.checkpoint.contract import (
    CONTRACT_NAME,
    InferenceContract,
    contract_tokenizer,
)
from modellink_rm.checkpoint.hf.contents import Contents, config_of_run
from modellink_rm.checkpoint.hf.form import Form, choose_form
from modellink_rm.checkpoint.layout import CheckpointInfo
from modellink_rm.checkpoint.model_plan import ModelPlan, plan_model
from modellink_rm.checkpoint.source import ModelSource, open_source
from modellink_rm.config.export import ExportConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.preprocess import DEFAULT_PLACEHOLDER
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversion.card import CARD_NAME, model_card
from modellink_rm.conversion.exported_tokenizer import (
    base_config,
    files_of_tokenizer,
    template_of,
    with_template,
)
from modellink_rm.conversion.output import check_is_new
from modellink_rm.conversion.padding import choose_pad_token, existing_pad_token
from modellink_rm.conversion.publisher_code import (
    can_be_opened,
    check_token_classifier,
    config_without_code,
    has_class_in_transformers,
)
from modellink_rm.conversion.samples import Sample, samples_of, samples_of_steps
from modellink_rm.conversion.tokenizer_files import (
    declared_pad_token,
    with_pad_token,
)
from modellink_rm.metrics.normalization import Normalization
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.parallel.groups import world_size_from_environment
from modellink_rm.templates.renderer import reward_token_ids
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """A directory that can be written.

    Attributes:
        model: with room for the rows that are added.
        bf16: whether the checkpoint's weights are bfloat16.
        samples: to score before the directory gets its name.
        rendered: indices of the samples that the chat template gives training's ids.
        checks_scores: whether transformers scores the samples at the end.
    """

    config: ExportConfig
    parallel: ParallelConfig
    model: ModelPlan
    contents: Contents
    bf16: bool
    samples: tuple[Sample, ...]
    rendered: tuple[int, ...]
    checks_scores: bool


def plan_export(config: ExportConfig, parallel: ParallelConfig) -> ExportPlan:
    """Check that the checkpoint can be written as the flags ask, and make its small files.

    Raises:
        UserError: it cannot; the line names the alternative where there is one.
    """
    parallel.check_world_size(world_size_from_environment())
    source = open_source(config.load, adapter=config.load_adapter)
    checkpoint = source.checkpoint
    if source.adapter is not None:
        raise UserError(
            f"--load-adapter {config.load_adapter} has PEFT's form already; PEFT's merge_and_unload makes a "
            "whole model of it and its base"
        )
    if checkpoint is None:
        raise UserError(
            f"--load {config.load} is a Hugging Face directory already; import makes a checkpoint of it, "
            "which export writes in another form"
        )
    if config.merge and source.base is None:
        raise UserError(f"--merge: {config.load} holds a whole model and no adapters; leave the flag out")
    contract = source.contract
    assert contract is not None
    check_output(config)
    base = config_of_run(checkpoint.run.spec, base_config(checkpoint))
    form = choose_form(config.form, checkpoint.run.spec)
    tokenizer = load_tokenizer(contract_tokenizer(TokenizerConfig(), contract, checkpoint.path))
    template = template_of(contract, checkpoint)
    samples = samples_of(template, tokenizer)
    steps = _samples_of_steps(checkpoint, contract, template, tokenizer)
    largest = max((max(one.input_ids) for one in (*samples, *steps)), default=0)
    if largest >= checkpoint.run.spec.shape.vocab_size:
        raise UserError(
            f"the tokenizer of {checkpoint.path} gives texts the id {largest}, and the model has "
            f"{checkpoint.run.spec.shape.vocab_size} embedding rows; import it again with the tokenizer that "
            "belongs to the weights"
        )
    files = files_of_tokenizer(checkpoint, contract, tokenizer)
    if form.is_language_model:
        pad = existing_pad_token(tokenizer, declared=declared_pad_token(files), config=base)
    else:
        pad = choose_pad_token(
            tokenizer,
            declared=declared_pad_token(files),
            config=base,
            used_ids={index for sample in (*samples, *steps) for index in sample.input_ids},
            num_rows=checkpoint.run.spec.shape.vocab_size,
        )
    files = with_pad_token(files, pad)
    if pad.is_new:
        place = "a row of its own" if pad.added_rows else "a row that no token had"
        info(
            f"padding token: {pad.token} with id {pad.index}, {place}; the vocabulary had none that only pads"
        )
    appended = _appended_by_class(form, checkpoint.run.spec.shape.family, template, tokenizer)
    templated = with_template(files, base, *appended.without(template, samples), tokenizer, pad)
    if templated.caveat is not None:
        warn_once(templated.caveat)
    bf16 = checkpoint.run.setting("precision", "bf16") is True
    dtype = DTYPES[config.dtype or ("bfloat16" if bf16 else "float32")]
    merged = _merged(config, contract)
    contract = _after_merging(contract, merged, has_bias=_has_bias(form, checkpoint))
    card = model_card(
        checkpoint,
        contract,
        form=form,
        dtype=dtype,
        pad=pad,
        caveat=templated.caveat,
        appended=template.reward_token if template is not None and appended.fields else "",
    )
    small_files = {**templated.files, CARD_NAME: card.encode()}
    if not form.is_language_model:
        small_files[CONTRACT_NAME] = contract.to_json()
    return ExportPlan(
        config=config,
        parallel=parallel,
        model=_model_with_room(source, parallel, added_rows=pad.added_rows),
        contents=Contents(
            base_config=config_without_code(base | appended.fields, checkpoint.run.spec.shape.family),
            dtype=dtype,
            form=form,
            pad_token_id=None if form.is_language_model else pad.index,
            added_rows=pad.added_rows,
            files=small_files,
            merged=merged,
            normalization=contract.normalization,
            max_shard_bytes=config.max_shard_bytes,
            attributes=contract.attributes,
            checkpoint=checkpoint_reference(checkpoint.path).fingerprint,
        ),
        bf16=bf16,
        samples=tuple(steps or samples),
        rendered=() if steps else templated.rendered,
        checks_scores=config.check_scores and _can_be_scored(checkpoint, form),
    )


def _samples_of_steps(
    checkpoint: CheckpointInfo, contract: InferenceContract, template: Template | None, tokenizer: Tokenizer
) -> list[Sample]:
    """Conversations in steps, for a model that scores these; else none.

    Raises:
        UserError: transformers has no class for such a model.
    """
    spec = checkpoint.run.spec
    if not spec.scores_steps:
        return []
    check_token_classifier(spec.shape.family)
    placeholder = contract.placeholder_token or DEFAULT_PLACEHOLDER
    return samples_of_steps(template, tokenizer, placeholder=placeholder)


def _merged(config: ExportConfig, contract: InferenceContract) -> Normalization | None:
    """The normalization that the head will apply.

    Raises:
        UserError: --merge-normalization is given, and the checkpoint has none.
    """
    if not config.merge_normalization:
        return None
    if contract.normalization is None:
        raise UserError(
            f"--merge-normalization: {config.load} holds no normalization; `python -m modellink_rm evaluate "
            "--write-normalization` measures one and writes it into the checkpoint"
        )
    return contract.normalization


def _has_bias(form: Form, checkpoint: CheckpointInfo) -> bool:
    return bool(form.head_names(checkpoint.run.spec.shape.family).bias)


def _after_merging(
    contract: InferenceContract, merged: Normalization | None, *, has_bias: bool
) -> InferenceContract:
    """The contract with what is left to normalize: nothing, or a shift that has no bias."""
    if merged is None:
        return contract
    left = None if has_bias else dataclasses.replace(merged, mean=merged.mean / merged.std, std=1.0)
    return dataclasses.replace(contract, normalization=left)


def _can_be_scored(checkpoint: CheckpointInfo, form: Form) -> bool:
    """Whether transformers can score what is written; else a line says that nothing did."""
    family = checkpoint.run.spec.shape.family
    if form.is_language_model and not has_class_in_transformers(family):
        warn_once(f"log-probabilities are not checked: transformers has no class for model_type {family}")
        return False
    if can_be_opened(family, as_classifier=form.is_classifier):
        return True
    classifier = FAMILIES[family].classifier
    warn_once(f"scores are not checked: {classifier} is code of the model's publisher, which is not run")
    return False


def check_output(config: ExportConfig) -> None:
    """Check that --output can be made.

    Raises:
        UserError: it is there already, lies in a checkpoint, or its parent cannot be written.
    """
    output = Path(config.output)
    check_is_new(config.output)
    nearest = output.absolute().parent
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--output {output} cannot be made in {nearest}")


@dataclass(frozen=True, kw_only=True)
class _Appended:
    """What the class of the written directory appends to a rendered conversation.

    Attributes:
        fields: of config.json, which name it; empty if it appends nothing.
    """

    fields: dict[str, int]

    def without(
        self, template: Template | None, samples: list[Sample]
    ) -> tuple[Template | None, list[Sample]]:
        """The template and the samples without it."""
        if template is None or not self.fields:
            return template, samples
        cut = [dataclasses.replace(one, input_ids=one.input_ids[:-1]) for one in samples]
        return dataclasses.replace(template, reward_token=""), cut


def _appended_by_class(form: Form, family: str, template: Template | None, tokenizer: Tokenizer) -> _Appended:
    field = FAMILIES[family].reward_token_field
    if not form.is_classifier or not field or template is None or not template.reward_token:
        return _Appended(fields={})
    return _Appended(fields={field: reward_token_ids(template, tokenizer)[0]})


def _model_with_room(source: ModelSource, parallel: ParallelConfig, *, added_rows: int) -> ModelPlan:
    """The model, its embedding padded to at least the rows that are written."""
    assert source.checkpoint is not None
    spec, size = source.checkpoint.run.spec, parallel.tensor_model_parallel_size
    rows = max(spec.padded_vocab_size, spec.shape.vocab_size + added_rows)
    config = ModelConfig(padded_vocab_size=-(-rows // size) * size)
    return plan_model(source, config, parallel, loosely=False, head=spec.head)
