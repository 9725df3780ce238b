"""The specification of a model, which planning, building, loading and saving share."""

import dataclasses
from dataclasses import dataclass

from modellink_rm.adapters.lora import Lora
from modellink_rm.model.shape import ModelShape

# Names of the engine's parameters begin so: of a layer, followed by its number in the whole model, and of
# the reward head.
LAYER_PREFIX = "decoder.layers."
HEAD_PREFIX = "rm_head."
# What the head says: the reward of a response, the log-odds that a step is right, or the log-probability of
# the tokens of an answer.
REWARD_HEAD, STEP_HEAD, LANGUAGE_MODEL_HEAD = "reward", "steps", "language model"
HEADS = (REWARD_HEAD, STEP_HEAD, LANGUAGE_MODEL_HEAD)
# The output embedding of a language model, by its module's name.
LM_HEAD = "lm_head"
# Within a layer's name; the expert's number follows, over the whole layer.
EXPERTS_INFIX = "mlp.experts."


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model without its weights: everything that determines its tensors and what they compute.

    Attributes:
        padded_vocab_size: rows of the embedding over all tensor-parallel ranks.
        post_layer_norm: whether the head reads hidden states after the final norm.
        head_bias: whether the head has a bias.
        num_outputs: numbers that the head gives of each response: its score, or one for each attribute.
        lora: the adapters, which are trained in place of the layers; None for a model without.
        head: one of HEADS.
        ties_embedding: the weight of a language model's head is that of the token embedding.
        logit_softcap: a logit x of a language model becomes softcap * tanh(x / softcap); None for none.
    """

    shape: ModelShape
    padded_vocab_size: int
    post_layer_norm: bool = True
    head_bias: bool = False
    num_outputs: int = 1
    lora: Lora | None = None
    head: str = REWARD_HEAD
    ties_embedding: bool = False
    logit_softcap: float | None = None

    @property
    def scores_steps(self) -> bool:
        """Whether it scores the steps of a response, one by one."""
        return self.head == STEP_HEAD

    @property
    def is_language_model(self) -> bool:
        """Whether it has the head of a language model."""
        return self.head == LANGUAGE_MODEL_HEAD

    def without_router_losses(self) -> "ModelSpec":
        """The same model, without the losses that its routers add in training."""
        experts = self.shape.experts
        if experts is None or not experts.balances:
            return self
        experts = dataclasses.replace(experts, aux_loss_coef=0.0, z_loss_coef=0.0)
        return dataclasses.replace(self, shape=dataclasses.replace(self.shape, experts=experts))
