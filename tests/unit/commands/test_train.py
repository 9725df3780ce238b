"""`train` as a command: what its exit code says."""

import pytest

from modellink_rm.base.errors import run_command
from modellink_rm.commands import train

DATA = ["--is-pairwise-dataset", "--data-path", "x", "--load", "y", "--save", "z"]
FLAGS = ["--stage", "rm", "--train-iters", "3", *DATA]


def test_a_run_whose_lines_nobody_reads_any_more_is_not_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of `| tee log` that is killed; exit code 0 would say that all steps were taken."""
    dropped = []

    def run(config: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("modellink_rm.train.run.run", run)
    monkeypatch.setattr(train, "drop_output", lambda: dropped.append(True))
    assert run_command(train.main, FLAGS) == 2
    assert "error: what reads standard output has ended, and the run with it" in capsys.readouterr().err
    assert dropped == [True]
