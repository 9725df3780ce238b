"""Loading the initial weights into this process's model chunks."""

from collections.abc import Sequence

import torch

from modellink_rm.base.errors import AgreedError
from modellink_rm.checkpoint.distributed import load_weights
from modellink_rm.checkpoint.hf.load import load_hugging_face_weights
from modellink_rm.checkpoint.source import ModelSource
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.parallel.groups import Ranks


def load_model_weights(chunks: Sequence[RewardModel], source: ModelSource, ranks: Ranks) -> None:
    """Fill the model from its source; what the source does not have stays as drawn.

    A collective over all processes.

    Raises:
        AgreedError: a weight that was read is not a finite number.
    """
    if source.hugging_face is not None:
        load_hugging_face_weights(chunks, source.hugging_face, ranks)
    elif source.checkpoint is not None:
        load_weights(chunks, source.checkpoint)
    if not source.is_random:
        check_finite(chunks, source.name)


def check_finite(chunks: Sequence[RewardModel], name: str) -> None:
    """Every weight of the model is a finite number; a collective over all processes.

    Args:
        name: what the weights were read from.

    Raises:
        AgreedError: on every process, with the names of those that hold others.
    """
    bad = [
        parameter_name
        for chunk in chunks
        for parameter_name, parameter in chunk.global_parameters()
        if not torch.isfinite(parameter).all()
    ]
    found: list[list[str]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, bad)
    names = sorted({parameter_name for part in found for parameter_name in part})
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise AgreedError(
            f"{name}: the weight {names[0]}{more} holds NaN or infinity; load weights that do not, such as "
            "those of an earlier checkpoint"
        )
