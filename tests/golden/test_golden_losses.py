"""Losses and gradient norms of one small run, written down: a change of any number shows.

python -m tests.golden.test_golden_losses    writes the file anew, for a change that is meant
"""

import tempfile
from pathlib import Path

import pytest

from tests.distributed import Workers
from tests.runs import run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_chatglm, write_tiny_llama

GOLDEN = Path(__file__).parent
MAKERS = {"llama": (write_tiny_llama, ""), "chatglm": (write_tiny_chatglm, "--no-post-layer-norm")}


def write_files(family: str, directory: Path) -> None:
    """The model, the tokenizer and the pairs of the run."""
    write, _ = MAKERS[family]
    write(directory / "model", value_head=True)
    write_tokenizer(directory / "tokenizer")
    write_random_rows(directory / "pairs", 24)


def flags_of_run(family: str, directory: Path) -> list[str]:
    """The flags of the run, beside those of the stage and --save."""
    _, flags = MAKERS[family]
    return (
        f"--load {directory}/model --load-checkpoint-loosely "
        f"--tokenizer-name-or-path {directory}/tokenizer --data-path {directory}/pairs --split 1,0,0 "
        "--seq-length 40 --micro-batch-size 2 --global-batch-size 4 --train-iters 8 --lr 1e-3 "
        f"--lr-decay-style cosine --lr-warmup-fraction 0.25 --min-lr 1e-4 --weight-decay 0.1 {flags}"
    ).split()


def steps_of(family: str, workers: Workers, directory: Path) -> list[tuple[int, float, float]]:
    """(iteration, loss, gradient norm) of each step."""
    write_files(family, directory)
    arguments = ["--stage", "rm", "--is-pairwise-dataset", *flags_of_run(family, directory)]
    run = run_training(workers, 1, arguments, directory / "run", saves=False)
    return [(row["iteration"], row["loss"], row["grad_norm"]) for row in run.steps]


@pytest.mark.parametrize("family", MAKERS)
def test_losses_and_gradient_norms_are_those_written_down(
    family: str, workers: Workers, tmp_path: Path
) -> None:
    lines = (GOLDEN / f"{family}.txt").read_text().splitlines()[1:]
    golden = [(int(step), float(loss), float(norm)) for step, loss, norm in map(str.split, lines)]
    for (step, loss, norm), expected in zip(steps_of(family, workers, tmp_path), golden, strict=True):
        # Other kernels of another torch or CPU round differently; eight Adam steps let that grow.
        assert step == expected[0]
        assert loss == pytest.approx(expected[1], abs=2e-5), f"step {step}"
        assert norm == pytest.approx(expected[2], rel=2e-4), f"step {step}"


if __name__ == "__main__":
    pool = Workers()
    for name in MAKERS:
        with tempfile.TemporaryDirectory() as temporary:
            steps = steps_of(name, pool, Path(temporary))
        text = "".join(f"{step} {loss:.8f} {norm:.8f}\n" for step, loss, norm in steps)
        (GOLDEN / f"{name}.txt").write_text("step loss grad_norm\n" + text)
    pool.close()
