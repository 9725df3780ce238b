"""Models with experts: several processes give the numbers of one, and read each other's checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import Workers
from tests.marks import full
from tests.parallel.comparison import check_same_weights
from tests.parallel.conftest import NUM_STEPS
from tests.runs import RunResult, run_training
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_gpt_oss, write_tiny_qwen2_moe

EP2 = "--expert-model-parallel-size 2"
ETP2 = "--expert-tensor-parallel-size 2"
TP2_SP = "--tensor-model-parallel-size 2 --sequence-parallel"
PP2 = "--pipeline-model-parallel-size 2"
DISTRIBUTED = "--use-distributed-optimizer"
CASES = {
    "dp2_ep2_distributed_optimizer": (2, f"{EP2} {DISTRIBUTED}"),
    "dp2_distributed_optimizer": (2, DISTRIBUTED),
    "dp2_ep2_uneven": (2, f"{EP2} --max-tokens-per-micro-batch 60"),
    "dp2_etp2": (2, ETP2),
    "tp2": (2, "--tensor-model-parallel-size 2"),
    "tp2_sp": (2, TP2_SP),
    "tp2_sp_ep2": (2, f"{TP2_SP} {EP2} {DISTRIBUTED}"),
    "pp2": (2, PP2),
    "pp2_ep2": (4, f"{PP2} {EP2} {DISTRIBUTED}"),
    "ep2_overlap": (2, f"{EP2} {DISTRIBUTED} --overlap-grad-reduce --overlap-param-gather"),
    "recompute_pp2": (2, f"{PP2} --recompute-granularity full"),
    "cp2_ep2": (2, f"--context-parallel-size 2 {EP2}"),
    "prompts_apart": (1, "--no-prefix-sharing"),
    "one_example_a_micro_batch": (1, "--max-tokens-per-micro-batch 1"),
}
QUICK = {"dp2_ep2_distributed_optimizer"}


@pytest.fixture(scope="module")
def balanced(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a short run of a model with experts, whose routers are balanced."""
    directory = tmp_path_factory.mktemp("experts")
    write_tiny_qwen2_moe(directory / "model", value_head=True)
    write_tokenizer(directory / "model")
    losses = "--router-aux-loss-coef 0.5 --router-z-loss-coef 0.05"
    return [*arguments, "--load", str(directory / "model"), *losses.split()]


@pytest.fixture(scope="module")
def single(balanced: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_training(workers, 1, balanced, Path(tmp_path_factory.mktemp("single")), saves=False)


def check_same(run: RunResult, single: RunResult) -> None:
    # The tolerances of test_equal_to_one_process.py, which gives their reasons.
    assert run.column("loss") == pytest.approx(single.column("loss"), abs=2e-5)
    for name in ("router_aux_loss", "router_z_loss", "grad_norm"):
        assert run.column(name) == pytest.approx(single.column(name), rel=1e-4)
    assert run.steps[0]["grad_norm"] == pytest.approx(single.steps[0]["grad_norm"], rel=1e-5)
    for ours, theirs in zip(run.rows, single.rows, strict=True):
        if "valid/loss" in theirs:
            assert ours["valid/loss"] == pytest.approx(theirs["valid/loss"], abs=1e-4)
    check_same_weights(run, single)


@pytest.mark.parametrize("case", [case if case in QUICK else full(case) for case in CASES])
def test_run_matches_one_process(
    case: str, balanced: list[str], single: RunResult, workers: Workers, tmp_path: Path
) -> None:
    world_size, flags = CASES[case]
    run = run_training(workers, world_size, [*balanced, *flags.split()], tmp_path, saves=False)
    check_same(run, single)
    if "--no-prefix-sharing" not in flags:  # a shared prompt is routed once
        assert run.column("expert_load") == pytest.approx(single.column("expert_load"), rel=1e-6)


@pytest.mark.parametrize("recipe", [full("--freeze-base"), full("--train-last-n-layers 1")])
def test_frozen_layers_give_the_numbers_of_one_process_and_are_not_balanced(
    recipe: str, balanced: list[str], single: RunResult, workers: Workers, tmp_path: Path
) -> None:
    frozen = [*balanced, *recipe.split()]
    one = run_training(workers, 1, frozen, tmp_path / "one", saves=False)
    assert one.steps[0]["loss"] == single.steps[0]["loss"]
    assert one.steps[0]["router_aux_loss"] == single.steps[0]["router_aux_loss"]
    for name in ("pp2", "dp2_ep2_distributed_optimizer"):
        world_size, flags = CASES[name]
        run = run_training(workers, world_size, [*frozen, *flags.split()], tmp_path / name, saves=False)
        check_same(run, one)


@pytest.mark.parametrize("flags", [full(PP2), full(f"{EP2} {DISTRIBUTED}")])
def test_bf16_follows_fp32(
    flags: str, balanced: list[str], single: RunResult, workers: Workers, tmp_path: Path
) -> None:
    argv = [*balanced, "--bf16", "--lr", "1e-4", *flags.split()]
    run = run_training(workers, 2, argv, tmp_path, saves=False)
    # bfloat16 has 8 bits: about 0.4% in a hidden state, of scores around 0.1; some tokens get other experts.
    assert run.steps[0]["loss"] == pytest.approx(single.steps[0]["loss"], abs=0.02)
    assert run.steps[0]["grad_norm"] == pytest.approx(single.steps[0]["grad_norm"], rel=0.1)
    for name in ("router_aux_loss", "router_z_loss"):
        assert run.steps[0][name] == pytest.approx(single.steps[0][name], rel=0.02)


def test_routers_that_are_not_balanced_report_only_the_load(
    balanced: list[str], workers: Workers, tmp_path: Path
) -> None:
    without = [flag for flag in balanced if flag not in ("0.5", "0.05") and "router" not in flag]
    run = run_training(workers, 1, [*without, "--train-iters", "1"], tmp_path, saves=False)
    assert 1 <= run.steps[0]["expert_load"] <= 8 / 3  # at most all tokens of eight experts, three a token
    assert "router_aux_loss" not in run.steps[0]


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ((2, f"{EP2} {DISTRIBUTED}"), (1, DISTRIBUTED)),
        full((1, DISTRIBUTED), (2, f"{EP2} {DISTRIBUTED}")),
        full((2, EP2), (1, "")),
        full((2, f"{TP2_SP} {EP2} {DISTRIBUTED}"), (2, f"{ETP2} {DISTRIBUTED}")),
        full((2, f"{PP2} {DISTRIBUTED}"), (2, f"{EP2} {DISTRIBUTED}")),
    ],
)
def test_run_goes_on_with_experts_divided_otherwise(
    saved: tuple[int, str],
    loaded: tuple[int, str],
    balanced: list[str],
    single: RunResult,
    workers: Workers,
    tmp_path: Path,
) -> None:
    half = NUM_STEPS // 2
    flags = [*balanced, "--save-interval", str(half)]
    run_training(workers, saved[0], [*flags, *saved[1].split()], tmp_path)
    shutil.rmtree(tmp_path / f"iter_{NUM_STEPS:07d}")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(f"{half}\n")
    resumed = [*flags, "--auto-resume", *loaded[1].split()]
    check_same(run_training(workers, loaded[0], resumed, tmp_path, saves=False), single)


@pytest.mark.parametrize("flags", [full(EP2), full(f"{TP2_SP} {EP2} {DISTRIBUTED}")])
def test_experts_with_biases_go_on_divided_otherwise(
    flags: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    write_tiny_gpt_oss(tmp_path / "model", value_head=True)
    write_tokenizer(tmp_path / "model")
    losses = "--router-aux-loss-coef 0.5 --router-z-loss-coef 0.05"
    half = NUM_STEPS // 2
    argv = [*arguments, "--load", str(tmp_path / "model"), *losses.split(), "--save-interval", str(half)]
    single = run_training(workers, 1, argv, tmp_path / "single", saves=False)
    saved = tmp_path / "saved"
    run_training(workers, 2, [*argv, *flags.split()], saved)
    shutil.rmtree(saved / f"iter_{NUM_STEPS:07d}")
    (saved / "latest_checkpointed_iteration.txt").write_text(f"{half}\n")
    optimizer = DISTRIBUTED if DISTRIBUTED in flags else ""
    check_same(
        run_training(workers, 1, [*argv, "--auto-resume", *optimizer.split()], saved, saves=False), single
    )


def scores_of(model: str, options: dict[str, Any]) -> list[Any]:
    from modellink_rm import Scorer

    records = [{"prompt": "the cat", "response": word} for word in ("sings", "sleeps", "the moon falls")]
    with Scorer.open(model, prompt_type="llama2", load_checkpoint_loosely=True, **options) as scorer:
        return scorer.score(records)


@pytest.mark.parametrize(
    "flags", [{"expert_model_parallel_size": 2}, full({"pipeline_model_parallel_size": 2})]
)
def test_replicas_that_share_experts_score_as_one_process(
    flags: dict[str, Any], workers: Workers, tmp_path: Path
) -> None:
    write_tiny_qwen2_moe(tmp_path, value_head=True, output_router_logits=True)
    write_tokenizer(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["router_aux_loss_coef"] > 0
    (expected,) = workers.run(scores_of, 1, str(tmp_path), {})
    # Of three records, one replica has two and the other one: it computes an empty micro-batch too.
    found = workers.run(scores_of, 2, str(tmp_path), {"micro_batch_size": 1, **flags})
    assert found[0] == found[1] == pytest.approx(expected, abs=1e-6)
