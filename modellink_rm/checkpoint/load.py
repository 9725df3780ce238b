"""Loading the initial weights into this process's model chunks."""

from collections.abc import Sequence

import torch

from modellink_rm.checkpoint.distributed import load_weights
from modellink_rm.checkpoint.hf.load import load_hugging_face_weights
from modellink_rm.checkpoint.source import ModelSource
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.parallel.groups import Ranks


def load_model_weights(chunks: Sequence[RewardModel], source: ModelSource, ranks: Ranks) -> None:
    """Fill the model from its source; what the source does not have stays as drawn.

    A collective over all processes.
    """
    if source.hugging_face is not None:
        load_hugging_face_weights(chunks, source.hugging_face, ranks)
    elif source.checkpoint is not None:
        load_weights(chunks, source.checkpoint)


def tensors_not_finite(chunks: Sequence[RewardModel]) -> str:
    """The model's parameters with a NaN or an infinity: the first by name, and how many more; "" for none.

    A collective over all processes, equal on each.
    """
    names = [
        name
        for chunk in chunks
        for name, parameter in chunk.global_parameters()
        if not torch.isfinite(parameter).all()
    ]
    gathered: list[list[str]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, names)
    found = sorted({name for part in gathered for name in part})
    return "" if not found else found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else "")
