"""Which flags every process of a run must have alike: all but those of places on its machine."""

import dataclasses
from typing import Any

from modellink_rm.base.flags import flag_name

# What lies there is compared by its content. Trackers are the first process's.
_OF_FILES = ("data_path", "valid_data_path", "load", "load_adapter", "reference_load", "save")
_OF_TOKENIZERS = ("tokenizer_name_or_path", "tokenizer_model")
_OF_TRACKERS = ("tensorboard_dir", "wandb_project", "wandb_exp_name", "wandb_mode", "swanlab_project")
_PLACES = frozenset((*_OF_FILES, *_OF_TOKENIZERS, *_OF_TRACKERS, "swanlab_mode"))


def flags_of_all(*groups: Any) -> dict[str, Any]:
    """The flags of groups by their names, without those of places."""
    return {
        flag_name(field.name): getattr(group, field.name)
        for group in groups
        for field in dataclasses.fields(group)
        if field.name not in _PLACES
    }
