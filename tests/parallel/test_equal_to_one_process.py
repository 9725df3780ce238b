"""Several processes give the numbers of one: losses, gradient norms, evaluations and weights."""

from pathlib import Path

import pytest
import torch

from tests.distributed import Workers
from tests.marks import full
from tests.parallel.comparison import check_same
from tests.runs import RunResult, run_training, train_part
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_llama

INTERLEAVED = "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"
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
    "pp2_vpp2_cp2": (4, f"{INTERLEAVED} --context-parallel-size 2"),
    "pp2_vpp2": (2, INTERLEAVED),
    "pp2_vpp2_recompute_full": (2, f"{INTERLEAVED} --recompute-granularity full"),
    "pp2_vpp2_one_example_a_micro_batch": (2, f"{INTERLEAVED} --max-tokens-per-micro-batch 1"),
    "pp2_vpp2_tp2_sp": (4, f"{INTERLEAVED} --tensor-model-parallel-size 2 --sequence-parallel"),
    # 3 examples a replica and a micro-batch for each: a 4th is empty.
    "pp2_vpp2_dp2": (4, f"{INTERLEAVED} --max-tokens-per-micro-batch 1 --use-distributed-optimizer"),
    "pp2_vpp2_dp2_overlap": (
        4,
        f"{INTERLEAVED} --max-tokens-per-micro-batch 60 "
        "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather",
    ),
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

# Combinations of separately tested cases, and cases that tests/parallel/test_any_parallel_size.py covers too.
FURTHER = {
    "tp2",
    "dp2",
    "dp2_overlap",
    "tp2_dp2",
    "cp4",
    "cp2_tp2_sp",
    "cp2_dp2",
    "cp2_recompute",
    "cp2_one_example_a_micro_batch",
    "prompts_apart_cp2",
    "compiled",
    "pp2_vpp2_cp2",
    "pp2_vpp2_recompute_full",
    "pp2_vpp2_one_example_a_micro_batch",
    "pp2_vpp2_tp2_sp",
    "pp2_vpp2_dp2",
    "prompts_apart_tp2_sp",
    "one_micro_batch",
    "pp4",
}


@pytest.mark.parametrize("case", [full(case) if case in FURTHER else case for case in CASES])
def test_run_matches_one_process(
    case: str, arguments: list[str], single: RunResult, workers: Workers, tmp_path: Path
) -> None:
    world_size, flags = CASES[case]
    check_same(run_training(workers, world_size, [*arguments, *flags.split()], tmp_path, saves=False), single)


def test_empty_micro_batch_under_sequence_parallelism_changes_nothing(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    flags = [*arguments, "--global-batch-size", "5"]
    single = run_training(workers, 1, flags, tmp_path / "single", saves=False)
    interleaved = f"{INTERLEAVED} --tensor-model-parallel-size 2 --sequence-parallel"
    # 5 examples alone in their micro-batches, and a 6th one without any.
    flags += [*interleaved.split(), "--max-tokens-per-micro-batch", "1"]
    check_same(run_training(workers, 4, flags, tmp_path / "run", saves=False), single)


def test_interleaved_stages_hold_layers_in_turns(arguments: list[str], workers: Workers) -> None:
    parts = workers.run(train_part, 2, [*arguments, *INTERLEAVED.split(), "--train-iters", "1"])
    layers = [
        {int(name.split(".")[2]) for name in part["parameters"] if name.startswith("decoder.layers.")}
        for part in parts
    ]
    assert layers == [{0, 2}, {1, 3}]


@pytest.mark.full
def test_interleaved_bf16_run_equals_the_plain_pipelines(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    flags = [*arguments, "--bf16", "--max-tokens-per-micro-batch", "1"]  # the same micro-batches in both
    plain = run_training(
        workers, 2, [*flags, "--pipeline-model-parallel-size", "2"], tmp_path / "plain", saves=False
    )
    run = run_training(workers, 2, [*flags, *INTERLEAVED.split()], tmp_path / "interleaved", saves=False)
    # Gradients are equal bitwise; their norm, which they are clipped by, is summed in another order.
    assert run.column("loss") == pytest.approx(plain.column("loss"), abs=1e-4)
    for name, weight in plain.weights.items():
        torch.testing.assert_close(run.weights[name], weight, atol=1e-4, rtol=2**-7)  # a bit of bfloat16


def test_bf16_follows_fp32(arguments: list[str], single: RunResult, workers: Workers, tmp_path: Path) -> None:
    run = run_training(
        workers,
        2,
        [*arguments, "--bf16", "--use-distributed-optimizer", "--lr", "1e-4"],
        tmp_path,
        saves=False,
    )
    # bfloat16 has 8 bits: about 0.4% in a hidden state, here of scores around 0.1.
    assert run.steps[0]["loss"] == pytest.approx(single.steps[0]["loss"], abs=0.02)
    assert run.steps[0]["grad_norm"] == pytest.approx(single.steps[0]["grad_norm"], rel=0.05)


@pytest.mark.parametrize(
    "flags", [full("--tensor-model-parallel-size 2"), "--tensor-model-parallel-size 2 --sequence-parallel"]
)
def test_processes_that_share_a_key_head_match_one(
    flags: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    write_tiny_llama(tmp_path / "model", value_head=True, num_key_value_heads=1)
    write_tokenizer(tmp_path / "model")
    argv = [*arguments, "--load", str(tmp_path / "model")]
    one = run_training(workers, 1, argv, tmp_path / "one", saves=False)
    two = run_training(workers, 2, [*argv, *flags.split()], tmp_path / "two", saves=False)
    assert two.column("loss") == pytest.approx(one.column("loss"), abs=2e-5)
    assert two.column("grad_norm") == pytest.approx(one.column("grad_norm"), rel=1e-4)
    assert two.steps[0]["grad_norm"] == pytest.approx(one.steps[0]["grad_norm"], rel=1e-5)
