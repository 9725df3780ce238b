"""What a command prints and returns when something goes wrong."""

import errno
import os
import subprocess
import sys
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
