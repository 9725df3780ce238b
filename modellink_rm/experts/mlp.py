"""A mixture of experts in place of the MLP: router, experts, and the expert of every token."""

import copy

from megatron.core import parallel_state
from megatron.core.tensor_parallel import (
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.nn import functional

from modellink_rm.experts.balance import Routing
from modellink_rm.experts.dispatch import expert_processes, mixed_by_experts
from modellink_rm.experts.modules import LocalExperts, Router, SharedGate
from modellink_rm.experts.shape import Experts


class ExpertsMLP(MegatronModule):
    """Each token's top-k experts, weighted by the router, and the shared expert if there is one.

    The engine's own layer of experts needs Transformer Engine or CUDA streams (megatron-core 0.16.1); this
    one uses only its process groups and its optimizer for parameters that are divided by expert.

    Attributes:
        routing: of the micro-batch that is computed; the layer sets it, also for recomputation. None outside
            of training.
    """

    routing: Routing | None = None

    def __init__(self, config: TransformerConfig, submodules: MLPSubmodules, shape: Experts) -> None:
        """An MLP for megatron-core's layer.

        Args:
            submodules: parts of the shared expert; of the others the activation.
        """
        super().__init__(config)
        self.shape = shape
        self.tp_group = parallel_state.get_tensor_model_parallel_group()
        self.has_divided_rows = config.sequence_parallel
        self.router = Router(config, shape)
        self.experts = LocalExperts(config, shape, submodules.activation_func, expert_processes())
        if shape.shared_ffn_hidden_size:
            shared_config = copy.copy(config)
            shared_config.ffn_hidden_size = shape.shared_ffn_hidden_size  # the MLP reads it there too
            self.shared_expert = MLP(
                shared_config,
                submodules,
                ffn_hidden_size=shape.shared_ffn_hidden_size,
                tp_group=self.tp_group,
            )
        if shape.has_shared_gate:
            self.shared_gate = SharedGate(config, num_outputs=1)

    def set_layer_number(self, layer_number: int) -> None:
        """Called by the engine's layer, with numbers from 1."""
        self.router.layer = layer_number - 1

    def take_whole_rows(self) -> None:
        """Under sequence parallelism too, the rows will be whole on every tensor-parallel rank."""
        self.has_divided_rows = False
        self.router.mark_divided_rows(False)
        if self.shape.has_shared_gate:
            self.shared_gate.mark_divided_rows(False)
        if self.shape.shared_ffn_hidden_size:
            take_whole_rows(self.shared_expert)

    def forward(self, hidden_states: Tensor, padding_mask: None = None) -> tuple[Tensor, None]:
        """The output, with the shape of hidden_states [n, 1, h], and None for the bias."""
        rows = hidden_states[:, 0]
        weights, chosen = self.router(rows, self.routing if self.training else None)
        output = self._mixed(rows, weights, chosen)[:, None]
        if self.shape.shared_ffn_hidden_size:
            shared = self.shared_expert(hidden_states)[0]
            if self.shape.has_shared_gate:
                shared = self.shared_gate(hidden_states) * shared
            output = output + shared
        return output, None

    def _mixed(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The weighted outputs of the experts; each row is sent by one tensor-parallel rank."""
        is_copied = self.tp_group.size() > 1 and not self.has_divided_rows
        num_rows = len(rows)
        if is_copied:
            padding = (0, 0, 0, -num_rows % self.tp_group.size())
            rows, weights = (self._own_share(functional.pad(part, padding)) for part in (rows, weights))
            padded = functional.pad(chosen, padding)
            chosen = padded.chunk(self.tp_group.size())[self.tp_group.rank()]
        output = mixed_by_experts(
            rows,
            weights,
            chosen,
            self.experts,
            num_experts=self.shape.number,
            processes=self.experts.processes,
        )
        if not is_copied:
            return output
        # What follows is computed on every rank: its gradient is whole, and each takes its share of it.
        whole: Tensor = gather_from_sequence_parallel_region(
            output, tensor_parallel_output_grad=False, group=self.tp_group
        )
        return whole[:num_rows]

    def _own_share(self, rows: Tensor) -> Tensor:
        share: Tensor = scatter_to_sequence_parallel_region(rows, group=self.tp_group)
        return share


def take_whole_rows(mlp: nn.Module) -> None:
    """Make an MLP, or the experts in its place, take rows that are whole on every tensor-parallel rank."""
    if isinstance(mlp, ExpertsMLP):
        mlp.take_whole_rows()
        return
    assert isinstance(mlp, MLP)
    for linear in (mlp.linear_fc1, mlp.linear_fc2):
        linear.sequence_parallel = False
    mlp.linear_fc1.allreduce_dgrad = mlp.tp_group.size() > 1


def give_routing(mlp: nn.Module, routing: Routing | None, rows: Tensor | None = None) -> None:
    """Tell experts where to record the choices of the micro-batch that comes next; an MLP has none.

    Args:
        rows: those of all tokens that will come, which are whole on every tensor-parallel rank; None for all.
    """
    if isinstance(mlp, ExpertsMLP):
        mlp.routing = routing if routing is None or rows is None else routing.at(rows)
