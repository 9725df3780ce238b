"""Losses, margins and gradient norms of runs recorded with LLaMA-Factory, TRL and OpenRLHF.

The recorded runs, their data and the script that makes their model lie beside the project, in
../shared; without them these tests are skipped. `benchmarks/parity.py` draws the same comparison.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.commands.preprocess import main as preprocess
from tests.distributed import Workers
from tests.marks import full
from tests.runs import run_training

SHARED = Path(__file__).parents[3] / "shared"
pytestmark = pytest.mark.skipif(
    not (SHARED / "reference" / "runs.json").is_file(),
    reason="the recorded runs (../shared/reference) are absent",
)

PEERS = ("lf", "trl", "orlhf")
# One process: the tolerance that the recorded runs are published with; several: five times that.
LOSS_TOLERANCE = {"1e-7": 1e-6, "1e-4": 1e-5}
GRAD_NORM_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of the recorded runs, without the learning rate and --save."""
    directory = tmp_path_factory.mktemp("recorded")
    make_models = [sys.executable, str(SHARED / "reference" / "make_models.py"), str(directory)]
    subprocess.run([*make_models, "--only", "tiny-llama"], check=True, capture_output=True)
    model, data = directory / "tiny-llama", directory / "data" / "en"
    records = json.loads((SHARED / "data" / "dpo_en_demo.json").read_bytes())[:100]
    (directory / "first100.json").write_text(json.dumps(records))
    flags = (
        f"--input {directory}/first100.json --handler-name SharegptStylePairwiseHandler --prompt-type llama2 "
        f"--tokenizer-name-or-path {model} --output-prefix {data}"
    )
    assert preprocess(flags.split()) == 0
    return (
        f"--stage rm --is-pairwise-dataset --load {model} --load-checkpoint-loosely --data-path {data} "
        "--prompt-type llama2 --split 100,0,0 --no-shuffle --seq-length 1024 --micro-batch-size 1 "
        "--global-batch-size 1 --lr-decay-style constant --weight-decay 0.0 --clip-grad 1.0"
    ).split()


@pytest.mark.parametrize(
    ("learning_rate", "num_steps", "world_size", "flags", "factor"),
    [
        full("1e-7", 100, 1, "", 1),
        full("1e-4", 100, 1, "", 1),
        ("1e-4", 30, 1, "", 1),
        full("1e-4", 30, 2, "--tensor-model-parallel-size 2", 5),
        full("1e-4", 30, 2, "--tensor-model-parallel-size 2 --sequence-parallel", 5),
        full("1e-4", 30, 2, "--pipeline-model-parallel-size 2", 5),
    ],
)
def test_every_step_equals_the_recorded_runs(
    learning_rate: str,
    num_steps: int,
    world_size: int,
    flags: str,
    factor: int,
    arguments: list[str],
    workers: Workers,
    tmp_path: Path,
) -> None:
    own = [*arguments, "--lr", learning_rate, "--train-iters", str(num_steps), *flags.split()]
    run = run_training(workers, world_size, own, tmp_path, saves=False)
    recorded: dict[str, Any] = json.loads((SHARED / "reference" / "runs.json").read_bytes())["runs"]
    for peer in PEERS:
        steps = recorded[f"{peer}_llama_llama2_{learning_rate}"][:num_steps]
        losses, _, grad_norms = (list(column) for column in zip(*steps, strict=True))
        assert run.column("loss") == pytest.approx(losses, abs=factor * LOSS_TOLERANCE[learning_rate])
        assert run.column("grad_norm") == pytest.approx(grad_norms, rel=factor * GRAD_NORM_TOLERANCE)
