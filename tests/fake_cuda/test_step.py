"""A step of a Llama-8B shape in bfloat16 on a GPU that is not there: what it keeps, launches and awaits."""

import dataclasses
import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.estimate.activations import Operations, bytes_of_layer
from modellink_rm.experts.shape import Experts
from modellink_rm.model.shape import ModelShape
from tests.fake_cuda.case import SHAPE, Case, Measured
from tests.fake_cuda.conftest import measure
from tests.marks import full

# A shared prompt, half of the tokens, is copied for the second response too.
KEEPING = Operations(element_bytes=2, has_fused_norms=True, has_fused_gates=False, key_copies=1.5)
RECOMPUTING = dataclasses.replace(KEEPING, recomputes_norms=True, recomputes_gates=True)
SELECTIVE = {"recompute_granularity": "selective"}
TP2 = {"tensor_model_parallel_size": 2}
SP2 = {**TP2, "sequence_parallel": True}
PP2 = {"pipeline_model_parallel_size": 2}
MIXTRAL = {"number": 8, "top_k": 2, "ffn_hidden_size": 14336, "normalizes_weights": True}
# Otherwise the messages of replicas depend on the number of layers.
ALONE = {"overlap": False}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A case with what its step may ask of the device.

    Attributes:
        kernels: that a layer adds to a micro-batch, forward and backward, without compiled norm, rotation and
            gate.
        keeping: what decides the bytes that a layer keeps; None if a stage computes no loss.
        layers: of two models that differ by a layer of the stage.
    """

    case: Case
    kernels: int
    keeping: Operations | None = None
    layers: tuple[int, int] = (3, 2)


def of_pair(kernels: int, *, keeping: Operations | None = KEEPING, **fields: Any) -> Bounds:
    """Bounds of a case that hides no messages."""
    return Bounds(case=Case(optim=ALONE, **fields), kernels=kernels, keeping=keeping)


QUICK = {
    "one rank": of_pair(89),
    "context parallel": of_pair(105, parallel={"context_parallel_size": 2}),
    "selective, sequence parallel": of_pair(
        111,
        parallel=SP2,
        precision=SELECTIVE,
        keeping=RECOMPUTING,
    ),
    "last stage": Bounds(
        case=Case(parallel=PP2, rank=4, num_micro_batches=2), kernels=92, keeping=KEEPING, layers=(4, 2)
    ),
    "overlap": Bounds(case=Case(), kernels=120, keeping=KEEPING),
    "mixture": of_pair(152, shape={"family": "mixtral", "experts": MIXTRAL, "hidden_size": 1024}),
}
FULL = {
    "tensor parallel": of_pair(98, parallel=TP2),
    "sequence parallel": of_pair(106, parallel=SP2),
    "recompute": of_pair(126, precision={"recompute_granularity": "full"}, keeping=None),
    "selective recompute": of_pair(94, precision=SELECTIVE, keeping=RECOMPUTING),
    "first stage": Bounds(case=Case(parallel=PP2, num_micro_batches=2), kernels=105, layers=(4, 2)),
    "float32": of_pair(400, precision={"bf16": False}, attention="sdpa", keeping=None),
}
SMALL = {"num_layers": 2, "vocab_size": 32000}
SCORES_AND_STATE = "scores and state"
NAMES = [*QUICK, *(full(name) for name in FULL)]


@functools.cache
def measured(is_quick: bool) -> dict[str, tuple[Measured, Measured]]:
    """The step of every quick case, or of every other one, with a layer more and without.

    Under "scores and state" a forward pass of a model that scores, and what a run saves after a step.
    """
    group = QUICK if is_quick else FULL
    cases = [
        dataclasses.replace(bounds.case, shape={**bounds.case.shape, "num_layers": number})
        for bounds in group.values()
        for number in bounds.layers
    ]
    if is_quick:
        cases += [Case(does="scores", shape=SMALL), Case(does="state", shape=SMALL)]
    found = measure(cases)
    return dict(zip((*group, SCORES_AND_STATE), zip(found[::2], found[1::2], strict=True), strict=False))


def step_of(name: str) -> tuple[Measured, Measured]:
    """The step of a case, with a layer more and without."""
    return measured(name in QUICK)[name]


@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_of_a_step_is_on_the_host(name: str) -> None:
    assert step_of(name)[0].strays == Counter()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_waits_for_the_device_once_at_its_end(name: str) -> None:
    ((line, number),) = step_of(name)[0].waits.items()
    assert (number, "squared.sum().item()" in line) == (1, True), line  # the norm of the gradient


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_launches_no_more_kernels(name: str) -> None:
    more, fewer = step_of(name)
    bounds = {**QUICK, **FULL}[name]
    kernels = more.kernels - fewer.kernels
    assert kernels.total() <= bounds.kernels * bounds.case.num_micro_batches, kernels


@pytest.mark.parametrize("name", NAMES)
def test_weight_gradients_are_added_up_by_the_products_that_compute_them(name: str) -> None:
    if "float32" in name or "mixture" in name:
        pytest.skip("of bfloat16 linears")
    more, fewer = step_of(name)
    kernels = more.kernels - fewer.kernels
    # A layer's four linears: forward, gradient of the input, and the accumulating product.
    num_micro_batches = {**QUICK, **FULL}[name].case.num_micro_batches
    assert kernels["addmm"] == 4 * num_micro_batches
    assert kernels["mm"] == (12 if name == "recompute" else 8) * num_micro_batches


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_keeps_the_bytes_that_estimates_count(name: str) -> None:
    bounds = {**QUICK, **FULL}[name]
    if bounds.keeping is None:
        pytest.skip("no loss, or no formula")
    more, fewer = step_of(name)
    parallel = ParallelConfig(**bounds.case.parallel)
    fields = {**SHAPE, **bounds.case.shape}
    if "experts" in fields:
        fields["experts"] = Experts(**fields["experts"])
    counted = bytes_of_layer(ModelShape(**fields), 1, parallel, bounds.keeping)
    kept = (more.saved - fewer.saved) / (more.num_tokens * parallel.context_parallel_size)
    if name in ("context parallel", "mixture"):  # counted: all keys of the sequence; experts' fullest rows
        assert kept < counted < 1.02 * kept
    else:  # not counted: the sums of squares of norms, the start of each segment
        assert kept == pytest.approx(counted, abs=24)


def test_clipping_is_one_operation_for_all_gradients() -> None:
    kernels = step_of("one rank")[0].kernels
    assert kernels["_foreach_mul_"] == 1


def test_gradients_of_copied_keys_are_added_in_a_fixed_order() -> None:
    more, fewer = step_of("one rank")
    kernels = more.kernels - fewer.kernels
    # Keys and values: forward, the first copies, the second ones, which index_add_ adds to rows that differ.
    assert (kernels["index_select"], kernels["index_add_"], kernels["index_add"]) == (6, 2, 0)


def test_replicas_hide_their_messages_by_default() -> None:
    alone, overlapping = step_of("one rank")[0].kernels, step_of("overlap")[0].kernels
    assert alone["_reduce_scatter_base_"] <= 2  # of the layers and of the float32 head, at the end
    assert overlapping["_reduce_scatter_base_"] > 4  # of buckets, as they become ready


@pytest.mark.parametrize("number", [0, 1])
def test_scoring_and_saving_leave_nothing_on_the_host(number: int) -> None:
    assert measured(True)[SCORES_AND_STATE][number].strays == {}


def test_scoring_waits_for_nothing_before_the_scores_are_read() -> None:
    assert measured(True)[SCORES_AND_STATE][0].waits == {}


def test_scoring_keeps_no_layer_for_a_backward_pass() -> None:
    scored, _ = measured(True)[SCORES_AND_STATE]
    # The most at one time: the residual, a norm and gate and up with the activated gate and the product.
    of_a_layer = 2 * (4 * 14336 + 3 * 4096)
    assert (scored.peak - scored.static) / scored.num_tokens < 1.05 * of_a_layer


def test_what_is_saved_is_described_without_a_copy_on_the_device() -> None:
    _, saved = measured(True)[SCORES_AND_STATE]
    assert saved.peak == saved.static
    assert saved.kernels.total() == 0
    # The weights, and this replica's eighth of their float32 copy and moments.
    assert 0 < saved.result_bytes <= saved.static
