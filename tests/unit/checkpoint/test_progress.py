"""The state that a run goes on with is that of its checkpoint, or the run ends with one line."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import AgreedError
from modellink_rm.checkpoint.distributed import Progress, _damage_named, progress_of
from modellink_rm.checkpoint.layout import read_checkpoint_info

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"


def test_progress_is_that_of_the_run() -> None:
    info = read_checkpoint_info(CHECKPOINT)
    said = {"progress": {"iteration": 2, "consumed_samples": 8}}
    assert progress_of(said, info) == Progress(iteration=2, consumed_samples=8)
    known = dataclasses.replace(info, run=dataclasses.replace(info.run, consumed_samples=8))
    assert progress_of(said, known).consumed_samples == 8


@pytest.mark.parametrize(
    "loaded",
    [
        {},
        {"progress": None},
        {"progress": {}},
        {"progress": {"iteration": -1, "consumed_samples": 8}},
        {"progress": {"iteration": 2, "consumed_samples": "8"}},
    ],
)
def test_another_state_is_one_line(loaded: dict[str, Any]) -> None:
    info = read_checkpoint_info(CHECKPOINT)
    info = dataclasses.replace(info, run=dataclasses.replace(info.run, consumed_samples=8))
    with pytest.raises(AgreedError) as refused, _damage_named(info):
        progress_of(loaded, info)
    assert f"{CHECKPOINT} holds no state that a run can go on with (" in str(refused.value)
