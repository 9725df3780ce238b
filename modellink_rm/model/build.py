"""megatron-core's configuration, and the model chunks of one process."""

from typing import Any

import torch
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    set_tensor_model_parallel_attributes,
)
from torch import nn
from torch.nn import functional

from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import (
    RECOMPUTED_BY_ENGINE,
    RECOMPUTES_GATES,
    RECOMPUTES_NORMS,
    PrecisionConfig,
)
from modellink_rm.model.adapting import add_adapters
from modellink_rm.model.config import Kernels, RewardModelConfig
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.layers.embedding import RowwiseEmbedding
from modellink_rm.model.layers.weight_gradient import fuse_weight_gradients
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.spec import ModelSpec
from modellink_rm.parallel.groups import current_ranks, engine_groups


def transformer_config(
    spec: ModelSpec,
    *,
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    kernels: Kernels,
    initialize: bool,
) -> RewardModelConfig:
    """The engine's configuration of a model.

    Args:
        initialize: draw random weights; False if all weights are loaded from files.
    """
    shape, dtype = spec.shape, precision.dtype
    device = torch.device(torch.cuda.current_device())
    fuses_weight_gradients = precision.gradient_accumulation_fusion and fuse_weight_gradients(device, dtype)
    num_virtual_stages = parallel.num_virtual_stages(shape.num_layers)
    is_interleaved = num_virtual_stages > 1
    return RewardModelConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.kv_channels,
        layernorm_epsilon=shape.norm_epsilon,
        add_qkv_bias=shape.add_qkv_bias,
        qk_layernorm=shape.qk_norm == "head",  # sums the gradients of its copies over tensor parallelism
        rotary_interleaved=shape.rotary_interleaved,
        windows=shape.windows or (None,) * shape.num_layers,
        attention_softcap=shape.attention_softcap,
        attention_sinks=shape.attention_sinks,
        softmax_scale=shape.softmax_scale,
        add_bias_linear=False,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=functional.silu,
        use_te_activation_func=True,  # the specification decides it
        attention_dropout=model.attention_dropout,
        hidden_dropout=model.hidden_dropout,
        init_method_std=model.init_method_std,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        virtual_pipeline_model_parallel_size=num_virtual_stages if is_interleaved else None,
        # Two processes with interleaved stages send to each other at the same time. Each message is
        # awaited separately, because gloo cannot tell the messages of a batch apart.
        overlap_p2p_comm=is_interleaved,
        batch_p2p_comm=not is_interleaved,
        batch_p2p_sync=False,  # for a race in torch before 2.0
        sequence_parallel=parallel.sequence_parallel,
        kernels=kernels,
        # Layers with experts and without have different tensors.
        hetereogenous_dist_checkpoint=0 < shape.num_sparse_layers < shape.num_layers,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=precision.bf16,
        calculate_per_token_loss=True,
        # Micro-batches have lengths of their own; the engine refuses that with the default dispatcher of
        # experts, even without experts.
        variable_seq_lengths=True,
        moe_token_dispatcher_type="alltoall",
        perform_initialization=initialize,
        gradient_accumulation_fusion=fuses_weight_gradients,
        quantizes_weights=spec.lora is not None and spec.lora.quantization == "nf4",
        # The fused forms need compiled extensions, or torch.compile on the first step.
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        **_recompute_fields(precision),
        **FAMILIES[shape.family].engine_fields(shape),
    )


def _recompute_fields(precision: PrecisionConfig) -> dict[str, Any]:
    """The fields that say what the backward pass computes anew: those of the engine, and ours."""
    if precision.recompute_granularity == "full":
        return {
            "recompute_granularity": "full",
            "recompute_method": precision.recompute_method,
            "recompute_num_layers": precision.recompute_num_layers,
        }
    modules = precision.recomputed_modules
    fields: dict[str, Any] = {
        "recomputes_norms": RECOMPUTES_NORMS in modules,
        "recomputes_gates": not modules.isdisjoint(RECOMPUTES_GATES),
    }
    engines = sorted(modules.intersection(RECOMPUTED_BY_ENGINE))
    if engines:
        fields |= {"recompute_granularity": "selective", "recompute_modules": engines}
    return fields


def build_model(
    spec: ModelSpec,
    *,
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    kernels: Kernels,
    seed: int,
    initialize: bool,
) -> list[RewardModel]:
    """This process's model chunks; head and adapters are drawn from `seed`, equally on every process.

    Args:
        initialize: draw the other weights too; False if all weights are loaded from files.

    Returns:
        The process's stage, or its virtual stages in the order of their layers.
    """
    config = transformer_config(
        spec, model=model, parallel=parallel, precision=precision, kernels=kernels, initialize=initialize
    )
    ranks = current_ranks()
    num_chunks = config.virtual_pipeline_model_parallel_size or 1
    chunks = [
        RewardModel(
            config,
            spec,
            pre_process=ranks.is_first_stage and number == 0,
            post_process=ranks.is_last_stage and number == num_chunks - 1,
            vp_stage=number if num_chunks > 1 else None,
            groups=engine_groups(),
        )
        for number in range(num_chunks)
    ]
    for chunk in chunks:
        mark_divided_weights(chunk)
        if chunk.post_process and not spec.is_language_model:
            initialize_head(chunk.rm_head, std=config.init_method_std, seed=seed)
        if spec.lora is not None:
            add_adapters(chunk, spec, seed=seed)
    return chunks


def mark_divided_weights(model: nn.Module) -> None:
    """Flag the weights that tensor parallelism divides, as the engine does when it initializes them.

    megatron-core 0.16.1 sets the flag only when it draws random values. Without the flag the gradient
    norm treats a divided weight as a copy and counts only the first rank's part.
    """
    dimensions = {ColumnParallelLinear: 0, RowParallelLinear: 1, RowwiseEmbedding: 0}
    for module in model.modules():
        for kind, dimension in dimensions.items():
            if not isinstance(module, kind) or module.weight is None:  # held in 4 bits
                continue
            if not hasattr(module.weight, "tensor_model_parallel"):
                set_tensor_model_parallel_attributes(module.weight, True, dimension, 1)


@torch.no_grad()
def initialize_head(head: nn.Linear, *, std: float, seed: int) -> None:
    """Weight ~ N(0, std^2) from its own generator, bias 0: equal for every parallel size."""
    generator = torch.Generator().manual_seed(seed)
    head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * std)
    if head.bias is not None:
        head.bias.zero_()
