"""Which head a model ends with."""

import torch

from modellink_rm.model.heads.reward import RewardHead
from modellink_rm.model.spec import ModelSpec


def make_head(spec: ModelSpec, *, device: torch.device) -> RewardHead:
    """The head that reads the scored rows, its weights not yet drawn or loaded."""
    return RewardHead(spec.shape.hidden_size, bias=spec.head_bias, device=device)
