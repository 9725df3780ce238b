"""The last check of an export, of what transformers answers."""

import json
import logging
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.base.launcher import launcher
from modellink_rm.conversion import check
from modellink_rm.conversion.samples import Sample

SAMPLES = [Sample((), (5, 6, 7)), Sample((), (8, 9))]
EXPECTED = [[0.5], [-1.0]]


def check_answer(
    monkeypatch: pytest.MonkeyPatch, *, together: list[list[float]], alone: list[list[float]]
) -> None:
    answer: dict[str, Any] = {"problems": [], "different": [], "together": together, "alone": alone}
    monkeypatch.setattr(check, "_in_another_process", lambda directory, request: answer)
    check.check_scores(Path(), SAMPLES, EXPECTED, dtypes=[torch.float32], rendered=[])


@pytest.mark.parametrize("place", [0, 1])
def test_score_that_is_no_number_is_refused_wherever_it_stands(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [list(one) for one in EXPECTED]
    scores[place] = [math.nan]
    with pytest.raises(UserError, match="transformers scores in a padded batch differ by nan"):
        check_answer(monkeypatch, together=scores, alone=EXPECTED)
    with pytest.raises(UserError, match="transformers scores alone differ by nan"):
        check_answer(monkeypatch, together=EXPECTED, alone=scores)


def test_difference_that_is_told_is_the_largest_of_both_ways(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        check_answer(monkeypatch, together=[[0.50005], [-1.0]], alone=EXPECTED)
    assert "within 5e-05 (allowed: 0.0001)" in caplog.text


def test_process_in_which_transformers_scores_ends_with_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """It went on scoring after its export was killed, with the whole model in memory.

    And it looked for its modules in the working directory first.
    """
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(subprocess, "run", answer_of_launcher)
    answer = check._in_another_process(Path("directory"), "{}")
    assert answer == {"launcher": os.getpid(), "rank": None, "is_safe": True}


def answer_of_launcher(words: list[str], *, env: dict[str, str], **_: Any) -> Any:
    """What a process with that environment ends with."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - env.keys():
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        answer = {"launcher": launcher(), "rank": os.environ.get("RANK"), "is_safe": "-P" in words}
    return subprocess.CompletedProcess(words, 0, stdout=json.dumps(answer))


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_checkpoint_whose_own_scores_are_not_finite_is_told_as_that(
    score: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step at a learning rate that was far too high; transformers gives none of it either."""
    answer = {"problems": [], "different": [], "together": [[score]], "alone": [[score]]}
    monkeypatch.setattr(check, "_in_another_process", lambda directory, request: answer)
    with pytest.raises(UserError, match="the checkpoint's own scores are not finite"):
        check.check_scores(Path(), SAMPLES[:1], [[score]], dtypes=[torch.float32], rendered=[])
