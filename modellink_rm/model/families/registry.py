"""The model families, by config.json's model_type.

A config field that changes numbers and is not supported here is an error, never ignored.
"""

from collections.abc import Mapping
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.base.registry import Registry
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import check_values
from modellink_rm.model.families.tensors import TensorTable
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec

# Dropout in config.json, which flags of the run decide.
_DROPOUT_FLAGS = {
    "attention_dropout": "--attention-dropout",
    "hidden_dropout": "--hidden-dropout",
    "embd_pdrop": "--hidden-dropout",
    "resid_pdrop": "--hidden-dropout",
}
# Fields that transformers reads in every family, in the code that the families share. `is_causal` is on where
# it is missing alone: null is off. `transformers_weights` names a file of weights in place of the usual one.
_VALUES: dict[str, tuple[Any, ...]] = {
    "is_causal": (True,),
    "per_layer_config": (None, {}),
    "transformers_weights": (None,),
}
# The user does not type a model_type: a similar one is a different model.
FAMILIES: Registry[Family] = Registry(
    "model_type",
    package="modellink_rm.model.families",
    entry_points="modellink_rm.families",
    accepts=lambda entry: isinstance(entry, Family),
    expected="a Family",
    suggests=False,
)


def family_of(config: Config) -> Family:
    """The family that config.json's model_type names.

    Raises:
        UserError: there is no model_type, or its family is not supported.
    """
    if not isinstance(config.get("model_type"), str):
        raise UserError(f"model_type is missing (choices: {', '.join(sorted(FAMILIES))})")
    return FAMILIES[config["model_type"]]


def shape_from_config(config: Config) -> ModelShape:
    """The shape of the model that a config.json describes.

    Raises:
        UserError: an unknown family, a missing field, or one that is not supported.
    """
    family = family_of(config)
    _check_is_not_quantized(config)
    check_values(config, _VALUES)
    for name, flag in _DROPOUT_FLAGS.items():
        if config.get(name):
            warn_once(f"{name} {config[name]} of config.json is ignored: {flag} sets it")
    return family.read_shape(config)


def tensors_of(spec: ModelSpec) -> TensorTable:
    """The tensors of a model: its family's, and its language-model head if it has one."""
    table = FAMILIES[spec.shape.family].tensors
    return table.with_lm_head(is_tied=spec.ties_embedding) if spec.is_language_model else table


def _check_is_not_quantized(config: Config) -> None:
    quantization = config.get("quantization_config")
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    argument = ", quantization_config=Mxfp4Config(dequantize=True)" if method == "mxfp4" else ""
    raise UserError(
        f"quantization_config says that the weights are quantized ({method or 'no quant_method'}), and such "
        "weights are not trained; dequantize them: open the model with transformers "
        f"(from_pretrained(..., dtype=torch.bfloat16{argument})) and save it with save_pretrained"
    )
