"""The command generate: rows, what score reads of them, and runs that were stopped."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from modellink_rm.base.errors import run_command
from modellink_rm.commands.generate import main
from modellink_rm.generation.transformers_engine import TransformersEngine
from modellink_rm.inference.reader import RecordReader
from tests.marks import full
from tests.tiny_models import write_tiny_llama
from tests.unit.generation.conftest import NUM_PROMPTS

FIXTURE = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1"
FLAGS = "--prompt-type llama2 --max-new-tokens 6 --batch-size 2"


def generate(policy: Path, prompts: Path, flags: str) -> int:
    return run_command(main, [*f"--load {policy} --input {prompts} {FLAGS} {flags}".split()])


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_have_the_answers_beside_the_records_fields(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_text(prompts.read_text() + '{"id": 13}\n{"id": 14, "prompt": "the cat", "chosen": "x"}\n')
    output = tmp_path / "answers.jsonl"
    assert generate(policy, prompts, f"--num-answers 3 --output {output}") == 1
    rows = rows_of(output)
    assert [row["id"] for row in rows] == list(range(NUM_PROMPTS + 2))
    assert rows[13] == {
        "id": 13,
        "error": f"{prompts}:14: no prompt: --handler-name says how to read another form",
    }
    for row in (*rows[:13], rows[14]):
        assert list(row) == ["id", "prompt", "responses", "num_tokens", "ended"]
        assert len(row["responses"]) == len(row["num_tokens"]) == len(row["ended"]) == 3
        assert all(
            (count < 6) or not ended for count, ended in zip(row["num_tokens"], row["ended"], strict=True)
        )
        assert len(RecordReader()(row).responses) == 3
    told = capsys.readouterr()
    assert f"prompts: {NUM_PROMPTS + 2} | answers: {3 * NUM_PROMPTS + 3} | mean length: " in told.out
    assert told.out.rstrip().endswith("not answered: 1")


@pytest.mark.parametrize(
    "sampling", ["--num-answers 2 --top-p 0.9 --temperature 0.7", full("--temperature 0")]
)
def test_a_stopped_run_goes_on_with_the_bytes_of_one_that_was_not(
    policy: Path, prompts: Path, tmp_path: Path, sampling: str
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    assert generate(policy, prompts, f"{sampling} --output {whole}") == 0
    made, token_ids = [], TransformersEngine.token_ids

    def stops(self, requests):
        made.append(len(requests))
        if len(made) == 2:
            raise KeyboardInterrupt
        return token_ids(self, requests)

    with patch.object(TransformersEngine, "token_ids", stops):
        assert generate(policy, prompts, f"{sampling} --output {output}") == 130
        assert not output.exists()
        assert generate(policy, prompts, f"{sampling} --output {output} --resume") == 0
    assert output.read_bytes() == whole.read_bytes()
    num_answers = 2 if "--num-answers" in sampling else 1
    assert sum(made) == NUM_PROMPTS * num_answers + made[1]  # the block that was stopped, and no other
    assert not list(tmp_path.glob(".answers*"))


@contextmanager
def stopped_after_a_block() -> Iterator[None]:
    """A run is stopped while it answers its second block."""
    token_ids, calls = TransformersEngine.token_ids, iter([False, True])

    def stops(self, requests):
        if next(calls):
            raise KeyboardInterrupt
        return token_ids(self, requests)

    with patch.object(TransformersEngine, "token_ids", stops):
        yield


def test_a_run_with_another_seed_is_not_continued(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.jsonl"
    with stopped_after_a_block():
        assert generate(policy, prompts, f"--output {output}") == 130
    assert generate(policy, prompts, f"--output {output} --seed 5 --resume") == 2
    assert "is of a run with another seed" in capsys.readouterr().err


def test_a_run_with_another_handler_in_the_file_is_not_continued(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler, output = tmp_path / "mine.py", tmp_path / "answers.jsonl"
    handler.write_text(
        "from modellink_rm.handlers.prompt_response import PromptResponseHandler\n\n\n"
        "class Mine(PromptResponseHandler):\n    pass\n"
    )
    flags = f"--handler-name {handler}:Mine --output {output}"
    with stopped_after_a_block():
        assert generate(policy, prompts, flags) == 130
    handler.write_text(handler.read_text() + "\n")
    assert generate(policy, prompts, f"{flags} --resume") == 2
    assert "is of a run with another model, tokenizer or handler" in capsys.readouterr().err


def test_an_export_that_is_there_is_taken_by_a_run_that_goes_on_alone(
    policy: Path, prompts: Path, tmp_path: Path
) -> None:
    """Another run's may be of another checkpoint: export refuses to write over it."""
    exports = []

    def fails(words, **unused):
        exports.append(words[3:])
        return subprocess.CompletedProcess(words, 2)

    with patch("modellink_rm.commands.generate.subprocess.run", fails):
        with pytest.raises(SystemExit):
            generate(FIXTURE, prompts, f"--export-to {policy}")
        assert generate(FIXTURE, prompts, f"--export-to {policy} --output {tmp_path}/a.jsonl --resume") == 0
    assert exports == [["export", "--load", str(FIXTURE), "--output", str(policy)]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--temperature 0 --num-answers 2", "--num-answers 2 with --temperature 0 would be equal answers"),
        ("--top-p 1.5", "--top-p must lie between 0 and 1, got 1.5"),
        ("--resume", "--resume needs --output"),
        ("--map-keys {}", "--map-keys needs --handler-name"),
        ("--max-new-tokens 512", "leaves no room for a prompt: the model has 512 positions"),
        ("--engine vllm", "--engine vllm: vLLM is not installed in this environment"),
        ("--handler-name SharegptStylePairwiseHandler", ""),
    ],
)
def test_flags_that_cannot_work_are_refused_in_one_line(
    policy: Path, prompts: Path, flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = generate(policy, prompts, flags)
    told = capsys.readouterr().err
    assert code == (2 if message else 1)
    assert "Traceback" not in told
    assert message in told


def test_what_is_no_language_model_is_refused_before_it_is_read(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_llama(tmp_path / "reward", num_hidden_layers=1, kind="score")
    (tmp_path / "empty").mkdir()
    for load, message in (
        ("reward", "is a LlamaForSequenceClassification, which has no language-model head"),
        ("empty", "is neither a Hugging Face directory (no config.json) nor a checkpoint of this tool"),
        (FIXTURE, "is a checkpoint of this tool: --export-to DIR makes a Hugging Face directory of it"),
        ("nowhere", "there is no such directory"),
    ):
        assert generate(tmp_path / load, prompts, "") == 2
        assert message in capsys.readouterr().err
    assert generate(policy, prompts, f"--export-to {tmp_path / 'out'}") == 2
    assert "--export-to is for checkpoints of this tool" in capsys.readouterr().err
    with patch.dict("os.environ", {"WORLD_SIZE": "2"}):
        assert generate(policy, prompts, "") == 2
    assert "generate is one process, and torchrun started 2" in capsys.readouterr().err
