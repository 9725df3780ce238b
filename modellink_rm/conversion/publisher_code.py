"""Models whose classes are code of their publishers, beside the weights, and not transformers'."""

from collections.abc import Mapping
from typing import Any

from modellink_rm.model.families.registry import FAMILIES


def has_class_in_transformers(family: str) -> bool:
    """Whether transformers itself has the family's reward model."""
    import transformers

    classifier = FAMILIES[family].classifier
    return bool(classifier) and hasattr(transformers, classifier)


def config_without_code(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    """config.json without `auto_map` where transformers has the family.

    It names files of the publisher's that are not written, which programs that trust remote code look for.
    """
    is_left_out = has_class_in_transformers(family)
    return {name: value for name, value in config.items() if name != "auto_map" or not is_left_out}
