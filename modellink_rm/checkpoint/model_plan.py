"""A model that can be built: what the weights, the flags and the adapters say together."""

import dataclasses
from dataclasses import dataclass

from modellink_rm.adapters.lora import Lora
from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.checkpoint.hf.directory import (
    HuggingFaceWeights,
    check_language_model,
    check_names,
)
from modellink_rm.checkpoint.layout import CheckpointInfo
from modellink_rm.checkpoint.source import ModelSource, check_base_of_4_bits
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.adapter_targets import agreed, check_quantized_sizes, new_adapters
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.fits import check_parallel_fits_shape
from modellink_rm.model.resolve import padded_vocab_size, resolve_shape
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import LANGUAGE_MODEL_HEAD, REWARD_HEAD, STEP_HEAD, ModelSpec


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """A model that can be built, and where its weights come from."""

    source: ModelSource
    spec: ModelSpec

    @property
    def shape(self) -> ModelShape:
        """The model's."""
        return self.spec.shape


def plan_model(
    source: ModelSource,
    model: ModelConfig,
    parallel: ParallelConfig,
    *,
    loosely: bool,
    lora: LoraConfig | None = None,
    head: str | None = None,
) -> ModelPlan:
    """Check the weights against the flags.

    Args:
        loosely: accept a base model without a reward head, and ignore its language-model head.
        lora: of a run that may train adapters.
        head: that of `ModelSpec`, which the weights must have or lack; None for the one they have.

    Raises:
        UserError: the weights and the flags do not fit, or the weights are of a model with another head.
    """
    if head == LANGUAGE_MODEL_HEAD:
        source = _of_language_model(source)
        spec = _spec_of_language_model(source, model, parallel)
    elif source.checkpoint is not None:
        spec = _spec_of_checkpoint(source.checkpoint, model, parallel)
        if head not in (None, spec.head):
            raise UserError(_other_head_message(source.name, spec.head))
    elif source.hugging_face is not None:
        brought = source.head_of_adapter
        if brought is not None:
            if head not in (None, brought):
                raise UserError(_other_head_message(source.adapter_name, brought, flag="--load-adapter"))
            loosely, head = True, brought
        spec = _spec_of_hugging_face(source.hugging_face, model, parallel, loosely=loosely, head=head)
    else:
        warn_once("without --load the weights are random")
        shape = resolve_shape(model, None)
        spec = ModelSpec(
            shape=shape,
            padded_vocab_size=padded_vocab_size(model, shape, parallel.tensor_model_parallel_size),
            post_layer_norm=model.post_layer_norm,
            head_bias=model.head_bias or head == STEP_HEAD,
            head=head or REWARD_HEAD,
        )
    check_parallel_fits_shape(parallel, spec.shape)
    if source.outputs_of_adapter is not None:
        spec = _with_head_of_adapter(spec, source.outputs_of_adapter, source)
    spec = dataclasses.replace(spec, lora=_adapters(source, spec, lora or LoraConfig()))
    _check_adapters(source, spec, parallel)
    return ModelPlan(source=source, spec=spec)


def with_attributes(model: ModelPlan, attributes: tuple[str, ...]) -> ModelPlan:
    """The model with an output for each attribute of the ratings that it is trained on.

    Args:
        attributes: empty where it is trained on preferences, of one score.

    Raises:
        UserError: the head that is loaded has other outputs.
    """
    known, source = model.source.attributes, model.source
    number = max(len(attributes), 1)
    has_head = source.has_own_head or source.outputs_of_adapter is not None
    name = f"--load {source.name}"
    if source.outputs_of_adapter is not None:
        name = f"--load-adapter {source.adapter_name}"
    if has_head and number != model.spec.num_outputs:
        outputs = f"the attributes {', '.join(known)}" if known else "one score"
        wanted = f"ratings of {', '.join(attributes)}" if attributes else "preferences, of one score"
        raise UserError(
            f"{name} has a head of {outputs}, and the data are {wanted}: load its base model "
            "with --load-checkpoint-loosely, or give other data"
        )
    if has_head and known and attributes and known != attributes:
        raise UserError(
            f"{name} has a head of the attributes {', '.join(known)}, and the data are ratings "
            f"of {', '.join(attributes)}: preprocess with the names in that order"
        )
    return dataclasses.replace(model, spec=dataclasses.replace(model.spec, num_outputs=number))


def _with_head_of_adapter(spec: ModelSpec, num_outputs: int, source: ModelSource) -> ModelSpec:
    """The model with the head that its adapters bring, in place of its own.

    Raises:
        UserError: its own one is of another kind.
    """
    if spec.head != source.head_of_adapter or (source.has_own_head and spec.num_outputs != num_outputs):
        raise UserError(
            f"{source.adapter_name} brings a head with {num_outputs} output(s) of a reward model of whole "
            f"responses, and {source.name} has another head; give the model that the adapter was trained on"
        )
    return dataclasses.replace(spec, num_outputs=num_outputs)


def _adapters(source: ModelSource, spec: ModelSpec, flags: LoraConfig) -> Lora | None:
    """The model's adapters: those of its source, or new ones.

    Raises:
        UserError: the flags differ from what is loaded, or need --lora-r.
    """
    loaded = source.adapter.lora(spec) if source.adapter is not None else spec.lora
    if loaded is not None:
        return agreed(
            flags,
            loaded,
            spec.shape,
            source=source.adapter_name,
            knows_quantization=source.adapter is None or bool(loaded.quantization),
        )
    return new_adapters(flags, spec.shape)


def _check_adapters(source: ModelSource, spec: ModelSpec, parallel: ParallelConfig) -> None:
    """Check that the model that adapters update can be loaded, and held as they say.

    Raises:
        UserError: it cannot.
    """
    if spec.lora is None:
        return
    if source.is_random:
        raise UserError("--lora-r needs --load: adapters update a model that was trained")
    if spec.lora.quantization:
        check_base_of_4_bits(source)
    check_quantized_sizes(spec, parallel)


def _of_language_model(source: ModelSource) -> ModelSource:
    """The source, whose directory is read as a language model's, and so is that of what adapters update."""
    weights, base = source.hugging_face, source.base
    return dataclasses.replace(
        source,
        hugging_face=None if weights is None else weights.of_language_model(),
        base=None if base is None else _of_language_model(base),
    )


def _spec_of_language_model(source: ModelSource, model: ModelConfig, parallel: ParallelConfig) -> ModelSpec:
    """The specification of a language model.

    Raises:
        UserError: there is none, or a flag is about a reward head.
    """
    given = {"--head-bias": model.head_bias, "--no-post-layer-norm": not model.post_layer_norm}
    for flag in (flag for flag, is_given in given.items() if is_given):
        raise UserError(f"{flag} is about the head of a reward model; leave it out with --stage dpo")
    if source.checkpoint is not None:
        if not source.checkpoint.run.spec.is_language_model:
            raise UserError(
                f"{source.checkpoint.path} is a reward model, and --stage dpo trains a language model; give "
                "the Hugging Face directory of one"
            )
        return _spec_of_checkpoint(source.checkpoint, model, parallel, is_language_model=True)
    weights = source.hugging_face
    if weights is None:
        raise UserError("--stage dpo needs --load: the language model to train")
    shape = resolve_shape(model, weights.shape, source=weights.source)
    check_language_model(weights)
    return ModelSpec(
        shape=shape,
        padded_vocab_size=padded_vocab_size(model, shape, parallel.tensor_model_parallel_size),
        head=LANGUAGE_MODEL_HEAD,
        ties_embedding=weights.ties_embedding,
        logit_softcap=FAMILIES[shape.family].logit_softcap(weights.config),
    )


def _spec_of_hugging_face(
    weights: HuggingFaceWeights,
    model: ModelConfig,
    parallel: ParallelConfig,
    *,
    loosely: bool,
    head: str | None,
) -> ModelSpec:
    stored_kind = weights.head_kind
    if stored_kind is not None and head not in (None, stored_kind):
        raise UserError(_other_head_message(str(weights.directory), stored_kind))
    shape = resolve_shape(model, weights.shape, source=weights.source)
    report = check_names(weights, loosely=loosely)
    for kind, names in (("missing", report.missing), ("unexpected", report.unexpected)):
        for name in names:
            info(f"--load-checkpoint-loosely forgives {kind} {name}" if loosely else f"{name} is not read")
    stored = weights.head()
    kind = stored_kind or head or REWARD_HEAD
    return ModelSpec(
        shape=shape,
        padded_vocab_size=padded_vocab_size(model, shape, parallel.tensor_model_parallel_size),
        post_layer_norm=model.post_layer_norm and weights.post_layer_norm,
        head_bias=model.head_bias or kind == STEP_HEAD or (stored is not None and stored[1] is not None),
        num_outputs=len(stored[0]) if stored is not None and kind == REWARD_HEAD else 1,
        head=kind,
    )


def _other_head_message(name: str, found: str, *, flag: str = "--load") -> str:
    stages = {REWARD_HEAD: "rm", STEP_HEAD: "prm"}
    what = {REWARD_HEAD: "whole responses", STEP_HEAD: "steps"}
    return (
        f"{flag} {name} holds a model with a head for {what[found]}, which --stage {stages[found]} trains; "
        "give that stage, or weights without a head"
    )


def _spec_of_checkpoint(
    checkpoint: CheckpointInfo,
    model: ModelConfig,
    parallel: ParallelConfig,
    *,
    is_language_model: bool = False,
) -> ModelSpec:
    spec = checkpoint.run.spec
    if spec.is_language_model and not is_language_model:
        raise UserError(
            f"{checkpoint.path} is a language model that --stage dpo trained, which gives no scores; python "
            f"-m modellink_rm export --load {checkpoint.path} writes it as a directory of transformers"
        )
    shape = resolve_shape(model, spec.shape, source=str(checkpoint.path))
    if spec.post_layer_norm and not model.post_layer_norm:
        raise UserError(f"--no-post-layer-norm contradicts {checkpoint.path}, which reads after the norm")
    if model.head_bias and not spec.head_bias:
        raise UserError(f"--head-bias contradicts {checkpoint.path}, whose head has no bias")
    rows = spec.padded_vocab_size
    if model.padded_vocab_size is not None or rows % parallel.tensor_model_parallel_size:
        rows = padded_vocab_size(model, shape, parallel.tensor_model_parallel_size)
    return dataclasses.replace(spec, shape=shape, padded_vocab_size=rows)
