"""Checks that the flags fit the shape of the model."""

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.experts.shape import Experts
from modellink_rm.model.shape import ModelShape


def check_parallel_fits_shape(parallel: ParallelConfig, shape: ModelShape) -> None:
    """Check that the layers and matrices can be divided as the flags ask.

    Raises:
        UserError: a size does not divide.
    """
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    if shape.num_layers % pp:
        raise UserError(
            f"--pipeline-model-parallel-size {pp} does not divide --num-layers {shape.num_layers}"
        )
    virtual = parallel.num_layers_per_virtual_pipeline_stage
    if virtual is not None and shape.num_layers // pp % virtual:
        raise UserError(
            f"--num-layers-per-virtual-pipeline-stage {virtual} does not divide the "
            f"{shape.num_layers // pp} layers of a stage"
        )
    for flag, size in (
        ("--num-attention-heads", shape.num_attention_heads),
        ("--ffn-hidden-size", shape.ffn_hidden_size if shape.num_sparse_layers < shape.num_layers else 0),
        ("the size of the shared expert", shape.experts.shared_ffn_hidden_size if shape.experts else 0),
    ):
        if size % tp:
            raise UserError(f"--tensor-model-parallel-size {tp} does not divide {flag} {size}")
    groups = shape.num_query_groups
    if groups % tp and tp % groups:
        raise UserError(
            f"--tensor-model-parallel-size {tp} and --num-query-groups {groups}: one must divide the other"
        )
    if shape.qk_norm == "all" and groups % tp:
        raise UserError(
            f"--tensor-model-parallel-size {tp} is above the {groups} key heads of a model that norms all of "
            "them together; lower it"
        )
    _check_experts(parallel, shape.experts)


def _check_experts(parallel: ParallelConfig, experts: Experts | None) -> None:
    """Check that a layer's experts can be divided as the flags ask.

    Raises:
        UserError: a size does not divide, or there are no experts.
    """
    for flag, size, name, divided in (
        (
            "--expert-model-parallel-size",
            parallel.expert_model_parallel_size,
            "the number of experts",
            experts.number if experts is not None else None,
        ),
        (
            "--expert-tensor-parallel-size",
            parallel.expert_tensor_parallel_size,
            "the inner size of an expert",
            experts.ffn_hidden_size if experts is not None else None,
        ),
    ):
        if size == 1:
            continue
        if divided is None:
            raise UserError(f"{flag} {size} needs a model with experts; leave it out")
        if divided % size:
            raise UserError(f"{flag} {size} does not divide {name}, {divided}")
    etp = parallel.expert_tensor_parallel_size
    if experts is not None and experts.has_biases and etp > 1:
        raise UserError(
            f"--expert-tensor-parallel-size {etp} cannot divide experts that have biases; use "
            "--expert-model-parallel-size"
        )


def check_recompute_fits_shape(
    precision: PrecisionConfig, parallel: ParallelConfig, shape: ModelShape
) -> None:
    """Check that the layers of a stage can be recomputed in groups as the flags ask.

    Raises:
        UserError: --recompute-num-layers does not divide them, or is above their number.
    """
    num_stages = parallel.pipeline_model_parallel_size * parallel.num_virtual_stages(shape.num_layers)
    num_layers, group = shape.num_layers // num_stages, precision.recompute_num_layers
    if precision.recompute_granularity != "full":
        return
    if group > num_layers or (precision.recompute_method == "uniform" and num_layers % group):
        raise UserError(f"--recompute-num-layers {group} does not divide the {num_layers} layers of a stage")


def check_trained_layers(num_trained_layers: int | None, shape: ModelShape, *, has_adapters: bool) -> None:
    """Check that the model has the layers that are to be trained, and that they are to be trained.

    Args:
        num_trained_layers: of --train-last-n-layers, 0 of --freeze-base, or None.

    Raises:
        UserError: --train-last-n-layers is above their number, or adapters freeze all of them.
    """
    if num_trained_layers is None:
        return
    if has_adapters:
        raise UserError(
            "--freeze-base and --train-last-n-layers are about the model's own weights, and adapters freeze "
            "all of them: leave one of the two out"
        )
    if num_trained_layers > shape.num_layers:
        raise UserError(
            f"--train-last-n-layers {num_trained_layers} is above the model's {shape.num_layers} layers; "
            "leave the flag out to train all of it"
        )


def check_seq_length(seq_length: int, shape: ModelShape) -> None:
    """Check that sequences are not longer than the model supports.

    Raises:
        UserError: --seq-length is above the maximum.
    """
    if seq_length > shape.max_position_embeddings:
        raise UserError(
            f"--seq-length {seq_length} is above the model's --max-position-embeddings "
            f"{shape.max_position_embeddings}; lower it, or give the flag if the model supports more"
        )


def shares_prompts(seq_length: int, shape: ModelShape) -> bool:
    """Whether a prompt can be computed once for all its responses, of up to `seq_length` tokens with it.

    Under a rope_scaling that depends on the length of each sequence a prompt may have other angles before
    each of its responses; then it is computed with each, which is logged.
    """
    if seq_length <= shape.longest_with_equal_angles:
        return True
    assert shape.rope_scaling is not None
    info(
        f"prompts are computed once per response: the angles of a sequence above "
        f"{shape.longest_with_equal_angles} tokens depend on its length (rope_scaling of kind "
        f"{shape.rope_scaling.kind}); a --seq-length up to that would share them"
    )
    return False
