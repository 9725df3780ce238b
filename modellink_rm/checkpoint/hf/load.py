"""Loading the weights of a Hugging Face directory into this process's model chunks."""

from collections.abc import Sequence

import torch

from modellink_rm.adapters.lora import is_of_adapter
from modellink_rm.checkpoint.hf.directory import HuggingFaceWeights
from modellink_rm.checkpoint.hf.mappings import TensorPlan, is_of_expert, tensor_plan
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.spec import HEAD_PREFIX, ModelSpec
from modellink_rm.parallel.groups import Ranks


@torch.no_grad()
def load_hugging_face_weights(
    chunks: Sequence[RewardModel], weights: HuggingFaceWeights, ranks: Ranks, *, verifies: bool = True
) -> None:
    """Fill the model, reading only this process's slices; a head that is not there stays as drawn.

    Args:
        verifies: compare the files with the checksums that they have, as of this package's own exports.

    Raises:
        CheckpointNotReadError: on every process: a file is not what was written.
    """
    if verifies:
        weights.check_contents(ranks)
    for name, tensor in (pair for chunk in chunks for pair in chunk.global_tensors()):
        if name.startswith(HEAD_PREFIX) or is_of_adapter(name):
            continue
        weights.read_into(tensor, _plan_of(name, chunks[0].spec, weights, ranks))
    dtype = chunks[0].config.params_dtype
    for name, matrix in (pair for chunk in chunks for pair in chunk.quantized_weights()):
        matrix.fill(weights.read(_plan_of(name, chunks[0].spec, weights, ranks), dtype))
    head = None if chunks[-1].spec.is_language_model else weights.head()
    if chunks[-1].post_process and head is not None:
        weight, bias = head
        model_head = chunks[-1].rm_head
        model_head.weight.copy_(weight)
        if model_head.bias is not None and bias is not None:
            model_head.bias.copy_(bias)
    weights.release()


def _plan_of(name: str, spec: ModelSpec, weights: HuggingFaceWeights, ranks: Ranks) -> TensorPlan:
    """How this process's part of a tensor of the engine is read."""
    rank, size = ranks.tp_rank, ranks.tp_size
    if is_of_expert(name):
        rank, size = ranks.etp_rank, ranks.etp_size
    return tensor_plan(name, spec, weights.tensors, tp_rank=rank, tp_size=size)
