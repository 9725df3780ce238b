"""A disk that is full: one line that names the file, exit code 2, nothing half-written left."""

import functools
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import full
from tests.tiny_data import random_pairs, write_tokenizer
from tests.tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("full")
    write_tiny_llama(directory / "model")
    write_tokenizer(directory / "model")
    (directory / "pairs.json").write_text(json.dumps(random_pairs(80)))
    return directory


def run(directory: Path, flags: str, *, num_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """A command; the system refuses to make its files longer than `num_bytes`, as a full disk does."""
    limit = None
    if num_bytes is not None:
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    return subprocess.run(
        [sys.executable, *flags.split()],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limit,
    )


PREPROCESS = (
    f"{ROOT}/preprocess_data.py --input pairs.json --handler-name SharegptStylePairwiseHandler "
    "--tokenizer-name-or-path model --prompt-type llama2 --output-prefix"
)
TRAIN = (
    f"{ROOT}/pretrain_rm.py --stage rm --is-pairwise-dataset --load model --load-checkpoint-loosely "
    "--data-path whole --train-iters 1 --seq-length 400 --save run"
)
SCORE = (
    "-m modellink_rm score --load model --load-checkpoint-loosely --prompt-type llama2 --input pairs.json "
    "--handler-name SharegptStylePairwiseHandler --output scores.jsonl"
)


@pytest.mark.parametrize(
    ("flags", "num_bytes", "line"),
    [
        full(f"{PREPROCESS} out", 20_000, "error: .out.parts: no space left on device; free"),
        (TRAIN, 20_000, "error: the checkpoint run/iter_0000001 could not be written: "),
        full(f"{TRAIN} --train-iters 20", 9_000, "error: run/scores.jsonl: file too large; free some space"),
        full(SCORE, 5_000, "error: .scores.jsonl.parts: no space left on device; free"),
    ],
)
def test_full_disk_is_one_line_and_leaves_nothing_half_written(
    flags: str, num_bytes: int, line: str, directory: Path
) -> None:
    if "--data-path" in flags and not (directory / "whole_manifest.json").exists():
        assert run(directory, f"{PREPROCESS} whole").returncode == 0
    done = run(directory, flags, num_bytes=num_bytes)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert [told for told in done.stderr.splitlines() if told.startswith("error: ")] == [
        done.stderr.splitlines()[-1]
    ]
    assert done.stderr.splitlines()[-1].startswith(line)
    names = {str(path.relative_to(directory)) for path in directory.rglob("*")}
    assert not [name for name in names if name.endswith(".tmp") or name.startswith(("out", "scores"))]
    assert not [name for name in names if "iter_" in name]
