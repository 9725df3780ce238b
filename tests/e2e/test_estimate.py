"""The command that estimates, as a user runs it, and its memory beside what a run takes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.commands import estimate
from modellink_rm.commands.train import run_config
from tests.unit.estimate.shapes import CONFIGS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def llama(tmp_path: Path) -> str:
    """A directory with config.json alone."""
    (tmp_path / "llama").mkdir()
    config = (CONFIGS / "llama-3.1-8b-instruct.json").read_text()
    (tmp_path / "llama" / "config.json").write_text(config)
    return str(tmp_path / "llama")


def test_flags_to_paste_are_the_trainers(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--load", llama, "--gpus", "8x80G", "--seq-length", "8192", "--global-batch-size", "128"]
    assert estimate.main(words) == 0
    printed = capsys.readouterr().out
    _, shown = printed.split("\nflags ")
    flags = shown.replace("\\\n", " ").split()
    config = run_config(
        ["--stage", "rm", "--is-pairwise-dataset", "--data-path", "x", "--train-iters", "1", *flags]
    )
    assert config.precision.bf16
    assert config.data.seq_length == 8192
    assert config.training.global_batch_size == 128


def test_sequences_that_the_trainer_refuses_are_refused(llama: str) -> None:
    with pytest.raises(UserError, match="--seq-length 200000 is above the model's --max-position-embeddings"):
        estimate.main(["--load", llama, "--gpus", "8x80G", "--seq-length", "200000"])


def test_checkpoints_that_the_trainer_holds_in_no_4_bits_are_refused() -> None:
    checkpoint = str(ROOT / "tests" / "fixtures" / "checkpoint_v1" / "iter_0000002")
    with pytest.raises(UserError, match=f"--load-in-4bit needs a Hugging Face directory: {checkpoint} is a"):
        estimate.main(["--load", checkpoint, "--gpus", "1x80G", "--lora-r", "4", "--load-in-4bit"])


@pytest.mark.parametrize("page", ["cluster", "lora"])
def test_the_pages_show_what_is_printed(page: str, llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    found = re.search(
        r"-m modellink_rm estimate --load llama-3.1-8b-instruct (.*)\n(?:\n```text\n)?((?:.+\n)+)", text
    )
    assert found is not None
    words, shown = found.groups()
    assert estimate.main(["--load", llama, *words.split()]) == 0
    assert capsys.readouterr().out.startswith(shown.removesuffix("```\n"))


def test_a_shape_of_flags_needs_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"@{ROOT}/examples/llama2_7B.args", "--gpus", "8xH100", "--seq-length", "2048"]
    assert estimate.main(words) == 0
    assert "6.61 B parameters" in capsys.readouterr().out


def test_a_small_model_has_millions_of_parameters(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(llama, "config.json")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 304}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    path.write_text(json.dumps({**json.loads(path.read_text()), **sizes, **heads}))
    assert estimate.main(["--load", llama, "--gpus", "2xcpu", "--seq-length", "64"]) == 0
    assert " M parameters" in capsys.readouterr().out


def test_the_numbers_are_written_to_a_file(llama: str, tmp_path: Path) -> None:
    output = tmp_path / "out" / "estimate.json"
    assert estimate.main(["--load", llama, "--gpus", "8xH200", "--output", str(output)]) == 0
    values = json.loads(output.read_text())
    assert values["world_size"] == 8
    assert values["memory_bytes"]["at most"] < values["usable_bytes"]


@pytest.mark.full
@pytest.mark.parametrize("layout", ["one", "tp2", "pp2", "dp2"])
def test_memory_is_within_a_tenth_of_what_a_run_takes(layout: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "estimate.py"), "--shapes", "llama", "--layouts", layout],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
