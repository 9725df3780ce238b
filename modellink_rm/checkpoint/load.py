"""Loading the initial weights into this process's model chunks."""

from collections.abc import Sequence

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
