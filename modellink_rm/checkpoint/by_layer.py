"""The optimizer's state of a part of the layers, each under a name of its own.

megatron-core 0.16.1 stores a parameter of all layers as one tensor [layers, ...], which must be whole. Where
only some layers are trained, their state is not.
"""

import dataclasses
from typing import Any

from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

from modellink_rm.model.spec import LAYER_PREFIX


def named_by_layer(value: Any) -> Any:
    """The tensor of a checkpoint, without the axis of layers, with the layer's number in its name.

    Anything else is returned as it is.
    """
    if isinstance(value, ShardedTensorFactory):
        build = value.build_fn
        return dataclasses.replace(
            value, build_fn=lambda *arguments: dict_list_map_inplace(named_by_layer, build(*arguments))
        )
    if not isinstance(value, ShardedTensor) or not value.prepend_axis_num or LAYER_PREFIX not in value.key:
        return value
    layer = value.global_offset[0]
    fragmentations = value.axis_fragmentations
    return dataclasses.replace(
        value,
        key=value.key.replace(LAYER_PREFIX, f"{LAYER_PREFIX}{layer}.", 1),
        global_shape=value.global_shape[1:],
        global_offset=value.global_offset[1:],
        axis_fragmentations=None if fragmentations is None else fragmentations[1:],
        prepend_axis_num=value.prepend_axis_num - 1,
    )
