"""A model that says no number: an error row for each such input, and the exit code says so."""

import json
import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.hostile.commands import Material, run

RECORDS = [{"prompt": "the cat", "response": word} for word in ("sings", "sleeps", "runs")]
FLAGS = "--micro-batch-size 2 --keep none --input in.jsonl --output out.jsonl --load"


@pytest.fixture
def directory(material: Material, tmp_path: Path) -> Path:
    target = material.copy(tmp_path / "trial")
    (target / "in.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    return target


def spoil_the_second_score() -> None:
    """Let the model say NaN of one input, as one of a tensor's many rows can make it."""
    from modellink_rm.inference.scoring_model import ScoringModel

    outputs = ScoringModel.outputs_of

    def spoilt(self: ScoringModel, examples: list) -> list:
        found = outputs(self, examples)
        return [found[0], ((math.nan,),), *found[2:]]

    ScoringModel.outputs_of = spoilt  # type: ignore[assignment, method-assign]


def test_a_score_that_is_not_finite_is_an_error_row(directory: Path) -> None:
    outcome = run("score", f"{FLAGS} trained", directory, first=spoil_the_second_score)
    assert outcome.code == 1, outcome.stderr
    rows = [json.loads(line) for line in (directory / "out.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows] == [["score"], ["error"], ["score"]]
    assert rows[1] == {"error": "in.jsonl:2: a score is not finite"}
    assert "not scored: 1 (1 not finite)" in outcome.stdout


def test_no_finite_score_is_exit_code_2_and_no_file(material: Material, directory: Path) -> None:
    shutil.copytree(material.directory / "model", directory / "broken")
    weights = load_file(directory / "broken/model.safetensors")
    weights["model.norm.weight"][:] = 3e38
    save_file(weights, directory / "broken/model.safetensors", metadata={"format": "pt"})
    flags = f"{FLAGS} broken --load-checkpoint-loosely --prompt-type llama2"
    outcome = run("score", flags, directory)
    assert outcome.is_one_line(), outcome.stderr
    assert "error: no score of the 3 inputs is finite: most likely the weights" in outcome.errors[0]
    assert not (directory / "out.jsonl").exists()
