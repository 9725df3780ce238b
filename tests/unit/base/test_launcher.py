"""Which process a command ends with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modellink_rm.base.launcher import end_at_once, environment_of_child, launcher, module_as_child


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


def test_a_process_ends_though_nobody_reads_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe of a launcher that was killed with its reader: the process went on, and kept its device."""

    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setattr(os, "_exit", ended)
    with pytest.raises(SystemExit) as end:
        end_at_once("the launcher has ended", 1)
    assert end.value.code == 1


def test_a_module_that_a_process_runs_is_none_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export ran python files of the directory that it was started in, for its last check."""
    (tmp_path / "modellink_rm.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    words, environment = module_as_child("modellink_rm.version")
    assert subprocess.run(words, env=environment, check=False).returncode == 0
