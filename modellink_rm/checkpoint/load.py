"""Put the weights of a Hugging Face directory into this process's stage of the model."""

import torch
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from modellink_rm.checkpoint.hugging_face import HuggingFaceWeights
from modellink_rm.checkpoint.mappings import tensor_plan
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.parallel.groups import Ranks

_LAYERS = "decoder.layers."


@torch.no_grad()
def load_hugging_face_weights(
    model: RewardModel, weights: HuggingFaceWeights, *, padded_vocab_size: int, ranks: Ranks
) -> None:
    """Fill the model, reading only this process's slices; a head that is not there stays as drawn."""
    offset = get_transformer_layer_offset(model.config)
    for name, parameter in model.named_parameters():
        if name.startswith("rm_head."):
            continue
        plan = tensor_plan(
            _global_name(name, offset),
            weights.shape,
            weights.tensor_names,
            padded_vocab_size=padded_vocab_size,
            tp_rank=ranks.tp_rank,
            tp_size=ranks.tp_size,
        )
        parameter.copy_(weights.read(plan, parameter.dtype))
    head = weights.head()
    if ranks.is_last_stage and head is not None:
        weight, bias = head
        model.rm_head.weight.copy_(weight)
        if model.rm_head.bias is not None and bias is not None:
            model.rm_head.bias.copy_(bias)


def _global_name(name: str, layer_offset: int) -> str:
    """`decoder.layers.0.x` of a later stage, its layer numbered over the whole model."""
    if not name.startswith(_LAYERS):
        return name
    layer, rest = name.removeprefix(_LAYERS).split(".", 1)
    return f"{_LAYERS}{int(layer) + layer_offset}.{rest}"
