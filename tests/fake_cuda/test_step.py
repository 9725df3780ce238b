"""A step of a Llama-8B shape in bfloat16 on a GPU that is not there: what it keeps, launches and awaits."""

import dataclasses
from collections import Counter

import pytest

from modellink_rm.model.activation_bytes import Keeping, kept_per_token
from modellink_rm.model.shape import ModelShape
from tests.fake_cuda.case import SHAPE, Case, Measured
from tests.fake_cuda.conftest import measure

SELECTIVE = {"recompute_granularity": "selective"}
TP2 = {"tensor_model_parallel_size": 2}
SP2 = {**TP2, "sequence_parallel": True}
CASES = {
    "one rank": Case(),
    "tensor parallel": Case(parallel=TP2),
    "sequence parallel": Case(parallel=SP2),
    "context parallel": Case(parallel={"context_parallel_size": 2}),
    "recompute": Case(precision={"recompute_granularity": "full"}),
    "selective recompute": Case(precision=SELECTIVE),
    "selective, sequence parallel": Case(parallel=SP2, precision=SELECTIVE),
    "overlap": Case(optim={"overlap_grad_reduce": True, "overlap_param_gather": True}),
}
# Kernels that a layer adds to a step, forward and backward, without compiled norm, rotation and gate.
KERNELS = {
    "one rank": 89,
    "tensor parallel": 98,
    "sequence parallel": 106,
    "context parallel": 105,
    "recompute": 126,
    "selective recompute": 94,
    "selective, sequence parallel": 111,
    "overlap": 130,
}
# A shared prompt's keys are copied for the second response too.
KEEPING = Keeping(element_size=2, is_on_gpu=True, keys_per_token=1.5)
RECOMPUTING = dataclasses.replace(KEEPING, recomputes_norms=True, recomputes_gates=True)
KEPT = {
    "one rank": KEEPING,
    "tensor parallel": dataclasses.replace(KEEPING, tp_size=2),
    "sequence parallel": dataclasses.replace(KEEPING, tp_size=2, divides_rows=True),
    "context parallel": KEEPING,
    "selective recompute": RECOMPUTING,
    "selective, sequence parallel": dataclasses.replace(RECOMPUTING, tp_size=2, divides_rows=True),
    "overlap": KEEPING,
}


@pytest.fixture(scope="module")
def steps() -> dict[str, tuple[Measured, Measured]]:
    """The step of every case, with three layers and with two; the last one is for scored tokens only."""
    both = [dataclasses.replace(case, shape={"num_layers": n}) for case in CASES.values() for n in (3, 2)]
    measured = measure(both)
    return dict(zip(CASES, zip(measured[::2], measured[1::2], strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_no_tensor_of_a_step_is_on_the_host(steps: dict[str, tuple[Measured, Measured]], name: str) -> None:
    assert steps[name][0].strays == Counter()


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_for_the_device_only_at_its_end(
    steps: dict[str, tuple[Measured, Measured]], name: str
) -> None:
    ((line, number),) = steps[name][0].waits.items()
    assert (number, "squared.sum().item()" in line) == (1, True), line  # the norm of the gradient


@pytest.mark.parametrize("name", CASES)
def test_a_layer_launches_no_more_kernels(steps: dict[str, tuple[Measured, Measured]], name: str) -> None:
    three, two = steps[name]
    assert (three.kernels - two.kernels).total() <= KERNELS[name], three.kernels - two.kernels


@pytest.mark.parametrize("name", KEPT)
def test_a_layer_keeps_the_bytes_that_estimates_count(
    steps: dict[str, tuple[Measured, Measured]], name: str
) -> None:
    three, two = steps[name]
    kept = (three.saved - two.saved) / three.num_tokens
    assert kept == pytest.approx(kept_per_token(ModelShape(**SHAPE), KEPT[name]), abs=1)
