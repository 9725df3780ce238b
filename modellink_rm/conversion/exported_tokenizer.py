"""A checkpoint's tokenizer as other programs get it, with the chat template of its training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_files import read_json_object
from modellink_rm.checkpoint.base_model import BASE_MODEL_FOLDER
from modellink_rm.checkpoint.contract import TOKENIZER_FOLDER, InferenceContract, contract_tokenizer
from modellink_rm.checkpoint.layout import CheckpointInfo
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversion.card import CARD_NAME
from modellink_rm.conversion.padding import PadToken, existing_pad_token
from modellink_rm.conversion.samples import Sample, samples_of
from modellink_rm.conversion.tokenizer_files import (
    declared_pad_token,
    own_chat_template,
    render_with_transformers,
    with_added_bos,
    with_chat_template,
    with_pad_token,
    without_added_tokens,
)
from modellink_rm.templates.choice import kept_template
from modellink_rm.templates.jinja import SPACES, jinja_of
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TemplatedTokenizer:
    """The tokenizer's files with a chat template.

    Attributes:
        rendered: indices of the samples that it gives training's ids.
        caveat: what users must know of it; None where it gives these to all.
    """

    files: Mapping[str, bytes]
    rendered: tuple[int, ...] = ()
    caveat: str | None = None


def tokenizer_beside_adapters(checkpoint: CheckpointInfo, contract: InferenceContract) -> TemplatedTokenizer:
    """The tokenizer with the chat template that the adapters were trained with.

    The base model's own template may render otherwise: by today's date, or another template was given. No
    token is added for padding, since the vocabulary is that of the base model.

    Raises:
        UserError: the checkpoint's tokenizer or template is damaged.
    """
    tokenizer = load_tokenizer(contract_tokenizer(TokenizerConfig(), contract, checkpoint.path))
    template = template_of(contract, checkpoint)
    has_config = (checkpoint.path / BASE_MODEL_FOLDER / "config.json").is_file()
    config = base_config(checkpoint) if has_config else {}
    files = files_of_tokenizer(checkpoint, contract, tokenizer)
    try:
        pad = existing_pad_token(tokenizer, declared=declared_pad_token(files), config=config)
    except UserError as error:
        return TemplatedTokenizer(
            files=with_chat_template(files, None), caveat=f"no chat template is written: {error}"
        )
    samples = samples_of(template, tokenizer)
    return with_template(with_pad_token(files, pad), config, template, samples, tokenizer, pad)


def base_config(checkpoint: CheckpointInfo) -> dict[str, Any]:
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


def template_of(contract: InferenceContract, checkpoint: CheckpointInfo) -> Template | None:
    """The template of training; None where the checkpoint does not say it.

    Raises:
        UserError: it is damaged.
    """
    if contract.prompt_type is None:
        return None
    return kept_template(contract.prompt_type, contract.template_definition, where=str(checkpoint.path))


def files_of_tokenizer(
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


def with_template(
    files: Mapping[str, bytes],
    config: Mapping[str, Any],
    template: Template | None,
    samples: list[Sample],
    tokenizer: Tokenizer,
    pad: PadToken,
) -> TemplatedTokenizer:
    """The files with the chat template that gives most samples training's ids, at least the plain ones."""
    if template is None:
        which = "none is written" if own_chat_template(files) is None else "it is the tokenizer's own"
        caveat = f"the checkpoint does not say which template its data was written with: {which}"
        return TemplatedTokenizer(files=files, caveat=caveat)
    best: TemplatedTokenizer | None = None
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
            return TemplatedTokenizer(
                files=with_chat_template(files, None), caveat=f"no chat template is written: {error}"
            )
        rendered = tuple(index for index in range(len(samples)) if index not in rendering.different)
        if not rendering.different:
            return TemplatedTokenizer(files=candidate, rendered=rendered)
        is_usable = not any(samples[index].is_plain for index in rendering.different)
        if is_usable and best is None:
            caveat = (
                "transformers reads this tokenizer otherwise than sentencepiece does: line breaks, runs of "
                "spaces and full-width characters, of the template too, may get other ids than in training"
            )
            best = TemplatedTokenizer(files=candidate, rendered=rendered, caveat=caveat)
    caveat = (
        f"no chat template is written: as one text, conversations of --prompt-type {template.name} get "
        "other ids than slot by slot; send ids, or score with python -m modellink_rm score"
    )
    return best or TemplatedTokenizer(files=with_chat_template(files, None), caveat=caveat)
