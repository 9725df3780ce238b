"""What a written directory holds beside its tensors: config.json, and how the tensors are stored."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.hf.form import TRANSFORMERS, Form
from modellink_rm.metrics.normalization import Normalization
from modellink_rm.model.families.registry import FAMILIES, shape_from_config
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec

DEFAULT_SHARD_BYTES = 5_000_000_000
_VOCABULARY_FIELDS = ("vocab_size", "padded_vocab_size")
# Where configs have the numbers that flags of a run can set.
_FIELDS_OF_NUMBERS = {
    "norm_epsilon": ("rms_norm_eps", "layernorm_epsilon"),
    "rotary_base": ("rope_theta",),
    "max_position_embeddings": ("max_position_embeddings", "seq_length"),
}
# Of a reward model in another form than the one that is written.
_FIELDS_OF_FORMS = ("value_head_prefix", "num_labels", "problem_type", "id2label", "label2id")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """How a model is written.

    Attributes:
        base_config: the base model's config.json.
        dtype: of the tensors; a head that it would round is written in float32.
        pad_token_id: of config.json; None leaves the base model's.
        added_rows: rows of zeros after those of the base model's embedding.
        files: other small files to write, by name: the tokenizer's, the model card.
        merged: the normalization that the head applies itself, as far as it has a place for the mean.
        normalization: what is left to apply, which the fields of a form may say; None for none.
        max_shard_bytes: of tensors in one file; a larger tensor has a file of its own.
        attributes: what each output of the head says; empty where its one output is the score.
        checkpoint: fingerprint of the checkpoint that is written; "" for none.
    """

    base_config: Mapping[str, Any]
    dtype: torch.dtype
    form: Form = TRANSFORMERS
    pad_token_id: int | None = None
    added_rows: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    merged: Normalization | None = None
    normalization: Normalization | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    attributes: tuple[str, ...] = ()
    checkpoint: str = ""

    def config(self, spec: ModelSpec) -> dict[str, Any]:
        """The config.json to write.

        Args:
            spec: of the model, before rows are added.
        """
        form = self.form
        config = {name: value for name, value in self.base_config.items() if name not in _FIELDS_OF_FORMS}
        dtype = str(self.dtype).removeprefix("torch.")
        config |= dict.fromkeys(
            [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"], dtype
        )
        if self.added_rows:
            rows = spec.shape.vocab_size + self.added_rows
            config |= {name: rows for name in _VOCABULARY_FIELDS if config.get(name) == spec.shape.vocab_size}
        if self.pad_token_id is not None:
            config["pad_token_id"] = self.pad_token_id
        family = FAMILIES[spec.shape.family]
        if not spec.post_layer_norm:
            config[family.final_norm_field] = False
        classifier = family.classifier
        if form.is_classifier and classifier:
            config |= form.classifier_fields(spec.shape.family, self.attributes)
        own = {"value_head_prefix": form.fields.get("value_head_prefix")}
        if self.normalization is not None:
            own |= {"mean": self.normalization.mean, "std": self.normalization.std}
        kept = {name: value for name, value in form.fields.items() if name not in config}
        return config | kept | {name: value for name, value in own.items() if name in form.fields}


def config_of_run(spec: ModelSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the numbers of a run that had its own, as those of --norm-epsilon.

    Args:
        config: the base model's config.json.

    Raises:
        UserError: other programs cannot compute the model's scores: they are read before the final norm,
            which no class of transformers does, or the run had numbers that `config` has no field for.
    """
    if not spec.post_layer_norm and not FAMILIES[spec.shape.family].final_norm_field:
        raise UserError(
            "a model trained with --no-post-layer-norm cannot be written as a Hugging Face directory: its "
            "scores are read before the final norm, and transformers reads them after it; score with the "
            "checkpoint itself, by python -m modellink_rm score"
        )
    trained = spec.without_router_losses().shape
    written = dict(config)
    for number, fields in _FIELDS_OF_NUMBERS.items():
        if getattr(trained, number) != getattr(_described(spec, config), number):
            written = _with_number(written, fields, getattr(trained, number))
    described = _described(spec, written)
    differences = [
        f"{field.name} {getattr(trained, field.name)} instead of {getattr(described, field.name)}"
        for field in dataclasses.fields(described)
        if getattr(trained, field.name) != getattr(described, field.name)
    ]
    if differences:
        raise UserError(
            f"a model trained with {', '.join(differences)} of its base model's config.json cannot be "
            "written as a Hugging Face directory: that config.json would describe another model; score with "
            "the checkpoint itself, by python -m modellink_rm score"
        )
    return written


def _described(spec: ModelSpec, config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json describes."""
    return dataclasses.replace(spec, shape=shape_from_config(config)).without_router_losses().shape


def _with_number(config: dict[str, Any], fields: tuple[str, ...], value: float) -> dict[str, Any]:
    """The config with a number in those of the fields that it has."""
    given: dict[str, Any] = {name: value for name in fields if config.get(name) is not None}
    rope = config.get("rope_parameters")
    if isinstance(rope, Mapping) and any(rope.get(name) is not None for name in fields):
        given["rope_parameters"] = {**rope, **{name: value for name in fields if name in rope}}
    return {**config, **given}
