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
        weights_factor: the weights are multiplied by it.
        num_groups: groups of experts that follow each other.
        top_groups: groups that a token's experts are from: those with its most probable experts.
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
    weights_factor: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
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
        if not 0 < self.weights_factor < float("inf"):
            raise UserError(f"the factor of experts' weights must be above 0, got {self.weights_factor}")
        self._check_groups()
        if self.shared_ffn_hidden_size < 0:
            raise UserError(
                f"the size of a shared expert must not be negative, got {self.shared_ffn_hidden_size}"
            )
        for name in ("aux_loss_coef", "z_loss_coef"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"router_{name} must be a number from 0, got {getattr(self, name)}")

    def _check_groups(self) -> None:
        groups = f"{self.num_groups} groups of {self.number} experts, {self.top_groups} for a token"
        if not 1 <= self.top_groups <= self.num_groups or self.number % self.num_groups:
            raise UserError(f"experts cannot be divided so: {groups}")
        if self.top_k > self.number // self.num_groups * self.top_groups:
            raise UserError(f"a token cannot have {self.top_k} experts: {groups}")

    @property
    def balances(self) -> bool:
        """Whether the routers add to the loss in training."""
        return self.aux_loss_coef > 0 or self.z_loss_coef > 0
