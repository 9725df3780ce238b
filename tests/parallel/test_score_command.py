"""The command score on two processes: stopped, continued, and as one process."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest

from modellink_rm.base.parts import frames
from tests.distributed import Workers

FIXTURE = Path(__file__).parents[1] / "fixtures" / "checkpoint_v1"


def scored_in_blocks(flags: str, keeps_parts: bool) -> int:
    """Score with blocks of two records."""
    from modellink_rm.commands.score import main
    from modellink_rm.inference import score_files
    from modellink_rm.records.row_parts import RowParts

    remove = (lambda self: None) if keeps_parts else RowParts.remove
    with patch.object(score_files, "BLOCK_RECORDS", 2), patch.object(RowParts, "remove", remove):
        return main(flags.split())


@pytest.mark.full
@pytest.mark.parametrize("parallel", ["", "--pipeline-model-parallel-size 2"])
def test_two_processes_continue_a_stopped_run(parallel: str, workers: Workers, tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    flags = f"--load {FIXTURE} --handler-name SharegptStylePairwiseHandler --input {FIXTURE}/pairs.jsonl"
    flags = f"{flags} --output {output} {parallel}"
    assert workers.run(scored_in_blocks, 2, flags, True) == [0, 0]
    expected = output.read_bytes()
    output.unlink()
    parts = tmp_path / ".scores.jsonl.parts"
    with parts.open("rb") as file:
        file.read(len(b"MLRMSCORE1"))
        ends = [file.tell() for _ in frames(file)]
    content = parts.read_bytes()
    parts.write_bytes(content[: ends[2] + 5])  # the identity, two parts, and the beginning of one
    assert workers.run(scored_in_blocks, 2, f"{flags} --resume", False) == [0, 0]
    assert output.read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["scores.jsonl"]

    assert workers.run(scored_in_blocks, 1, flags.replace(parallel, "") if parallel else flags, False) == [0]
    for ours, line in zip(output.read_text().splitlines(), expected.decode().splitlines(), strict=True):
        one, two = json.loads(ours), json.loads(line)
        assert one["margin"] == pytest.approx(two["margin"], abs=1e-5)
        assert one.keys() == two.keys()
