"""The warning before a run takes more memory than is free."""

from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.estimate.memory import CUDA, Workload, memory_of
from modellink_rm.train.memory import memory_warning
from tests.unit.estimate.shapes import LLAMA_8B, spec_of

RUN = Workload(
    spec=spec_of(LLAMA_8B),
    parallel=ParallelConfig(),
    precision=PrecisionConfig(bf16=True),
    optim=OptimConfig(),
    world_size=1,
    num_tokens=8192,
    num_micro_batches=1,
    device=CUDA,
)


def test_a_run_that_does_not_fit_is_told_with_its_parts_and_the_remedies() -> None:
    line = memory_warning(RUN, 80 * 2**30)
    assert line is not None
    assert f"take {memory_of(RUN).peak / 2**30:.1f} GiB a process (weights 14.0, gradients 28.0" in line
    assert "80.0 are free" in line
    assert "--recompute-granularity full" in line
    assert "python -m modellink_rm estimate" in line


def test_a_run_that_fits_is_not_told_of() -> None:
    assert memory_warning(RUN, memory_of(RUN).peak) is None
