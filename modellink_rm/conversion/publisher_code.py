"""Models whose classes are code of their publishers, beside the weights, and not transformers'."""

from collections.abc import Mapping
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.hf.form import token_classifier_of
from modellink_rm.model.families.registry import FAMILIES


def has_class_in_transformers(family: str) -> bool:
    """Whether transformers itself has the family's reward model."""
    import transformers

    classifier = FAMILIES[family].classifier
    return bool(classifier) and hasattr(transformers, classifier)


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
    """config.json without `auto_map` where transformers has the family.

    It names files of the publisher's that are not written, which programs that trust remote code look for.
    """
    is_left_out = has_class_in_transformers(family)
    return {name: value for name, value in config.items() if name != "auto_map" or not is_left_out}
