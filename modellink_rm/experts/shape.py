"""The shape of a mixture of experts, which the weights determine."""

import dataclasses

from modellink_rm.base.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
    """The experts of a model's sparse layers, and the losses that balance them in training.

    Attributes:
        number: experts of a layer.
        ffn_hidden_size: size of an expert's inner state.
        top_k: experts that compute a token.
        normalizes_weights: the weights of a token's experts are made to add up to 1.
        has_biases: the router has a bias, and so does each matrix of the experts.
        shared_ffn_hidden_size: inner size of the expert that computes every token; 0 for none.
        has_shared_gate: that expert's output is multiplied by the sigmoid of a linear form of the token.
        dense_layers: numbers of the layers, from 0, that have an ordinary MLP instead.
        aux_loss_coef: weight of the load-balancing loss in the loss of an example; 0 for none.
        z_loss_coef: weight of the router's z-loss.
    """

    number: int
    ffn_hidden_size: int
    top_k: int
    normalizes_weights: bool
    has_biases: bool = False
    shared_ffn_hidden_size: int = 0
    has_shared_gate: bool = False
    dense_layers: tuple[int, ...] = ()
    aux_loss_coef: float = 0.0
    z_loss_coef: float = 0.0

    def __post_init__(self) -> None:
        """Refuse experts that cannot be built.

        Raises:
            UserError: a size below one, more experts for a token than there are, or a negative coefficient.
        """
        for name in ("number", "ffn_hidden_size", "top_k"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a model's experts must be at least 1, got {getattr(self, name)}")
        if self.top_k > self.number:
            raise UserError(f"a token cannot have {self.top_k} experts of {self.number}")
        if self.shared_ffn_hidden_size < 0:
            raise UserError(
                f"the size of a shared expert must not be negative, got {self.shared_ffn_hidden_size}"
            )
        for name in ("aux_loss_coef", "z_loss_coef"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"router_{name} must be a number from 0, got {getattr(self, name)}")

    @property
    def balances(self) -> bool:
        """Whether the routers add to the loss in training."""
        return self.aux_loss_coef > 0 or self.z_loss_coef > 0
