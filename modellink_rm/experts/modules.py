"""The weights of a mixture of experts: the router's, the shared expert's gate, and the experts'."""

import math
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.nn import functional

from modellink_rm.adapters.lora import Lora
from modellink_rm.adapters.nf4 import NF4Weight
from modellink_rm.experts.adapter import ExpertsAdapter
from modellink_rm.experts.balance import Routing, balanced
from modellink_rm.experts.dispatch import ExpertProcesses
from modellink_rm.experts.grouped import grouped_linear, grouped_nf4_linear
from modellink_rm.experts.shape import Experts


class WholeWeight(nn.Module):
    """A weight [outputs, h], and a bias [outputs] or None, that every process has whole."""

    def __init__(self, config: TransformerConfig, *, num_outputs: int, has_bias: bool = False) -> None:
        super().__init__()
        device = torch.cuda.current_device()
        self.weight = nn.Parameter(
            torch.empty(num_outputs, config.hidden_size, dtype=config.params_dtype, device=device)
        )
        if config.perform_initialization:
            config.init_method(self.weight)
        self.bias = None
        if has_bias:
            self.bias = nn.Parameter(torch.zeros(num_outputs, dtype=config.params_dtype, device=device))
        self.mark_divided_rows(config.sequence_parallel)

    def mark_divided_rows(self, is_divided: bool) -> None:
        """Tell the engine whether each tensor-parallel rank has other rows: then it adds up the gradients."""
        for parameter in self.parameters():
            parameter.sequence_parallel = is_divided  # type: ignore[attr-defined]


class SharedGate(WholeWeight):
    """How much of the shared expert's output each token takes."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[n, 1, 1], between 0 and 1, of hidden_states [n, 1, h]."""
        return functional.linear(hidden_states, self.weight).sigmoid()


class Router(WholeWeight):
    """The experts of each token and their weights, in float32 for any dtype of the layers.

    Attributes:
        layer: number of its layer, from 0.
    """

    layer = 0

    def __init__(self, config: TransformerConfig, shape: Experts) -> None:
        super().__init__(config, num_outputs=shape.number, has_bias=shape.has_biases)
        self.shape = shape

    def forward(self, rows: Tensor, routing: Routing | None = None) -> tuple[Tensor, Tensor]:
        """Weights float32 [n, k] and experts int64 [n, k] of rows [n, h].

        Args:
            routing: where the choices are recorded, in training.
        """
        bias = None if self.bias is None else self.bias.float()
        logits = functional.linear(rows.float(), self.weight.float(), bias)
        probabilities = logits.softmax(dim=-1)
        weights, chosen = self._of_best_groups(probabilities).topk(self.shape.top_k, dim=-1)
        if self.shape.normalizes_weights:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if self.shape.weights_factor != 1:
            weights = weights * self.shape.weights_factor
        if routing is None:
            return weights, chosen
        squares = logits.logsumexp(dim=-1).square()
        routing.tally.record(
            self.layer, routing.rows, probabilities=probabilities, chosen=chosen, squares=squares
        )
        if self.shape.balances:
            weights = balanced(weights, probabilities, squares, routing.tally, routing.rows)
        return weights, chosen

    def _of_best_groups(self, probabilities: Tensor) -> Tensor:
        """Probabilities [n, E], 0 outside of the groups that a token may choose from."""
        num_groups, top_groups = self.shape.num_groups, self.shape.top_groups
        if num_groups == top_groups:
            return probabilities
        by_group = probabilities.view(len(probabilities), num_groups, -1)
        best = by_group.detach().amax(dim=-1).topk(top_groups, dim=-1).indices
        is_left_out = torch.ones_like(by_group[..., 0], dtype=torch.bool).scatter_(1, best, False)
        return by_group.masked_fill(is_left_out[..., None], 0.0).flatten(1)


class LocalExperts(MegatronModule):
    """The experts, or parts of them, that this process holds; those with biases are held whole."""

    def __init__(
        self, config: TransformerConfig, shape: Experts, activation: Any, processes: ExpertProcesses
    ) -> None:
        super().__init__(config)
        self.processes = processes
        number = shape.number // processes.ep_size
        width = shape.ffn_hidden_size // processes.etp_size
        assert not shape.has_biases or processes.etp_size == 1  # each part would add the output's bias
        parts: dict[str, Any] = {"processes": processes, "has_bias": shape.has_biases}
        self.fc1 = ExpertWeights(config, (number, 2, width, config.hidden_size), 2, **parts)
        self.fc2 = ExpertWeights(config, (number, config.hidden_size, width), 2, **parts)
        self.activation = activation(config)

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Outputs [m, h] of rows [m, h] in the order of the experts, `counts` of each."""
        output: Tensor = self.fc2(self.activation(self.fc1(rows, counts)), counts)
        return output


class ExpertWeights(nn.Module):
    """One matrix of every local expert: [experts, 2, f, h] for gate and up, [experts, h, f] for down.

    Attributes:
        shape: of the weight.
        bias: [experts, 2, f] or [experts, h], or None.
        adapter: an update of each expert's matrix; None for none.
        quantized: the matrices one after another, where `weight` is None.
    """

    adapter: ExpertsAdapter | None
    quantized: NF4Weight | None

    def __init__(
        self,
        config: TransformerConfig,
        shape: tuple[int, ...],
        divided_axis: int,
        *,
        processes: ExpertProcesses,
        has_bias: bool,
    ) -> None:
        """Weights that are not initialized unless the run starts with random ones.

        Args:
            divided_axis: what expert tensor parallelism divides.
        """
        super().__init__()
        self.shape = shape
        self.divided_axis = divided_axis
        self.processes = processes
        self.dtype = config.params_dtype
        self.device = device = torch.device(torch.cuda.current_device())
        self.register_module("adapter", None)
        self.register_module("quantized", None)
        self.register_parameter("weight", None)
        if config.quantizes_weights:
            rows = math.prod(shape[:-1])
            self.quantized = NF4Weight(rows, shape[-1], dtype=self.dtype, device=device)
        else:
            self.weight = nn.Parameter(torch.empty(shape, dtype=self.dtype, device=device))
            if config.perform_initialization:
                config.init_method(self.weight)
        self.bias = None
        if has_bias:
            self.bias = nn.Parameter(torch.zeros(shape[:-1], dtype=self.dtype, device=device))
        # Their gradients are reduced over the processes that hold the same experts, and each of those that
        # do not counts them in the gradient norm. Without expert parallelism too, so that checkpoints are the
        # same.
        for parameter in self.parameters():
            parameter.allreduce = False  # type: ignore[attr-defined]
            set_tensor_model_parallel_attributes(parameter, True, 0, 1)

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Each row [m, in] times the matrix of its expert, plus the expert's bias, [m, out].

        Args:
            counts: int64 [experts], rows of each, which lie in their order.
        """
        bias = None if self.bias is None else self.bias.flatten(1)
        if self.quantized is None:
            output = grouped_linear(rows, self.weight.flatten(1, -2), counts, bias)
        else:
            output = grouped_nf4_linear(rows, self.quantized, counts, bias)
        return output if self.adapter is None else self.adapter(output, rows, counts)

    def add_adapter(self, lora: Lora) -> ExpertsAdapter:
        """Give the experts updates, which are not initialized."""
        self.adapter = ExpertsAdapter(
            lora,
            self.shape,
            divides_inputs=self.divided_axis == len(self.shape) - 1,
            dtype=self.dtype,
            device=self.device,
            processes=self.processes,
        )
        return self.adapter

    @torch.no_grad()
    def make_dense(self) -> None:
        """Take the weight that is computed with: dequantized, the updates added and taken away."""
        weight = self.weight if self.quantized is None else self.quantized.dense().view(self.shape)
        if self.adapter is not None:
            for number, matrix in enumerate(weight):
                updated = matrix.flatten(0, -2).float() + self.adapter.delta(number)
                matrix.copy_(updated.view(matrix.shape))
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.register_module("quantized", None)
        self.register_module("adapter", None)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """The parameters as parts of those of all experts, for megatron-core's checkpoints."""
        first, where = len(sharded_offsets), self.processes
        divided = {"weight": [(first + self.divided_axis, where.etp_rank, where.etp_size)], "bias": []}
        found = {
            f"{prefix}{name}": ShardedTensor.from_rank_offsets(
                f"{prefix}{name}",
                parameter,
                *sharded_offsets,
                (first, where.ep_rank, where.ep_size),
                *divided[name],
                replica_id=(0, 0, parallel_state.get_expert_data_parallel_rank()),
                prepend_axis_num=first,
            )
            for name, parameter in self.named_parameters(recurse=False)
        }
        if self.adapter is not None:
            found |= self.adapter.sharded_state_dict(f"{prefix}adapter.", sharded_offsets, metadata)
        return found
