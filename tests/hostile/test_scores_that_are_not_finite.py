"""A model that says no number: an error row for each such input, and the exit code says so."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hostile.commands import Material, Outcome, run

RECORDS = [{"prompt": "the cat", "response": "sings"}, {"prompt": "the cat", "response": "世界"}]
FLAGS = "--load broken --load-checkpoint-loosely --prompt-type llama2 --input in.jsonl --output out.jsonl"


def score_with(
    tensor: str, rows: slice | list[int], value: float, material: Material, directory: Path
) -> tuple[Outcome, Path]:
    """Score by a model with this value in rows of a tensor."""
    target = material.copy(directory / "trial")
    shutil.copytree(material.directory / "model", target / "broken")
    weights = load_file(target / "broken/model.safetensors")
    weights[tensor][rows] = value
    save_file(weights, target / "broken/model.safetensors", metadata={"format": "pt"})
    (target / "in.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    return run("score", FLAGS, target), target / "out.jsonl"


def test_a_score_that_is_not_finite_is_an_error_row(material: Material, tmp_path: Path) -> None:
    from modellink_rm.config.tokenizer import TokenizerConfig
    from modellink_rm.tokenizers.load import load_tokenizer

    tokenizer = load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(material.directory / "model")))
    token = tokenizer.encode("世界")[-1]  # which nothing else in the two records has
    outcome, output = score_with("model.embed_tokens.weight", [token], torch.nan, material, tmp_path)
    assert outcome.code == 1, outcome.stderr
    good, bad = map(json.loads, output.read_text().splitlines())
    assert list(good) == ["score"]
    assert bad == {"error": "in.jsonl:2: a score is not finite"}
    assert "not scored: 1 (1 not finite)" in outcome.stdout
    assert "broken holds weights that are not finite: embedding.word_embeddings.weight" in outcome.stderr


@pytest.mark.parametrize(
    ("tensor", "value", "cause"),
    [
        (
            "model.norm.weight",
            torch.nan,
            "the weights are not finite either (decoder.final_layernorm",
        ),
        ("model.norm.weight", 3e38, "the weights are finite, so their products are too large"),
    ],
)
def test_no_finite_score_is_exit_code_2_and_no_file(
    tensor: str, value: float, cause: str, material: Material, tmp_path: Path
) -> None:
    outcome, output = score_with(tensor, slice(None), value, material, tmp_path)
    assert outcome.is_one_line(), outcome.stderr
    assert f"error: no score of the 2 inputs is finite; {cause}" in outcome.errors[0]
    assert not output.exists()
