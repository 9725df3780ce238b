"""All groups of flags of a scorer, also as keywords."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag_name, groups_of
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.config.model import ModelConfig, ModelOverrides
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.score import ScorerConfig
from modellink_rm.config.tokenizer import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class ScorerOptions:
    """The groups of flags of a scorer, in the order of --help."""

    scorer: ScorerConfig
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    overrides: ModelOverrides = field(default_factory=ModelOverrides)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    kernels: KernelConfig = field(default_factory=KernelConfig)

    @property
    def model(self) -> ModelConfig:
        """The overrides as flags of a model with the shape of its weights."""
        return ModelConfig(**dataclasses.asdict(self.overrides))


def scorer_options(load: str, keywords: Mapping[str, Any]) -> ScorerOptions:
    """Options from keywords: `micro_batch_size=4` means --micro-batch-size 4.

    Args:
        load: --load.
        keywords: names of flags with _ for -; `map_keys` may be a dict.

    Raises:
        UserError: an unknown name, or a value that its group refuses.
    """
    values = {"load": load, **keywords}
    if isinstance(values.get("map_keys"), Mapping):
        values["map_keys"] = json.dumps(values["map_keys"])
    groups = groups_of(ScorerOptions)
    fields = {one.name: one for group in groups.values() for one in dataclasses.fields(group)}
    for name, value in values.items():
        if name not in fields:
            raise UserError(unknown_name_message("option", name, fields))
        choices = fields[name].metadata["choices"]
        if choices is not None and value is not None and value not in choices:
            raise UserError(unknown_name_message(flag_name(name), str(value), choices))
    return ScorerOptions(**{name: _filled(group, values) for name, group in groups.items()})


def _filled(group: type[Any], values: Mapping[str, Any]) -> Any:
    names = [one.name for one in dataclasses.fields(group)]
    return group(**{name: values[name] for name in names if name in values})
