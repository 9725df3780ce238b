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
from modellink_rm.model.spec import ModelSpec

DEFAULT_SHARD_BYTES = 5_000_000_000
_VOCABULARY_FIELDS = ("vocab_size", "padded_vocab_size")
# THUDM's code (modeling_chatglm.py) leaves the final norm out where its config.json says so.
_FINAL_NORM = "post_layer_norm"
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
        max_shard_bytes: of tensors in one file; a larger tensor has a file of its own.
    """

    base_config: Mapping[str, Any]
    dtype: torch.dtype
    form: Form = TRANSFORMERS
    pad_token_id: int | None = None
    added_rows: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    merged: Normalization | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES

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
        if not spec.post_layer_norm:
            config[_FINAL_NORM] = False
        classifier = FAMILIES[spec.shape.family].classifier
        if form.is_classifier and classifier:
            config |= {"architectures": [classifier], "num_labels": 1, "problem_type": "regression"}
            config |= {
                "id2label": {"0": "LABEL_0"},
                "label2id": {"LABEL_0": 0},
            }  # transformers' own form of it
        fixed = {"value_head_prefix"} & form.fields.keys()
        return config | {
            name: value for name, value in form.fields.items() if name in fixed or name not in config
        }


def check_writable_model(spec: ModelSpec, config: Mapping[str, Any]) -> None:
    """Check that other programs can compute the model's scores, and that `config` describes it.

    Args:
        config: the base model's config.json, which is written beside the weights.

    Raises:
        UserError: its scores are read before the final norm, which no class of transformers does, or it was
            trained with other numbers than those of `config`.
    """
    if not spec.post_layer_norm and _FINAL_NORM not in config:
        raise UserError(
            "a model trained with --no-post-layer-norm cannot be written as a Hugging Face directory: its "
            "scores are read before the final norm, and transformers reads them after it; score with the "
            "checkpoint itself, by python -m modellink_rm score"
        )
    described = dataclasses.replace(spec, shape=shape_from_config(config)).without_router_losses().shape
    trained = spec.without_router_losses().shape
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
