"""The optimizer's state of some layers, under a name for each."""

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

from modellink_rm.checkpoint.by_layer import named_by_layer

KEY = "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc1.weight"


def of_layer(key: str, data: torch.Tensor, layer: int) -> ShardedTensor:
    """A tensor [4, 6] of layer `layer` of 8, of which this process holds the second half of the rows."""
    return ShardedTensor.from_rank_offsets(key, data, (0, layer, 8), (1, 1, 2), prepend_axis_num=1)


def test_a_tensor_of_a_layer_has_its_number_in_the_name_and_no_axis_of_layers() -> None:
    data = torch.arange(12.0).view(2, 6)
    found = named_by_layer(of_layer(KEY, data, 5))
    assert found.key == "optimizer.state.exp_avg.decoder.layers.5.mlp.linear_fc1.weight"
    assert (found.global_shape, found.global_offset, found.local_shape) == ((4, 6), (2, 0), (2, 6))
    assert (found.axis_fragmentations, found.prepend_axis_num) == ((2, 1), 0)
    assert found.data is data
    found.validate_metadata_integrity()


def test_parts_of_a_tensor_that_is_stored_as_several_are_named_likewise() -> None:
    factory = ShardedTensorFactory(
        KEY,
        torch.zeros(4, 6),
        lambda key, data, replica_id, flattened_range: [of_layer(key, half, 3) for half in data.chunk(2)],
        lambda parts: torch.cat(parts),
    )
    keys = [part.key for part in named_by_layer(factory).build()]
    assert keys == ["optimizer.state.exp_avg.decoder.layers.3.mlp.linear_fc1.weight"] * 2


def test_what_is_of_no_layer_stays() -> None:
    head = ShardedTensor.from_rank_offsets("optimizer.state.exp_avg.rm_head.weight", torch.zeros(1, 6))
    assert named_by_layer(head) is head
    assert named_by_layer({"step": 3}) == {"step": 3}
