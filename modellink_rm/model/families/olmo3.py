"""OLMo 3 (transformers 5, models/olmo3): OLMo 2 with windows, whose layers' angles are not scaled."""

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.olmo2 import OLMO_PARTS, olmo_shape
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.window_fields import every_nth_full, ropes_by_kind, windows_of
from modellink_rm.model.shape import ModelShape

_THETA = 500_000.0  # transformers' default (configuration_olmo3.py)


def _olmo3_shape(config: Config) -> ModelShape:
    config = {"rope_theta": _THETA, **config}
    if not config.get("rope_parameters") and config["rope_theta"] != _THETA:
        # transformers gives this base to the layers without a window alone.
        raise UserError(
            f"rope_theta {config['rope_theta']} of an olmo3 is not supported; give rope_parameters by kind"
        )
    rope, local_base = ropes_by_kind(config, local_theta=_THETA)
    windows = windows_of(config, every_nth_full(config, 4))
    return olmo_shape(config, rope, windows=windows, local_rotary_base=local_base if windows else None)


FAMILIES.add(
    Family(read_shape=_olmo3_shape, classifier="Olmo3ForSequenceClassification", **OLMO_PARTS), "olmo3"
)
