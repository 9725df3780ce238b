"""What `score` reports of inputs that it cannot score."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest

from modellink_rm.base.flags import parse_flags
from modellink_rm.base.parts import first_difference
from modellink_rm.checkpoint.source import ModelSource, open_source
from modellink_rm.commands.score import GROUPS, _identity
from modellink_rm.config.score import ScoreConfig
from tests.distributed import Workers

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"


def scored(argv: list[str]) -> tuple[int, list[str], int]:
    """Exit code, lines on standard error, and how many messages were kept in memory."""
    from modellink_rm.base.log import warn_once
    from modellink_rm.commands.score import main

    kept = warn_once.cache_info().currsize
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = main(argv)
    return code, stderr.getvalue().splitlines(), warn_once.cache_info().currsize - kept


def test_first_ten_inputs_without_a_score_are_named_and_the_others_counted(
    workers: Workers, tmp_path: Path
) -> None:
    records = [{"prompt": "the cat", "response": "sings"}, *[{"prompt": "q", "response": 3}] * 25]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    flags = f"--load {CHECKPOINT} --input {tmp_path}/in.jsonl --output {tmp_path}/scores.jsonl --keep none"
    ((code, lines, num_kept),) = workers.run(scored, 1, flags.split())
    assert code == 1
    named = [line for line in lines if "field 'response' must be" in line]
    assert [line.split(":")[2] for line in named] == [str(number) for number in range(2, 12)]
    assert "... and 15 more inputs that are not scored" in lines
    assert num_kept < 10  # messages that are printed once; not those of records
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows] == [["score"], *[["error"]] * 25]


@pytest.mark.parametrize(
    ("name", "difference"),
    [("model.safetensors", "weights"), ("tokenizer.json", "model, tokenizer or handler")],
)
def test_a_change_in_the_middle_of_a_model_is_another_run(name: str, difference: str, tmp_path: Path) -> None:
    for file in ("model.safetensors", "tokenizer.json", "config.json", "in.jsonl"):
        (tmp_path / file).write_bytes(bytes(300_000))
    words = f"--load {tmp_path} --input {tmp_path}/in.jsonl --output x --resume"
    parsed = parse_flags(words.split(), (ScoreConfig, *GROUPS.values()), prog="score", description="")
    before = _identity(parsed[ScoreConfig], parsed, ModelSource())
    assert _identity(parsed[ScoreConfig], parsed, ModelSource()) == before
    (tmp_path / name).write_bytes(bytes(150_000) + b"1" + bytes(149_999))
    assert first_difference(before, _identity(parsed[ScoreConfig], parsed, ModelSource())) == difference


def test_rows_are_of_the_checkpoint_that_was_opened_whatever_is_saved_since(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "save" / "iter_0000002")
    (tmp_path / "in.jsonl").write_text("{}")
    words = f"--load {tmp_path}/save --input {tmp_path}/in.jsonl --output x --resume"
    parsed = parse_flags(words.split(), (ScoreConfig, *GROUPS.values()), prog="score", description="")
    source = open_source(f"{tmp_path}/save")
    before = _identity(parsed[ScoreConfig], parsed, source)
    newer = Path(shutil.copytree(CHECKPOINT, tmp_path / "save" / "iter_0000004"))
    (newer / "files.json").write_bytes((newer / "files.json").read_bytes() + b" ")
    (tmp_path / "save" / "latest_checkpointed_iteration.txt").write_text("4")
    assert _identity(parsed[ScoreConfig], parsed, source) == before
    now = open_source(f"{tmp_path}/save")
    assert first_difference(before, _identity(parsed[ScoreConfig], parsed, now)) is not None
