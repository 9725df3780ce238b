"""The choice of a model's head."""

import torch
from megatron.core.process_groups_config import ProcessGroupCollection

from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.heads.language_model import LanguageModelHead
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


def make_language_model_head(
    spec: ModelSpec,
    config: RewardModelConfig,
    *,
    has_embedding: bool,
    device: torch.device,
    groups: ProcessGroupCollection,
) -> LanguageModelHead:
    """The head that predicts the tokens of answers, whose weight is not initialized yet.

    Args:
        has_embedding: whether its stage has the token embedding.
    """
    return LanguageModelHead(
        spec,
        has_embedding=has_embedding,
        dtype=config.params_dtype,
        device=device,
        tp_group=groups.tp,
        cp_group=groups.cp,
        fuses_weight_gradient=config.gradient_accumulation_fusion,
    )
