"""Models whose classes are code of their publishers, beside the weights, and not transformers'."""

from collections.abc import Mapping
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.hf.form import token_classifier_of
from modellink_rm.model.families.registry import FAMILIES

_NAMES_OF_CODE = frozenset(
    (
        "auto_map",
        "attn_implementation",
        "_attn_implementation",
        "experts_implementation",
        "_experts_implementation",
    )
)


def has_class_in_transformers(family: str) -> bool:
    """Whether transformers itself has the family's reward model."""
    import transformers

    classifier = FAMILIES[family].classifier
    return bool(classifier) and hasattr(transformers, classifier)


def can_be_opened(family: str, *, as_classifier: bool) -> bool:
    """Whether a directory of the family can be scored without code of its publisher.

    Args:
        as_classifier: by a class with the head; else by the body, which of THUDM's families is opened as
            transformers' Glm (`publisher_glm.py`).
    """
    has_own_reader = not FAMILIES[family].classifier
    return has_class_in_transformers(family) or (has_own_reader and not as_classifier)


def check_token_classifier(family: str) -> None:
    """transformers has a class that scores the tokens of a model of that family.

    Raises:
        UserError: it has none.
    """
    import transformers

    name = token_classifier_of(family)
    if not name or not hasattr(transformers, name):
        raise UserError(
            f"transformers has no class that scores the steps of a model of model_type {family}; score with "
            "the checkpoint itself, by python -m modellink_rm score"
        )


def config_without_code(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    """config.json without the code that it names, where transformers has the family.

    `auto_map` names files of the publisher's that are not written, which programs that trust remote code look
    for. The kernels of attention and of experts may be code of the hub, or not there; without these fields
    transformers takes its own.
    """
    is_left_out = has_class_in_transformers(family)
    return {name: value for name, value in config.items() if name not in _NAMES_OF_CODE or not is_left_out}
