"""Records to rows in parts, stopped and continued."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Unranked
from modellink_rm.inference.parts import ScoredPart, score_parts
from modellink_rm.inference.result import NotScored, Scored
from modellink_rm.inference.rows import KeptFields
from modellink_rm.inference.score_files import ScoreRun
from modellink_rm.inference.totals import Totals
from modellink_rm.records import BadRecord, Record, blocks_of, read_raw_records
from modellink_rm.records.row_parts import part_from_bytes, rows_identity

IDENTITY = rows_identity({"flag": 1})


class Lengths:
    """A scorer that says the length of a response; its count of records is that of the work done."""

    def __init__(self, *, fails_after: int = 10**9) -> None:
        self.num_records = 0
        self._fails_after = fails_after

    def results(self, items: Sequence[Record | BadRecord]) -> list[Scored | NotScored]:
        self.num_records += len(items)
        if self.num_records > self._fails_after:
            raise KeyboardInterrupt
        return [_result(item) for item in items]


def _result(item: Record | BadRecord) -> Scored | NotScored:
    if isinstance(item, BadRecord):
        return NotScored(item.reason, item.message)
    response = Message("assistant", item.fields["response"])
    said = Unranked(system=None, tools="", prompt=(Message("user", "q"),), responses=(response,))
    return Scored(said, (len(response.content) / 7,), False)


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": number, "response": "x" * (number % 13)}) for number in range(100)]
    lines[50] = "{"
    path.write_text("\n".join(lines))
    return path


def run(
    records: Path, output: Path, scorer: Any, *, resume: bool = False, identity: bytes = IDENTITY
) -> Totals:
    blocks = blocks_of(read_raw_records(str(records)), num_records=8, num_bytes=1 << 20)
    with score_parts(str(output), identity, resume=resume) as parts:
        totals = ScoreRun(
            scorer=scorer,
            keep=KeptFields(),
            took=lambda part: None,
            write=lambda part: parts.append(part.to_bytes()),
            parts=parts,
        ).score(blocks)
        parts.write(output)
        parts.remove()
    return totals


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("torn", [0, 1, 9])
def test_a_stopped_run_goes_on_with_the_bytes_of_one_that_was_not(
    records: Path, tmp_path: Path, name: str, torn: int
) -> None:
    whole, output = tmp_path / "whole" / name, tmp_path / name
    whole.parent.mkdir()
    expected = run(records, whole, Lengths())
    with pytest.raises(KeyboardInterrupt):
        run(records, output, Lengths(fails_after=41))
    assert not output.exists()
    parts = tmp_path / f".{name}.parts"
    parts.write_bytes(parts.read_bytes()[: parts.stat().st_size - torn])  # a kill in the middle of a write
    scorer = Lengths()
    assert run(records, output, scorer, resume=True) == expected
    assert scorer.num_records == (60 if torn == 0 else 68)  # of the part that is lost, and those after it
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.jsonl", "whole", name])


def test_a_run_that_is_not_resumed_starts_over(records: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(records, output, Lengths(fails_after=41))
    scorer = Lengths()
    run(records, output, scorer)
    assert scorer.num_records == 100
    assert len(output.read_text().splitlines()) == 100


def test_nothing_is_left_of_a_run_that_scored_nothing(records: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(records, tmp_path / "out.jsonl", Lengths(fails_after=0))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_run_with_other_flags_or_another_input_is_not_continued(records: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(records, output, Lengths(fails_after=41))
    other = rows_identity({"flag": 2})
    with pytest.raises(UserError, match=r"--resume: .* is of a run with another flag"):
        run(records, output, Lengths(), resume=True, identity=other)
    lines = records.read_text().splitlines()
    records.write_text("\n".join([*lines[:9], '{"id": -1, "response": ""}', *lines[10:]]))
    with pytest.raises(UserError, match=r"the input changed since the interrupted run, from .*in.jsonl:9 on"):
        run(records, output, Lengths(), resume=True)
    records.write_text("\n".join(lines))
    assert run(records, output, Lengths(), resume=True).inputs == 100


def test_a_part_survives_its_bytes_and_damage_is_seen() -> None:
    totals = Totals(inputs=3, bad=1, score=0.1)
    part = ScoredPart(num_records=3, num_bytes=9, crc32=7, totals=totals, rows=b'{"a": 1}\n{}\n')
    data = part.to_bytes()
    assert part_from_bytes(data, Totals) == part
    assert dataclasses.asdict(part)["totals"]["score"] == 0.1
    assert [part_from_bytes(data[:size], Totals) for size in range(len(data))] == [None] * len(data)
    flipped = bytearray(data)
    flipped[20] ^= 1
    assert part_from_bytes(bytes(flipped), Totals) is None
