"""Runs of models with parts of their own: windows, softcaps, norms after the blocks and over all heads."""

import shutil
from pathlib import Path

import pytest

from tests.distributed import Workers
from tests.marks import full
from tests.parallel.conftest import NUM_STEPS
from tests.parity.comparison import write_case
from tests.parity.family_cases import CASES
from tests.runs import run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

HALF = NUM_STEPS // 2
TP2 = "--tensor-model-parallel-size 2"


@pytest.mark.parametrize(
    ("family", "flags"),
    [
        full("olmo-3", f"{TP2} --sequence-parallel"),
        full("olmo-3", TP2),
        full("olmo-3", "--context-parallel-size 2"),
        full("gemma-2", f"{TP2} --sequence-parallel"),
        full("gemma-2", "--pipeline-model-parallel-size 2"),
        full("gemma-2", "--context-parallel-size 2"),
        full("gemma-3", f"{TP2} --sequence-parallel"),
        full("gemma-3", "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"),
        full("glm-4-0414", f"{TP2} --sequence-parallel"),
        full("deepseek-v2", f"{TP2} --sequence-parallel"),
        full("deepseek-v2", "--pipeline-model-parallel-size 2"),
        full("deepseek-v2", "--expert-model-parallel-size 2"),
    ],
)
def test_a_divided_run_equals_one_process_and_its_checkpoint_continues_there(
    family: str, flags: str, workers: Workers, tmp_path: Path
) -> None:
    write_case(CASES[family], tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    write_random_rows(tmp_path / "data" / "pairs", 30)
    arguments = (
        f"--stage rm --is-pairwise-dataset --load {tmp_path}/model --data-path {tmp_path}/data/pairs "
        f"--split 1,0,0 --seq-length 48 --lr 1e-4 --max-tokens-per-micro-batch 100 --global-batch-size 6 "
        f"--train-iters {NUM_STEPS} --make-vocab-size-divisible-by 1 --save-interval {HALF}"
    ).split()
    single = run_training(workers, 1, arguments, tmp_path / "single", saves=False)
    divided = run_training(workers, 2, [*arguments, *flags.split()], tmp_path / "divided")
    shutil.rmtree(tmp_path / "divided" / f"iter_{NUM_STEPS:07d}")
    (tmp_path / "divided" / "latest_checkpointed_iteration.txt").write_text(f"{HALF}\n")
    continued = run_training(workers, 1, [*arguments, "--auto-resume"], tmp_path / "divided", saves=False)
    assert len(continued.steps) == NUM_STEPS  # the first half is still that of the divided run
    for run in (divided, continued):
        for name in ("loss", "grad_norm"):
            # float32 sums in another order, over a few updates.
            assert run.column(name) == pytest.approx(single.column(name), rel=1e-4)
        assert run.weights.keys() == single.weights.keys()
        for name, weight in run.weights.items():
            # Adam makes whole steps, of 1e-4, of gradients that are rounding alone; few are.
            difference = (weight - single.weights[name]).abs()
            assert difference.max() < 1e-4 * NUM_STEPS, name
            assert difference.mean() < 1e-5, name


def test_prompts_are_computed_apart_where_their_angles_differ(workers: Workers, tmp_path: Path) -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    write_tiny_llama(tmp_path / "model", value_head=True, max_position_embeddings=24, rope_scaling=scaling)
    write_tokenizer(tmp_path / "model")
    write_random_rows(tmp_path / "data" / "pairs", 12)
    arguments = (
        f"--stage rm --is-pairwise-dataset --load {tmp_path}/model --load-checkpoint-loosely --split 1,0,0 "
        f"--data-path {tmp_path}/data/pairs --max-position-embeddings 48 --seq-length 48 --train-iters 2 "
        "--global-batch-size 6 --max-tokens-per-micro-batch 10000"
    ).split()
    run = run_training(workers, 1, arguments, tmp_path / "run", saves=False)
    apart = run_training(workers, 1, [*arguments, "--no-prefix-sharing"], tmp_path / "apart", saves=False)
    assert run.column("loss") == apart.column("loss")
    assert run.column("grad_norm") == apart.column("grad_norm")
