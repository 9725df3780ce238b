"""The choice of a model's head."""

import torch

from modellink_rm.model.heads.reward import RewardHead
from modellink_rm.model.heads.steps import StepHead
from modellink_rm.model.spec import ModelSpec


def make_head(spec: ModelSpec, *, device: torch.device) -> RewardHead | StepHead:
    """The head that reads the scored rows, with weights that are not initialized yet."""
    if spec.scores_steps:
        return StepHead(spec.shape.hidden_size, device=device)
    return RewardHead(
        spec.shape.hidden_size, num_outputs=spec.num_outputs, bias=spec.head_bias, device=device
    )
