"""The plan of an export: everything that can be checked before any process group starts."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_files import read_json_object
from modellink_rm.base.log import info, warn_once
from modellink_rm.checkpoint.base_model import BASE_MODEL_FOLDER
from modellink_rm.checkpoint.base_reference import checkpoint_reference
from modellink_rm.checkpoint.contract import (
    CONTRACT_NAME,
    TOKENIZER_FOLDER,
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
from modellink_rm.conversion.output import check_is_new, check_outside
from modellink_rm.conversion.padding import PadToken, choose_pad_token, existing_pad_token
from modellink_rm.conversion.publisher_code import (
    check_token_classifier,
    config_without_code,
    has_class_in_transformers,
)
from modellink_rm.conversion.samples import Sample, samples_of, samples_of_steps
from modellink_rm.conversion.tokenizer_files import (
    declared_pad_token,
    own_chat_template,
    render_with_transformers,
    with_added_bos,
    with_chat_template,
    with_pad_token,
    without_added_tokens,
)
from modellink_rm.metrics.normalization import Normalization
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.parallel.groups import world_size_from_environment
from modellink_rm.templates.choice import kept_template
from modellink_rm.templates.jinja import SPACES, jinja_of
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
    check_output(config, checkpoint)
    base = config_of_run(checkpoint.run.spec, _base_config(checkpoint))
    form = choose_form(config.form, checkpoint.run.spec)
    tokenizer = load_tokenizer(contract_tokenizer(TokenizerConfig(), contract, checkpoint.path))
    template = _template(contract, checkpoint)
    samples = samples_of(template, tokenizer)
    steps = _samples_of_steps(checkpoint, contract, template, tokenizer)
    files = _tokenizer_files(checkpoint, contract, tokenizer)
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
    templated = _with_template(files, base, *appended.without(template, samples), tokenizer, pad)
    if templated.caveat is not None:
        warn_once(templated.caveat)
    bf16 = checkpoint.run.setting("precision", "bf16") is True
    dtype = DTYPES[config.dtype or ("bfloat16" if bf16 else "float32")]
    merged = _merged(config, contract)
    contract, form = _after_merging(contract, form, merged, has_bias=_has_bias(form, checkpoint))
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
    contract: InferenceContract, form: Form, merged: Normalization | None, *, has_bias: bool
) -> tuple[InferenceContract, Form]:
    """The contract and the form with what is left to normalize: nothing, or a shift that has no bias."""
    left = contract.normalization
    if merged is not None:
        shift = merged.mean / merged.std
        left = None if has_bias else dataclasses.replace(merged, mean=shift, std=1.0)
    if left is not None and "mean" in form.fields:
        form = dataclasses.replace(form, fields={**form.fields, "mean": left.mean, "std": left.std})
    return dataclasses.replace(contract, normalization=left), form


def _can_be_scored(checkpoint: CheckpointInfo, form: Form) -> bool:
    """Whether transformers can score what is written; else a line says that nothing did."""
    family = checkpoint.run.spec.shape.family
    if form.is_language_model and not has_class_in_transformers(family):
        warn_once(f"log-probabilities are not checked: transformers has no class for model_type {family}")
        return False
    if not form.is_classifier or has_class_in_transformers(family):
        return True
    classifier = FAMILIES[family].classifier
    warn_once(f"scores are not checked: {classifier} is code of the model's publisher, which is not run")
    return False


def check_output(config: ExportConfig, checkpoint: CheckpointInfo) -> None:
    """Check that --output can be made.

    Raises:
        UserError: it is there already, lies in the checkpoint, or its parent cannot be written.
    """
    output = Path(config.output)
    check_is_new(config.output)
    check_outside(config.output, checkpoint.path)
    nearest = output.absolute().parent
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--output {output} cannot be made in {nearest}")


def _base_config(checkpoint: CheckpointInfo) -> dict[str, Any]:
    """The base model's config.json.

    Raises:
        UserError: the checkpoint has none.
    """
    path = checkpoint.path / BASE_MODEL_FOLDER / "config.json"
    if not path.is_file():
        raise UserError(
            f"{checkpoint.path} has no {BASE_MODEL_FOLDER}/config.json, which other programs need: its run "
            "started from random weights, or an earlier version wrote it; a run of one step with --finetune "
            "does not add it, one that starts with --load of a Hugging Face directory does"
        )
    return read_json_object(path)


@dataclass(frozen=True, kw_only=True)
class AdapterTokenizer:
    """The tokenizer's files beside adapters.

    Attributes:
        caveat: what users must know of the chat template; None where it gives training's ids.
    """

    files: Mapping[str, bytes]
    caveat: str | None


def tokenizer_beside_adapters(checkpoint: CheckpointInfo, contract: InferenceContract) -> AdapterTokenizer:
    """The tokenizer with the chat template that the adapters were trained with.

    The base model's own template may render otherwise: by today's date, or another template was given. No
    token is added for padding, since the vocabulary is that of the base model.

    Raises:
        UserError: the checkpoint's tokenizer or template is damaged.
    """
    tokenizer = load_tokenizer(contract_tokenizer(TokenizerConfig(), contract, checkpoint.path))
    template = _template(contract, checkpoint)
    has_config = (checkpoint.path / BASE_MODEL_FOLDER / "config.json").is_file()
    config = _base_config(checkpoint) if has_config else {}
    files = _tokenizer_files(checkpoint, contract, tokenizer)
    try:
        pad = existing_pad_token(tokenizer, declared=declared_pad_token(files), config=config)
    except UserError as error:
        return AdapterTokenizer(
            files=with_chat_template(files, None), caveat=f"no chat template is written: {error}"
        )
    samples = samples_of(template, tokenizer)
    templated = _with_template(with_pad_token(files, pad), config, template, samples, tokenizer, pad)
    return AdapterTokenizer(files=templated.files, caveat=templated.caveat)


def _template(contract: InferenceContract, checkpoint: CheckpointInfo) -> Template | None:
    if contract.prompt_type is None:
        return None
    return kept_template(contract.prompt_type, contract.template_definition, where=str(checkpoint.path))


def _tokenizer_files(
    checkpoint: CheckpointInfo, contract: InferenceContract, tokenizer: Tokenizer
) -> dict[str, bytes]:
    """The tokenizer's files: the base model's, which are all of them, where training used these."""
    base = checkpoint.path / BASE_MODEL_FOLDER
    own = contract_tokenizer(TokenizerConfig(), contract, checkpoint.path)
    try:
        config = TokenizerConfig(
            tokenizer_name_or_path=str(base), tokenizer_not_use_fast=own.tokenizer_not_use_fast
        )
        is_same = load_tokenizer(config).fingerprint == tokenizer.fingerprint
    except UserError:  # it has none
        is_same = False
    directory = base if is_same else checkpoint.path / TOKENIZER_FOLDER
    not_of_it = {"config.json", CARD_NAME, "LICENSE"}
    if not checkpoint.run.spec.is_language_model:
        not_of_it.add("generation_config.json")
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name not in not_of_it}
    if own.tokenizer_not_use_fast and "tokenizer.model" in files:
        files.pop("tokenizer.json", None)
    return files


@dataclass(frozen=True, kw_only=True)
class _Templated:
    """The tokenizer's files with a chat template.

    Attributes:
        rendered: indices of the samples that it gives training's ids.
        caveat: what users must know of it; None where it gives these to all.
    """

    files: Mapping[str, bytes]
    rendered: tuple[int, ...] = ()
    caveat: str | None = None


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


def _with_template(
    files: Mapping[str, bytes],
    config: Mapping[str, Any],
    template: Template | None,
    samples: list[Sample],
    tokenizer: Tokenizer,
    pad: PadToken,
) -> _Templated:
    """The files with the chat template that gives most samples training's ids, at least the plain ones."""
    if template is None:
        which = "none is written" if own_chat_template(files) is None else "it is the tokenizer's own"
        caveat = f"the checkpoint does not say which template its data was written with: {which}"
        return _Templated(files=files, caveat=caveat)
    best: _Templated | None = None
    for spaces in SPACES if not template.chat_template else SPACES[:1]:
        candidate = with_chat_template(files, jinja_of(template, tokenizer, spaces))
        try:
            rendering = render_with_transformers(candidate, config, samples, pad)
            if rendering.by_itself != "equal":
                change = with_added_bos if rendering.by_itself == "without BOS" else without_added_tokens
                changed = change(candidate)
                again = render_with_transformers(changed, config, samples, pad)
                if again.different == rendering.different:
                    candidate, rendering = changed, again
        except UserError as error:
            return _Templated(
                files=with_chat_template(files, None), caveat=f"no chat template is written: {error}"
            )
        rendered = tuple(index for index in range(len(samples)) if index not in rendering.different)
        if not rendering.different:
            return _Templated(files=candidate, rendered=rendered)
        is_usable = not any(samples[index].is_plain for index in rendering.different)
        if is_usable and best is None:
            caveat = (
                "transformers reads this tokenizer otherwise than sentencepiece does: line breaks, runs of "
                "spaces and full-width characters, of the template too, may get other ids than in training"
            )
            best = _Templated(files=candidate, rendered=rendered, caveat=caveat)
    caveat = (
        f"no chat template is written: as one text, conversations of --prompt-type {template.name} get "
        "other ids than slot by slot; send ids, or score with python -m modellink_rm score"
    )
    return best or _Templated(files=with_chat_template(files, None), caveat=caveat)


def _model_with_room(source: ModelSource, parallel: ParallelConfig, *, added_rows: int) -> ModelPlan:
    """The model, its embedding padded to at least the rows that are written."""
    assert source.checkpoint is not None
    spec, size = source.checkpoint.run.spec, parallel.tensor_model_parallel_size
    rows = max(spec.padded_vocab_size, spec.shape.vocab_size + added_rows)
    config = ModelConfig(padded_vocab_size=-(-rows // size) * size)
    return plan_model(source, config, parallel, loosely=False, head=spec.head)
