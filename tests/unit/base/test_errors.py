"""What a command prints and returns when something goes wrong."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError, listed, run_command


@pytest.mark.parametrize(
    ("values", "text"),
    [([], ""), (["a"], "a"), ([3, 5], "3, 5"), ([3, 5, 7], "3, 5 and 1 more"), ("abcde", "a, b and 3 more")],
)
def test_a_long_list_is_cut_and_its_rest_counted(values, text):
    assert listed(values, most=2) == text


def outcome(capsys, error):
    def main(argv):
        raise error

    code = run_command(main, [])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such thing"), 2, "error: no such thing\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 2, "error: x: No such file\n"),
        (
            OSError(errno.EIO, os.strerror(errno.EIO)),
            2,
            "error: a file cannot be read or written, as its disk or its network says: Input/output error\n",
        ),
        (
            ModuleNotFoundError("No module named 'torch.x'", name="torch.x"),
            2,
            "error: the package torch cannot be imported (No module named 'torch.x'): python -m modellink_rm "
            "doctor says what is wrong with this installation, and the remedy\n",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"),
            2,
            "error: x: no space left on device; free some space, or write elsewhere\n",
        ),
    ],
)
def test_a_mistake_or_a_bad_file_is_one_line(
    capsys: pytest.CaptureFixture[str], error: Any, code: Any, line: Any
) -> None:
    assert outcome(capsys, error) == (code, line)


def test_every_process_ends_at_once_on_ctrl_c_and_the_first_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("modellink_rm.base.errors.time.sleep", waits.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        told.append(outcome(capsys, KeyboardInterrupt()))
    assert told == [(130, "error: interrupted\n"), (130, "")]
    assert waits == []


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a fault of ours"),
        ConnectionResetError(104, "reset"),
        ImportError("cannot import name 'x'", name="modellink_rm.base.errors"),
    ],
)
def test_a_fault_of_ours_keeps_its_traceback(error: Any) -> None:
    def main(argv):
        raise error

    with pytest.raises(type(error)):
        run_command(main, [])


def test_a_command_whose_output_is_closed_ends_with_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as python starts after `>&-`
    assert run_command(lambda argv: 0, []) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_is_utf8_whatever_the_locale(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))

    def main(argv: Sequence[str]) -> int:
        print("caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{CJK UNIFIED IDEOGRAPH-4F60}", "\udcff")
        return 0

    assert run_command(main, []) == 0
    assert written.getvalue() == b"caf\xc3\xa9 \xe4\xbd\xa0 \\udcff\n"


def test_a_working_directory_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run_command(lambda argv: len(os.getcwd()), []) == 2
    assert "error: the working directory does not exist any more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "is_wrong"),
    [
        ({}, False),
        ({"WORLD_SIZE": "1"}, False),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, False),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, False),
        ({"RANK": "1"}, True),  # who takes itself for the second process prints nothing
        ({"WORLD_SIZE": "8"}, True),
        ({"RANK": "4", "WORLD_SIZE": "4"}, True),
        ({"RANK": "0", "WORLD_SIZE": "0"}, True),
        ({"RANK": "x", "WORLD_SIZE": "2"}, True),
        ({"LOCAL_RANK": "-1"}, True),
    ],
)
def test_variables_that_no_launcher_sets_so_are_refused(
    environment: dict[str, str],
    is_wrong: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run_command(lambda argv: 0, []) == (2 if is_wrong else 0)
    assert ("unset them to start a single process\n" in capsys.readouterr().err) == is_wrong


def test_output_to_a_full_disk_is_one_line() -> None:
    code = "import sys; from modellink_rm.base.errors import run_command; "
    code += "sys.exit(run_command(lambda argv: print('x' * 10) or 0, []))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output or a temporary file: no space left on device")
    assert done.stderr.count("\n") == 1


def test_a_message_is_one_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    error = UserError("the name 'a\nb\x1b[31m\ud800' of 数据 is wrong")
    assert outcome(capsys, error) == (2, "error: the name 'a\\nb\\x1b[31m\\ud800' of 数据 is wrong\n")
