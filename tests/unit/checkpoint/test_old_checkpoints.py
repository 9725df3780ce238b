"""Checkpoints of versions before: their runs go on, and they score, with the numbers of then."""

import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.checkpoint.layout import read_checkpoint_info
from tests.distributed import Workers
from tests.runs import train_part

FIXTURE = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1"
CHECKPOINT = FIXTURE / "iter_0000002"
EXPECTED: dict[str, list[dict[str, Any]]] = json.loads((FIXTURE / "expected.json").read_text())
# Equal to the bit with the torch that wrote them; another one's kernels may round otherwise.
TOLERANCE = 1e-6
RUN = (
    f"--stage rm --is-pairwise-dataset --data-path {FIXTURE}/data --split 10,2,0 --seq-length 96 "
    "--micro-batch-size 2 --global-batch-size 2 --lr 1e-2 --lr-decay-style constant --weight-decay 0.1 "
    f"--init-method-std 0.2 --no-post-layer-norm --head-bias --seed 7 --train-iters 4 --load {CHECKPOINT}"
)


def scored(argv: list[str]) -> int:
    from modellink_rm.commands.score import main

    return main(argv)


def assert_rows_equal(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for row, wanted in zip(got, expected, strict=True):
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, abs=TOLERANCE, rel=TOLERANCE)


def test_version_1_says_what_it_said() -> None:
    run = read_checkpoint_info(CHECKPOINT).run
    assert (run.iteration, run.parallel_sizes) == (2, (1, 1, 1, 1))
    assert run.spec.padded_vocab_size == 304
    assert run.spec.head_bias
    assert not run.spec.post_layer_norm
    assert run.spec.shape.add_qkv_bias


def trained_as_then(argv: list[str]) -> None:
    # Attention of a short sequence was one block then, of its own keys: its sums were rounded otherwise.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modellink_rm.model.attention.blocks.SHORT", 0)
        patch.setattr("modellink_rm.model.attention.cpu._KEYS_OF_A_REGISTER", 1)
        train_part(argv)


def test_version_1_continues_with_its_losses(workers: Workers, tmp_path: Path) -> None:
    workers.run(trained_as_then, 1, [*RUN.split(), "--save", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert_rows_equal(rows, EXPECTED["rows"])
    # What is saved now is of today's version, and has what that one did not.
    saved = read_checkpoint_info(tmp_path / "iter_0000004").run
    assert saved.spec == read_checkpoint_info(CHECKPOINT).run.spec


def test_version_1_scores_as_it_did(workers: Workers, tmp_path: Path) -> None:
    arguments = f"--load {CHECKPOINT} --input {FIXTURE}/pairs.jsonl --output {tmp_path}/scores.jsonl"
    handler = "--handler-name SharegptStylePairwiseHandler"
    assert workers.run(scored, 1, [*arguments.split(), *handler.split()]) == [0]
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert_rows_equal(rows, EXPECTED["scores"])
