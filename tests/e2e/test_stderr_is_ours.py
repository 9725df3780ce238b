"""Nothing of what torch, megatron-core, transformers or TensorBoard would print reaches the user."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_data import random_pairs, write_tokenizer
from tests.tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[2]
# torchrun prints of threads where this is not set; the scripts of examples/ set it.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
OURS = re.compile(
    r"--load-checkpoint-loosely forgives \w+ [\w.]+"
    r"|platform: CPU, because .*"
    r"|attention: sdpa, because .*"
    r"|optimizer: torch's AdamW, fused, because .*"
    r"|matmul peak: [\d.]+ TFLOP/s a process in float32"
    r"|saved run/iter_\d+"
    r"|continuing after iteration 1 of run/iter_0000001"
    r"|run/metrics.jsonl: 3 rows kept up to iteration 1"
    r"|run/scores.jsonl: 80 rows kept up to iteration 1"
    r"|pairs: 32 rows for training, 8 for validation, 0 left for tests"
    r"|scores: scores.jsonl"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ours")
    write_tiny_llama(directory / "model")
    write_tokenizer(directory / "model")
    (directory / "pairs.json").write_text(json.dumps(random_pairs(40)))
    return directory


def stderr_of(directory: Path, words: str, *, processes: int = 1) -> list[str]:
    launcher = f"-m torch.distributed.run --standalone --nproc_per_node {processes}" if processes > 1 else ""
    done = subprocess.run(
        [sys.executable, *launcher.split(), *words.split()],
        cwd=directory,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.mark.full
def test_every_line_of_stderr_is_ours(directory: Path) -> None:
    preprocess = (
        f"{ROOT}/preprocess_data.py --input pairs.json --handler-name SharegptStylePairwiseHandler "
        "--tokenizer-name-or-path model --prompt-type llama2 --output-prefix pairs --workers 2"
    )
    train = (
        f"{ROOT}/pretrain_rm.py --stage rm --is-pairwise-dataset --load model --load-checkpoint-loosely "
        "--data-path pairs --split 80,20,0 --seq-length 400 --micro-batch-size 2 --global-batch-size 4 "
        "--tensor-model-parallel-size 2 --save run --tensorboard-dir events --auto-resume --train-iters"
    )
    score = "-m modellink_rm score --load run --input pairs.json --output scores.jsonl"
    told = [
        *stderr_of(directory, preprocess),
        *stderr_of(directory, f"{train} 1", processes=2),
        *stderr_of(directory, f"{train} 2", processes=2),
        *stderr_of(directory, score),
    ]
    assert [line for line in told if not OURS.fullmatch(line)] == []
    assert sum(line.startswith("saved ") for line in told) == 2
