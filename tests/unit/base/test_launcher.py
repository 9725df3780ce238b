"""Which process a command ends with."""

import os

import pytest

from modellink_rm.base.launcher import environment_of_child, launcher


def test_a_process_that_a_user_started_has_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launcher() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launcher() == os.getppid()


def test_a_child_knows_its_command_though_that_may_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    child = environment_of_child()
    for name in child.keys() - os.environ.keys():
        monkeypatch.setenv(name, child[name])
    assert launcher() == os.getpid()
