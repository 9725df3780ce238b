"""The source of a model: a Hugging Face directory, a checkpoint, or flags alone."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.checkpoint.base_reference import (
    BaseReference,
    checkpoint_reference,
    directory_reference,
)
from modellink_rm.checkpoint.contract import (
    CONTRACT_NAME,
    InferenceContract,
    contract_tokenizer,
    read_contract,
)
from modellink_rm.checkpoint.hf.directory import (
    HuggingFaceWeights,
    read_shape,
)
from modellink_rm.checkpoint.layout import CheckpointInfo, find_checkpoint, read_checkpoint_info
from modellink_rm.checkpoint.megatron.files import find_megatron_checkpoint
from modellink_rm.checkpoint.peft.directory import CONFIG_FILE, PeftDirectory
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.tensors import TensorTable
from modellink_rm.model.resolve import resolve_shape
from modellink_rm.model.shape import ModelShape
from modellink_rm.report.best import DIRECTORY_NAME
from modellink_rm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where weights come from: one of the two, or neither for random weights.

    Attributes:
        base: of a checkpoint of adapters, the model that they update.
        adapter: adapters of another program's form, read over the weights.
    """

    hugging_face: HuggingFaceWeights | None = None
    checkpoint: CheckpointInfo | None = None
    base: "ModelSource | None" = None
    adapter: PeftDirectory | None = None

    @property
    def name(self) -> str:
        """The directory that the weights are read from, as messages call it."""
        if self.hugging_face is not None:
            return str(self.hugging_face.directory)
        return str(self.checkpoint.path) if self.checkpoint is not None else "random weights"

    @property
    def adapter_name(self) -> str:
        """The directory that adapters are read from."""
        return str(self.adapter.directory) if self.adapter is not None else self.name

    @cached_property
    def contract(self) -> InferenceContract | None:
        """How a checkpoint must be used for scoring, read once; None without a checkpoint.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_contract(self.checkpoint.path) if self.checkpoint is not None else None

    @cached_property
    def exported_contract(self) -> InferenceContract | None:
        """How the checkpoint must be used that `export` wrote as this directory; None of any other source.

        Raises:
            UserError: it is damaged.
        """
        source = self.adapter or self.hugging_face
        if source is None or not (source.directory / CONTRACT_NAME).is_file():
            return None
        return read_contract(source.directory)

    @property
    def attributes(self) -> tuple[str, ...]:
        """What each output of its head says; empty where its one output is the score."""
        if self.adapter is not None and self.outputs_of_adapter is not None:
            return self.adapter.attributes(self._tensors)
        if self.hugging_face is not None:
            return self.hugging_face.attributes
        return self.contract.attributes if self.contract is not None else ()

    @property
    def outputs_of_adapter(self) -> int | None:
        """The outputs of the head that came with adapters of another program's form; None if none did."""
        return self.adapter.num_outputs(self._tensors) if self.adapter is not None else None

    @property
    def head_of_adapter(self) -> str | None:
        """What that head says, as `ModelSpec.head`; None if none came."""
        return self.adapter.head_kind(self._tensors) if self.adapter is not None else None

    @property
    def has_own_head(self) -> bool:
        """Whether a head comes with the weights, apart from adapters."""
        if self.checkpoint is not None:
            return True
        return self.hugging_face is not None and self.hugging_face.head() is not None

    @property
    def _tensors(self) -> TensorTable:
        """Names of the tensors of its family."""
        if self.hugging_face is not None:
            return self.hugging_face.tensors
        assert self.checkpoint is not None
        return FAMILIES[self.checkpoint.run.spec.shape.family].tensors

    def appended_token(self, tokenizer: Tokenizer) -> str:
        """The token that the publisher's class appends to what it scores, of a directory; "" for none."""
        weights = self.hugging_face
        field = FAMILIES[weights.shape.family].reward_token_field if weights is not None else ""
        if weights is None or not field:
            return ""
        wanted = weights.config.get(field)
        found = next((token for token, index in tokenizer.special_tokens.items() if index == wanted), "")
        if found:
            info(f"{found} is appended to every response: {field} of config.json")
        return found

    @property
    def has_train_state(self) -> bool:
        """Whether it is the checkpoint of a run, which can be continued."""
        return self.checkpoint is not None and self.checkpoint.run.has_train_state

    @cached_property
    def reference(self) -> BaseReference:
        """What adapters that are trained on this model keep of it; of adapters, of what they update.

        Raises:
            UserError: a file cannot be read.
        """
        if self.base is not None:
            return self.base.reference
        if self.checkpoint is not None:
            return checkpoint_reference(self.checkpoint.path)
        assert self.hugging_face is not None
        return directory_reference(self.hugging_face.directory)

    @property
    def is_random(self) -> bool:
        """Whether no weights are loaded."""
        return self.hugging_face is None and self.checkpoint is None


def open_source(
    load: str | None,
    *,
    base_model: str | None = None,
    adapter: str | None = None,
    base_elsewhere: str | None = None,
) -> ModelSource:
    """The source that --load names; reads headers but no weights.

    Args:
        base_model: --base-model of import: the Hugging Face directory whose config.json and tokenizer a
            checkpoint of ModelLink 1.0 or Megatron-LM has.
        adapter: --load-adapter.
        base_elsewhere: where the model that a checkpoint of adapters updates may be, if it was moved.

    Raises:
        UserError: the directory is missing, damaged, or neither a model nor a checkpoint; or the adapters
            are of another model.
    """
    if adapter is not None:
        return _with_adapter(open_source(load), adapter)
    if load is None:
        return ModelSource()
    path = Path(load)
    if not path.is_dir() and path.name != DIRECTORY_NAME:
        raise UserError(f"--load {load}: there is no such directory")
    megatron = find_megatron_checkpoint(path)
    if megatron is not None:
        return ModelSource(hugging_face=_open_megatron(megatron, load, base_model))
    if base_model is not None:
        raise UserError(
            f"--base-model is for checkpoints of ModelLink or Megatron-LM, with mp_rank_ directories; "
            f"--load {load} is none"
        )
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return _opened_checkpoint(read_checkpoint_info(checkpoint), base_elsewhere)
    if not path.is_dir():
        raise UserError(f"--load {load}: there is no such directory")
    if (path / "config.json").is_file():
        return ModelSource(hugging_face=HuggingFaceWeights(path))
    if (path / CONFIG_FILE).is_file():
        raise UserError(
            f"--load {load} is an adapter in PEFT's form; give its base model as --load, and --load-adapter "
            f"{load}"
        )
    raise UserError(
        f"--load {load} is neither a Hugging Face directory (no config.json) nor a checkpoint of this tool"
    )


def _opened_checkpoint(checkpoint: CheckpointInfo, base_elsewhere: str | None) -> ModelSource:
    """A checkpoint, and the model that its adapters update if it holds some.

    Raises:
        UserError: that model is not where it was, or is another one now.
    """
    reference = checkpoint.run.base
    if (reference is None) != (checkpoint.run.spec.lora is None):
        raise UserError(
            f"{checkpoint.path}: its run.json is damaged (adapters without a base, or the reverse)"
        )
    if reference is None:
        return ModelSource(checkpoint=checkpoint)
    place = reference.path
    if not Path(place).is_dir() and base_elsewhere is not None and Path(base_elsewhere).is_dir():
        place = base_elsewhere
    if not Path(place).is_dir():
        raise UserError(
            f"{checkpoint.path} holds adapters of {place}, which is not there; give the model as --load, and "
            f"--load-adapter {checkpoint.path}"
        )
    inner = find_checkpoint(Path(place))
    if inner is not None and read_checkpoint_info(inner).run.base is not None:
        raise UserError(
            f"{checkpoint.path}: its run.json is damaged (it holds adapters of {place}, which holds adapters "
            "itself)"
        )
    return _of_adapters(checkpoint, open_source(place))


def _of_adapters(checkpoint: CheckpointInfo, base: ModelSource) -> ModelSource:
    """A checkpoint of adapters with the model that they update.

    Raises:
        UserError: they were trained on another model.
    """
    reference = checkpoint.run.base
    assert reference is not None
    if base.reference.fingerprint != reference.fingerprint:
        raise UserError(
            f"{base.name} is not the model that the adapters in {checkpoint.path} were trained on, which lay "
            f"in {reference.path}"
        )
    return ModelSource(checkpoint=checkpoint, base=base)


def _with_adapter(base: ModelSource, adapter: str) -> ModelSource:
    """A model with adapters in PEFT's form, or those of a checkpoint.

    Raises:
        UserError: there are no adapters, or the model has some already.
    """
    if base.is_random or base.base is not None:
        reason = "has adapters already" if base.base is not None else "is missing"
        raise UserError(f"--load-adapter {adapter} needs the model that it updates as --load, which {reason}")
    path = Path(adapter)
    if (path / CONFIG_FILE).is_file():
        source = dataclasses.replace(base, adapter=PeftDirectory(path))
        _warn_of_another_base(source)
        return source
    checkpoint = find_checkpoint(path) if path.is_dir() or path.name == DIRECTORY_NAME else None
    if checkpoint is None:
        raise UserError(
            f"--load-adapter {adapter} is neither PEFT's directory (no {CONFIG_FILE}) nor a checkpoint"
        )
    info = read_checkpoint_info(checkpoint)
    if info.run.base is None:
        raise UserError(f"--load-adapter {adapter} holds a whole model and no adapters; give it as --load")
    return _of_adapters(info, base)


def _warn_of_another_base(source: ModelSource) -> None:
    """Say where adapters in PEFT's form were trained on another model than they are to update.

    They carry little that tells: of those that this package wrote a fingerprint, else a name. A copy of the
    model in another form has another fingerprint, so this is no error.
    """
    adapter = source.adapter
    assert adapter is not None
    fingerprint, name = adapter.base_fingerprint, adapter.base_name
    here = str(Path(source.name).resolve())
    if fingerprint is not None:
        is_other = fingerprint != source.reference.fingerprint
    else:
        is_other = bool(name) and Path(name).name.casefold() not in here.casefold()
    if is_other:
        warn_once(
            f"{source.adapter_name} was trained on {name or 'another model'}, which {source.name} is not, or "
            "not in the same files: scores are right only where its weights are the same"
        )


def _open_megatron(directory: Path, load: str, base_model: str | None) -> HuggingFaceWeights:
    if base_model is None:
        raise UserError(
            f"--load {load} is a checkpoint of ModelLink or Megatron-LM; python -m modellink_rm import "
            f"--load {load} --base-model DIR --output CHECKPOINT makes one of this tool of it, DIR being the "
            "Hugging Face directory of its base model"
        )
    from modellink_rm.checkpoint.megatron.weights import MegatronWeights

    return MegatronWeights(directory, base_model)


def check_base_of_4_bits(source: ModelSource) -> None:
    """What is held in 4 bits is read from a Hugging Face directory.

    Raises:
        UserError: it is in a checkpoint.
    """
    base = source.base or source
    if base.hugging_face is None:
        raise UserError(
            f"--load-in-4bit needs a Hugging Face directory: {base.name} is a checkpoint; python -m "
            f"modellink_rm export --load {base.name} --output DIR makes one of it"
        )


def shape_of(load: str | None, model: ModelConfig, *, in_4_bits: bool = False) -> ModelShape:
    """The shape of the model that --load and the model's flags name; no weights need to be there.

    Args:
        in_4_bits: it is to be held so.

    Raises:
        UserError: the directory is missing or damaged, or the flags do not fit it.
    """
    if load is None:
        return resolve_shape(model, None)
    path = Path(load)
    if find_checkpoint(path) is None and (path / "config.json").is_file():
        return resolve_shape(model, read_shape(path), source=f"{path / 'config.json'}")
    source = open_source(load)
    checkpoint = source.checkpoint
    assert checkpoint is not None
    if in_4_bits:
        check_base_of_4_bits(source)
    return resolve_shape(model, checkpoint.run.spec.shape, source=str(checkpoint.path))


def tokenizer_of(config: TokenizerConfig, source: ModelSource) -> TokenizerConfig:
    """The tokenizer's flags; if they name no tokenizer, the directory of the weights is used."""
    if config.tokenizer_name_or_path is not None or config.tokenizer_model is not None:
        return config
    if source.hugging_face is not None:
        return dataclasses.replace(config, tokenizer_name_or_path=str(source.hugging_face.base_model))
    if source.checkpoint is not None and source.contract is not None:
        return contract_tokenizer(config, source.contract, source.checkpoint.path)
    return config
