"""A normalization measured by evaluate is applied by score, the Scorer and export."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modellink_rm.checkpoint.contract import read_contract
from tests.distributed import Workers
from tests.marks import full
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_llama

FIXTURE = Path(__file__).parents[1] / "fixtures" / "checkpoint_v1"


def main_of(command: str, argv: list[str]) -> int:
    import importlib

    from modellink_rm.base.errors import run_command

    return run_command(importlib.import_module(f"modellink_rm.commands.{command}").main, argv)


def evaluated_and_scored(checkpoint: str, pairs: str, output: str, kind: str) -> list[Any]:
    """Exit codes of evaluate and score, and what a Scorer says of a pair, raw and as it is."""
    from modellink_rm import Scorer

    common = f"--load {checkpoint} --handler-name SharegptStylePairwiseHandler"
    words = f"{common} --data held-out={pairs} --write-normalization held-out --normalization-kind {kind}"
    codes = [main_of("evaluate", words.split())]
    codes.append(main_of("score", f"{common} --normalize --input {pairs} --output {output}".split()))
    record = [{"prompt": "the cat", "responses": ["sings", "falls"]}]
    said = []
    for raw in (False, True):
        with Scorer.open(checkpoint, raw=raw) as scorer:
            said.append((scorer.score(record)[0], scorer.compare(record)[0]))
    return [*codes, *said]


@pytest.mark.parametrize("kind", ["standard", full("reference")])
def test_scores_are_normalized_from_the_measurement_on(kind: str, workers: Workers, tmp_path: Path) -> None:
    shutil.copytree(FIXTURE / "iter_0000002", tmp_path / "iter_0000002")
    checkpoint, output = tmp_path / "iter_0000002", tmp_path / "scores.jsonl"
    arguments = (str(checkpoint), str(FIXTURE / "pairs.jsonl"), str(output), kind)
    ((evaluate, score, normalized, raw),) = workers.run(evaluated_and_scored, 1, *arguments)
    assert (evaluate, score) == (0, 0)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    chosen, rejected = ([row[f"{side}_score"] for row in rows] for side in ("chosen", "rejected"))
    if kind == "standard":
        assert np.mean([*chosen, *rejected]) == pytest.approx(0, abs=1e-4)
        assert np.std([*chosen, *rejected]) == pytest.approx(1, abs=1e-4)
    else:
        assert np.mean(chosen) == pytest.approx(0, abs=1e-6)
    found = json.loads((checkpoint / "normalization.json").read_bytes())
    expected = [(one - found["mean"]) / found["std"] for one in raw[0]]
    assert normalized[0] == pytest.approx(expected, abs=1e-9)
    assert normalized[1] == pytest.approx(raw[1], abs=1e-9)  # a probability knows no scale


def imported(read: str, checkpoint: str, normalizes: bool) -> None:
    from modellink_rm.checkpoint.contract import write_normalization
    from modellink_rm.metrics.normalization import Normalization

    assert main_of("import_model", f"--load {read} --output {checkpoint} --prompt-type llama2".split()) == 0
    if normalizes:
        normalization = Normalization(mean=0.75, std=0.5, num_responses=8, data="held-out")
        write_normalization(Path(checkpoint) / "iter_0000000", normalization)


def exported(checkpoint: str, output: str, flags: str) -> list[Any]:
    """The scores that the model of an exported directory gives, and those that its contract makes of them."""
    from modellink_rm import Scorer

    assert main_of("export", f"--load {checkpoint} --output {output} {flags}".split()) == 0
    record = [{"prompt": "the cat", "responses": ["sings", "falls"]}]
    found = []
    for raw in (True, False):
        with Scorer.open(output, raw=raw) as scorer:
            found.append(scorer.score(record)[0])
    return found


@pytest.mark.full
def test_export_merges_what_its_form_has_a_place_for(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", kind="score")
    write_tokenizer(tmp_path / "read")
    workers.run(imported, 1, str(tmp_path / "read"), str(tmp_path / "checkpoint"), True)

    def scores(name: str, flags: str) -> np.ndarray:
        ((found, applied),) = workers.run(
            exported, 1, str(tmp_path / "checkpoint"), str(tmp_path / name), flags
        )
        normalized.append(np.array(applied))
        return np.array(found)

    normalized: list[np.ndarray] = []

    raw = scores("raw", "--form llamafactory")
    whole = scores("whole", "--form llamafactory --merge-normalization")
    assert whole == pytest.approx((raw - 0.75) / 0.5, abs=1e-5)
    scaled = scores("scaled", "--form transformers --merge-normalization")  # which has no bias
    assert scaled == pytest.approx(raw / 0.5, abs=1e-5)
    for one in normalized:  # in whatever form
        assert one == pytest.approx((raw - 0.75) / 0.5, abs=1e-5)
    contracts = [
        json.loads((tmp_path / name / "inference_contract.json").read_bytes()).get("normalization")
        for name in ("raw", "whole", "scaled")
    ]
    assert (contracts[0]["mean"], contracts[1]) == (0.75, None)
    workers.run(imported, 1, str(tmp_path / "scaled"), str(tmp_path / "again"), False)
    found = read_contract(tmp_path / "again" / "iter_0000000").normalization
    assert found is not None
    assert (found.mean, found.std) == (1.5, 1.0)  # an import keeps it
    assert (contracts[2]["mean"], contracts[2]["std"]) == (1.5, 1.0)  # what is left to take off
