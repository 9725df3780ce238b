"""The list of commands, to which an installed package may add."""

import pytest

from modellink_rm import __main__
from modellink_rm.commands.registry import COMMANDS


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["modellink-rm", *words])
    return __main__.main()


@pytest.fixture
def with_plug_ins(tmp_path, monkeypatch):
    """Two installed packages: one offers a module as a command, the other cannot be imported."""
    (tmp_path / "shout.py").write_text(
        "summary = 'say it loudly'\ndef main(argv):\n    print(*argv, sep='! ')\n    return 5\n"
    )
    metadata = tmp_path / "shout-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shout\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[modellink_rm.commands]\nshout = shout\nbroken = no_such\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    COMMANDS._entries.pop("shout", None)


@pytest.mark.usefixtures("with_plug_ins")
def test_an_installed_package_adds_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "shout", "a", "b") == 5
    assert capsys.readouterr().out == "a! b\n"


@pytest.mark.usefixtures("with_plug_ins")
def test_a_package_that_cannot_be_imported_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch) == 0
    told = capsys.readouterr().out
    assert "shout       say it loudly" in told
    assert "broken      (cannot be used: command broken: no_such of an installed package cannot be" in told
    assert "score       score responses" in told


def test_an_unknown_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "scor") == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'scor'; did you mean score?")
