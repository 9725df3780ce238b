"""The model: token embedding, transformer layers, and a head that reads scored positions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import reduce_from_tensor_model_parallel_region
from megatron.core.transformer.enums import ModelType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import (
    TransformerBlock,
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor, nn

from modellink_rm.adapters.nf4 import NF4Weight
from modellink_rm.batching.batch import Batch
from modellink_rm.experts.balance import (
    RouterTally,
    Routing,
    num_rows_of_sums,
    routed_rows,
    with_sums,
    without_sums,
)
from modellink_rm.experts.sums import RouterSums
from modellink_rm.model.attention.packed import ScoredRows, layout_of
from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.frozen import FrozenPart, decoded
from modellink_rm.model.heads.choose import make_head, make_language_model_head
from modellink_rm.model.layers.recompute import recompute_outputs
from modellink_rm.model.spec import EXPERTS_INFIX, LAYER_PREFIX, ModelSpec
from modellink_rm.parallel.groups import current_ranks

_Of = TypeVar("_Of")


class RewardModel(MegatronModule):
    """One pipeline stage of a reward model, or a virtual stage if stages are interleaved.

    It consists of megatron-core's embedding and transformer block, not of its GPTModel, which always
    creates a language-model head: there is no [vocabulary, hidden] output matrix here, unless the model is a
    language model, whose scores are the log-probabilities of answers.

    Attributes:
        spec: of the whole model.
        first_layer: number of this stage's first layer in the whole model, from 0.
        rm_head: hidden -> outputs, in float32 for any dtype of the layers, equal on every tensor-parallel
            rank; on the last stage of a reward model only.
        lm_head: the head of a language model, on its last stage only.
        router_sums: of a model with experts, what this stage's routers chose in training.
        frozen: what is not trained of this stage; None if all of it is.
        trained_share: of the model's layers.
    """

    frozen: FrozenPart | None = None
    trained_share = 1.0

    def __init__(
        self,
        config: RewardModelConfig,
        spec: ModelSpec,
        *,
        pre_process: bool,
        post_process: bool,
        vp_stage: int | None,
        groups: ProcessGroupCollection,
    ) -> None:
        super().__init__(config=config)
        family = FAMILIES[spec.shape.family]
        self.spec = spec
        self.pre_process = pre_process
        self.post_process = post_process
        self.vp_stage = vp_stage  # read by the engine's schedules
        self.model_type = ModelType.encoder_or_decoder  # read by the engine's schedules
        self.share_embeddings_and_output_weights = spec.ties_embedding  # read when it finalizes gradients
        self.cp_group = groups.cp
        self.tp_group = groups.tp
        self._input: Tensor | None = None  # from the previous stage
        shape = spec.shape
        self.router_sums = RouterSums(shape.experts, shape.num_layers) if shape.experts is not None else None
        device = torch.device(torch.cuda.current_device())
        if pre_process:
            self.embedding = family.embedding(config, vocab_size=spec.padded_vocab_size, tp_group=groups.tp)
            if spec.ties_embedding:
                # The engine gives it buffers of its own, alike on both stages that have the weight.
                self.embedding.word_embeddings.weight.shared_embedding = True
        self.rotary = family.rotary(spec.shape, device)
        local_shape = spec.shape.of_local_layers
        self.local_rotary = None if local_shape is None else family.rotary(local_shape, device)
        self.first_layer = first = get_transformer_layer_offset(config, vp_stage)
        layers = range(first, first + get_num_layers_to_build(config, vp_stage))
        self.decoder = TransformerBlock(
            config,
            spec=TransformerBlockSubmodules(
                layer_specs=[
                    family.layer(spec, number, scores_rows=number == spec.shape.num_layers - 1, config=config)
                    for number in layers
                ],
                layer_norm=family.final_norm if spec.post_layer_norm else None,
            ),
            pre_process=pre_process,
            post_process=post_process,
            pg_collection=groups,
            vp_stage=vp_stage,
        )
        for layer in self.decoder.layers:
            recompute_outputs(layer, config)
        if post_process:
            if self.decoder.final_layernorm is not None:
                # Its input rows are whole on every tensor-parallel rank (see ScoredRowsLayer).
                self.decoder.final_layernorm.weight.sequence_parallel = False
            if spec.is_language_model:
                self.lm_head = make_language_model_head(
                    spec, config, has_embedding=pre_process, device=device, groups=groups
                )
            else:
                self.rm_head = make_head(spec, device=device)

    def layer(self, number: int) -> nn.Module | None:
        """The layer of that number in the whole model; None where another stage has it."""
        if not self.first_layer <= number < self.first_layer + len(self.decoder.layers):
            return None
        layer: nn.Module = self.decoder.layers[number - self.first_layer]
        return layer

    def global_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The pairs (name, parameter) of this stage, with layer numbers of the whole model."""
        for name, parameter in self.named_parameters():
            yield self._global_name(name), parameter

    def quantized_weights(self) -> Iterator[tuple[str, NF4Weight]]:
        """The pairs (name, matrix) of weights that are held in 4 bits, named as `global_tensors`."""
        for name, module in self.named_modules():
            if not isinstance(module, NF4Weight):
                continue
            name = self._global_name(name).removesuffix("quantized") + "weight"
            if EXPERTS_INFIX not in name:
                yield name, module
                continue
            assert self.spec.shape.experts is not None
            num_experts = self.spec.shape.experts.number // current_ranks().ep_size
            yield from self._numbered(name, module.stacked(num_experts))

    def _numbered(self, name: str, of_experts: Sequence[_Of]) -> Iterator[tuple[str, _Of]]:
        """What is of each of this process's experts, with its number over the whole layer in the name."""
        before, after = name.split(EXPERTS_INFIX)
        first = current_ranks().ep_rank * len(of_experts)
        for number, one in enumerate(of_experts, start=first):
            yield f"{before}{EXPERTS_INFIX}{number}.{after}", one

    def _global_name(self, name: str) -> str:
        """The name with the layer numbered over the whole model."""
        if not name.startswith(LAYER_PREFIX):
            return name
        layer, rest = name.removeprefix(LAYER_PREFIX).split(".", 1)
        return f"{LAYER_PREFIX}{int(layer) + self.first_layer}.{rest}"

    def global_tensors(
        self, value: Callable[[nn.Parameter], Tensor] = lambda parameter: parameter
    ) -> Iterator[tuple[str, Tensor]]:
        """The pairs (name, tensor), as `global_parameters`, but each of this process's experts on its own.

        The tensors of experts are views of the parameters, [2f, h] and [h, f], and [2f] and [h] of biases,
        with the expert's number over the whole layer in their names:
        "decoder.layers.3.mlp.experts.17.fc1.weight"; of adapters [r, in] and [out, r].

        Args:
            value: of each parameter, with its shape: by default itself; its gradient, say.
        """
        for name, parameter in self.global_parameters():
            whole = value(parameter)
            if EXPERTS_INFIX not in name:
                yield name, whole
                continue
            columns = () if name.endswith(".bias") else (whole.shape[-1],)
            yield from self._numbered(name, [tensor.view(-1, *columns) for tensor in whole])

    def sent_shape(self, batch: Batch) -> tuple[int, int, int]:
        """The shape of the hidden states that stages send each other for a batch, and of their gradients."""
        num_rows, shape = len(batch.input_ids), self.spec.shape
        if self.config.sequence_parallel:
            num_rows //= self.tp_group.size()
        if shape.experts is not None and shape.experts.balances and self.training:
            num_rows += num_rows_of_sums(
                shape.experts,
                batch.num_examples,
                hidden_size=shape.hidden_size,
                element_size=self.config.params_dtype.itemsize,
            )
        return num_rows, 1, shape.hidden_size

    def shared_embedding_or_output_weight(self) -> Tensor | None:
        """The token embedding, or the last stage's copy of it; read by the engine where a head is tied."""
        if self.pre_process:
            weight: Tensor = self.embedding.word_embeddings.weight
            return weight
        return self.lm_head.weight if self.post_process else None

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Set the previous stage's output as input; called by the engine's schedules."""
        self._input = input_tensor[0] if isinstance(input_tensor, list) else input_tensor

    def forward(self, batch: Batch) -> Tensor:
        """Scores, float32, on the last stage; hidden states on the others.

        Scores are [num_scores], or [num_scores, outputs] where the head has several outputs.

        The scores of a language model are the log-probabilities of the responses' answers, in float64, or
        [num_responses, 2] with the entropies (see `LanguageModelHead`).
        Hidden states are [t, 1, h] of this process's t tokens, or [t/tp, 1, h] under sequence parallelism.
        """
        tally = self._new_tally(batch)
        carries_sums = tally is not None and tally.experts.balances
        hidden_states: Tensor | None = None
        if self.pre_process:
            hidden_states = self.embedding(batch.input_ids)
            if self.spec.lora is not None and torch.is_grad_enabled():
                # What trains above a frozen embedding would not, in a layer that is recomputed: the engine
                # recomputes with gradients where the input has one.
                hidden_states.requires_grad_()
        else:
            assert self._input is not None
            self.decoder.set_input_tensor(
                without_sums(self._input, tally) if tally is not None and carries_sums else self._input
            )
        layout = layout_of(
            batch,
            self.rotary,
            self.config,
            with_scores=self.post_process,
            local_rotary=self.local_rotary,
            routing=self._routing(tally) if tally is not None else None,
        )
        output = decoded(self.decoder, self.frozen, hidden_states, layout, received=self._input)
        if tally is not None and self.router_sums is not None:
            groups = [self.tp_group] if self.config.sequence_parallel else []
            groups += [self.cp_group] if self.cp_group.size() > 1 else []
            self.router_sums.add(tally, is_last_stage=self.post_process, groups=groups)
        if layout.scored is None:
            return with_sums(output, tally) if tally is not None and carries_sums else output
        if not self.spec.is_language_model:
            return self._scores(output[:, 0], layout.scored, batch.head_factors)
        assert batch.answers is not None
        embedding = self.embedding.word_embeddings.weight if self.pre_process else None
        log_probs: Tensor = self.lm_head(output[:, 0], layout.scored, batch.answers, embedding)
        return log_probs

    def _new_tally(self, batch: Batch) -> RouterTally | None:
        """Where the routers record their choices, in training a model that has some."""
        shape = self.spec.shape
        if shape.experts is None or not self.training:
            return None
        return RouterTally(shape.experts, batch, routed_rows(batch), num_layers=shape.num_sparse_layers)

    def _routing(self, tally: RouterTally) -> Routing:
        """The rows that a layer of all tokens sees in this process."""
        if not self.config.sequence_parallel:
            return Routing(tally, tally.rows)
        return Routing(tally, tally.rows.share(rank=self.tp_group.rank(), size=self.tp_group.size()))

    def _scores(self, rows: Tensor, scored: ScoredRows, head_factors: Tensor | None) -> Tensor:
        """Scores [num_scores] or [num_scores, outputs], equal on every process of the stage.

        Args:
            rows: [n, h].
        """
        scores: Tensor
        if head_factors is None:
            scores = self.rm_head(rows)[scored.slots]
        else:
            scores = self.rm_head(rows[scored.slots].float() * head_factors)
        if self.cp_group.size() == 1:
            return scores
        # The sum's backward is the identity: each rank gets the gradient of the scores it holds.
        is_held = scored.is_held if scores.dim() == 1 else scored.is_held.unsqueeze(1)
        held = scores.masked_fill(~is_held, 0.0)
        whole: Tensor = reduce_from_tensor_model_parallel_region(held, group=self.cp_group)
        return whole
