"""Several processes give the numbers of one: losses, gradient norms, evaluations and weights."""

from pathlib import Path

import pytest
import torch

from tests.distributed import Workers
from tests.runs import RunResult, run_training
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_llama

CASES = {
    "tp2": (2, "--tensor-model-parallel-size 2"),
    "tp2_sp": (2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2": (2, "--pipeline-model-parallel-size 2"),
    "dp2": (2, ""),
    "dp2_distributed_optimizer": (2, "--use-distributed-optimizer"),
    "dp2_overlap": (2, "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"),
    "dp4_uneven": (4, ""),  # 6 pairs over 4 replicas: two of them get one
    "tp2_pp2": (4, "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --sequence-parallel"),
    "tp2_dp2": (4, "--tensor-model-parallel-size 2 --use-distributed-optimizer"),
    "pp4": (4, "--pipeline-model-parallel-size 4"),
    "cp2": (2, "--context-parallel-size 2"),
    "cp4": (4, "--context-parallel-size 4"),
    "cp2_tp2_sp": (4, "--context-parallel-size 2 --tensor-model-parallel-size 2 --sequence-parallel"),
    "cp2_pp2": (4, "--context-parallel-size 2 --pipeline-model-parallel-size 2"),
    "cp2_dp2": (4, "--context-parallel-size 2 --use-distributed-optimizer --overlap-grad-reduce"),
    "cp2_recompute": (2, "--context-parallel-size 2 --recompute-granularity full"),
    "cp2_one_example_a_micro_batch": (2, "--context-parallel-size 2 --max-tokens-per-micro-batch 1"),
    "prompts_apart_cp2": (2, "--context-parallel-size 2 --no-prefix-sharing"),
    "reference_attention": (1, "--attention-backend reference"),
    "compiled": (1, "--compile always"),
    "prompts_apart": (1, "--no-prefix-sharing"),
    "prompts_apart_tp2_sp": (
        2,
        "--no-prefix-sharing --tensor-model-parallel-size 2 --sequence-parallel",
    ),
    "recompute_full": (1, "--recompute-granularity full"),
    "recompute_selective_pp2": (2, "--recompute-granularity selective --pipeline-model-parallel-size 2"),
    "one_example_a_micro_batch": (1, "--max-tokens-per-micro-batch 1"),
    "one_micro_batch": (1, "--max-tokens-per-micro-batch 10000"),
    "uneven_micro_batches_dp2_pp2": (
        4,
        "--max-tokens-per-micro-batch 60 --pipeline-model-parallel-size 2",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_run_matches_one_process(
    case: str, arguments: list[str], single: RunResult, workers: Workers, tmp_path: Path
) -> None:
    world_size, flags = CASES[case]
    run = run_training(workers, world_size, [*arguments, *flags.split()], tmp_path)
    # Sums in another order: float32 rounding, grown by four Adam steps at a large learning rate.
    assert run.column("loss") == pytest.approx(single.column("loss"), abs=2e-5)
    assert run.column("grad_norm") == pytest.approx(single.column("grad_norm"), rel=1e-4)
    assert run.steps[0]["loss"] == pytest.approx(single.steps[0]["loss"], abs=1e-6)
    assert run.steps[0]["grad_norm"] == pytest.approx(single.steps[0]["grad_norm"], rel=1e-5)
    evaluations = [[row for row in result.rows if "valid/loss" in row] for result in (run, single)]
    assert len(evaluations[0]) == len(evaluations[1]) == 2
    for ours, theirs in zip(*evaluations, strict=True):
        # Not the scores themselves: the gradient of the head's bias is rounding noise alone, which
        # Adam turns into a drift that both sides of a pair share.
        for name in ("valid/loss", "valid/margin", "valid/accuracy", "valid/chosen_std"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)
    assert run.weights.keys() == single.weights.keys()
    for name, weight in single.weights.items():
        # Adam turns rounding noise in a gradient near 0 into steps of up to the learning rate.
        torch.testing.assert_close(
            run.weights[name], weight, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_bf16_follows_fp32(arguments: list[str], single: RunResult, workers: Workers, tmp_path: Path) -> None:
    run = run_training(
        workers, 2, [*arguments, "--bf16", "--use-distributed-optimizer", "--lr", "1e-4"], tmp_path
    )
    # bfloat16 has 8 bits: about 0.4% in a hidden state, here of scores around 0.1.
    assert run.steps[0]["loss"] == pytest.approx(single.steps[0]["loss"], abs=0.02)
    assert run.steps[0]["grad_norm"] == pytest.approx(single.steps[0]["grad_norm"], rel=0.05)


@pytest.mark.parametrize(
    "flags", ["--tensor-model-parallel-size 2", "--tensor-model-parallel-size 2 --sequence-parallel"]
)
def test_processes_that_share_a_key_head_match_one(
    flags: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    write_tiny_llama(tmp_path / "model", value_head=True, num_key_value_heads=1)
    write_tokenizer(tmp_path / "model")
    argv = [*arguments, "--load", str(tmp_path / "model")]
    one = run_training(workers, 1, argv, tmp_path / "one")
    two = run_training(workers, 2, [*argv, *flags.split()], tmp_path / "two")
    assert two.column("loss") == pytest.approx(one.column("loss"), abs=2e-5)
    assert two.column("grad_norm") == pytest.approx(one.column("grad_norm"), rel=1e-4)
    assert two.steps[0]["grad_norm"] == pytest.approx(one.steps[0]["grad_norm"], rel=1e-5)
