"""The inference contract: how to turn a prompt and a response into the ids that training scored."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from modellink_rm.base.checksums import sealed_json, unsealed
from modellink_rm.base.errors import UserError
from modellink_rm.base.files import write_whole
from modellink_rm.base.json_types import known_fields
from modellink_rm.checkpoint.base_reference import checkpoint_reference
from modellink_rm.checkpoint.files import CHECKSUMS_FILE, check_contents, read_files
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.dataset.truncation import MODES
from modellink_rm.metrics.normalization import Normalization
from modellink_rm.templates.files import definition_of
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer

CONTRACT_NAME = "inference_contract.json"
TOKENIZER_FOLDER = "tokenizer"
# Measured after the checkpoint was written: a file of its own, which its list of files does not name.
NORMALIZATION_NAME = "normalization.json"
_CHECKPOINT = "checkpoint"  # in that file: what tells the checkpoint from others
SCORED_TOKEN = "last token of the rendered response"
SCORED_STEPS = "last token of each step of the response, which is that of the placeholder"


@dataclass(frozen=True, kw_only=True)
class InferenceContract:
    """How any program must compute scores with a checkpoint.

    Attributes:
        prompt_type: name of the template; None if the data did not name one.
        template_fingerprint: sha256 of the template's content.
        template_definition: the template itself, as in a file of --prompt-type-path.
        eos_rule: which token ends a rendered response, in words.
        scored_token: where the score is read.
        tokenizer_fingerprint: sha256 of what determines its ids; its files lie in TOKENIZER_FOLDER.
        tokenizer_not_use_fast: sentencepiece reads tokenizer.model although there is a tokenizer.json.
        seq_length: longest prompt + response, in tokens; longer ones are truncated.
        truncation: how.
        handler: --handler-name that read the training data's records; None if data sets differ or do not
            name one.
        map_keys: --map-keys of that handler, as given.
        attributes: what each output of the head says, by the names of the training data's ratings; empty
            where its one output is the score.
        placeholder_token: the text after each step of a response, for a model that scores steps; None for
            one of whole responses.
        normalization: how scores are normalized, where `evaluate --write-normalization` measured it.
    """

    prompt_type: str | None
    template_fingerprint: str | None
    template_definition: dict[str, Any] | None = None
    eos_rule: str | None
    scored_token: str = SCORED_TOKEN
    tokenizer_fingerprint: str
    tokenizer_not_use_fast: bool
    seq_length: int
    truncation: str
    handler: str | None = None
    map_keys: str | None = None
    attributes: tuple[str, ...] = ()
    placeholder_token: str | None = None
    normalization: Normalization | None = None

    def to_json(self) -> bytes:
        """The content of inference_contract.json."""
        values = dataclasses.asdict(self)
        for name in ("attributes", "placeholder_token", "normalization"):
            if not values[name]:
                del values[name]
        return json.dumps(values, indent=1, ensure_ascii=False).encode()


def make_contract(
    template: Template | None,
    tokenizer: Tokenizer,
    *,
    not_use_fast: bool,
    seq_length: int,
    truncation: str,
    handler: str | None,
    map_keys: str | None,
    attributes: tuple[str, ...] = (),
    placeholder_token: str | None = None,
) -> InferenceContract:
    """The contract of a run."""
    return InferenceContract(
        scored_token=SCORED_TOKEN if placeholder_token is None else SCORED_STEPS,
        placeholder_token=placeholder_token,
        prompt_type=template.name if template is not None else None,
        template_fingerprint=template.fingerprint if template is not None else None,
        template_definition=definition_of(template) if template is not None else None,
        eos_rule=template.eos_rule if template is not None else None,
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_not_use_fast=not_use_fast,
        seq_length=seq_length,
        truncation=truncation,
        handler=handler,
        map_keys=map_keys,
        attributes=attributes,
    )


def contract_files(contract: InferenceContract, tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files to store in a checkpoint, by relative name: the contract and the tokenizer's files."""
    names = [path.name for path in tokenizer.files]
    if tokenizer.vocabulary_name:
        names[0] = tokenizer.vocabulary_name
    files = {
        f"{TOKENIZER_FOLDER}/{name}": path.read_bytes()
        for name, path in zip(names, tokenizer.files, strict=True)
    }
    return {CONTRACT_NAME: contract.to_json(), **files}


def contract_tokenizer(
    config: TokenizerConfig, contract: InferenceContract, checkpoint: Path
) -> TokenizerConfig:
    """The flags `config`, which name no tokenizer, completed to load the one stored in the checkpoint."""
    return dataclasses.replace(
        config,
        tokenizer_name_or_path=str(checkpoint / TOKENIZER_FOLDER),
        tokenizer_not_use_fast=config.tokenizer_not_use_fast or contract.tokenizer_not_use_fast,
    )


def write_normalization(checkpoint: Path, normalization: Normalization) -> Path:
    """Make the contract of the checkpoint iter_N say how scores are normalized; the file that says it.

    Raises:
        OSError: it cannot be written.
    """
    path = checkpoint / NORMALIZATION_NAME
    fingerprint = checkpoint_reference(checkpoint).fingerprint
    values = {**dataclasses.asdict(normalization), _CHECKPOINT: fingerprint}
    write_whole(path, sealed_json(values, indent=1))
    return path


def _read_normalization(checkpoint: Path) -> Normalization | None:
    """What `write_normalization` wrote; None if it did not.

    Raises:
        UserError: it is damaged, or was measured of another checkpoint.
    """
    path = checkpoint / NORMALIZATION_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        values = unsealed(json.loads(content))
        measured_of = values.pop(_CHECKPOINT, None)
        normalization = Normalization(**known_fields(Normalization, values, str(path)))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({' '.join(str(error).split())}): measure it again, or remove it for the "
            "model's own scores"
        ) from error
    # Earlier versions did not say of which.
    if measured_of not in (None, checkpoint_reference(checkpoint).fingerprint):
        raise UserError(
            f"{path} was measured of another checkpoint: measure it of this one, or remove it for the "
            "model's own scores"
        )
    return normalization


def _check_export(directory: Path) -> None:
    """The contract beside an export's checksums is the one that was written; a checkpoint has its files.json.

    Raises:
        UserError: it is not.
    """
    checksums = directory / CHECKSUMS_FILE
    if checksums.is_file():  # earlier versions list the tensors alone
        listed = read_files(checksums)
        check_contents(directory, {name: listed[name] for name in listed.keys() & {CONTRACT_NAME}})


def read_contract(checkpoint: Path) -> InferenceContract:
    """The contract of the checkpoint iter_N, or of the directory that `export` wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    path = checkpoint / CONTRACT_NAME
    _check_export(checkpoint)
    try:
        content: dict[str, Any] = orjson.loads(path.read_bytes())
        contract = InferenceContract(**known_fields(InferenceContract, content, str(path)))
        measured = _read_normalization(checkpoint)
        if measured is not None:  # after what an import may have found in an exported directory
            contract = dataclasses.replace(contract, normalization=measured)
        if contract.truncation not in MODES or contract.seq_length < 1:
            raise ValueError(f"truncation {contract.truncation!r}, seq_length {contract.seq_length}")
        return contract
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the checkpoint does not say how to score with it") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())})") from error
