"""benchmarks/parity.py says in one line what it lacks."""

import sys
from pathlib import Path

import pytest

from benchmarks.parity import main
from modellink_rm.base.errors import UserError


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a script's own directory, as when it is run."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--reference is needed"),
        ("--reference .", "--data is needed"),
        ("--families qwen3", "--families needs --peer-python trl=PATH"),
        (f"--families qwen3 --peer-python orlhf={sys.executable}", "--families needs --peer-python trl=PATH"),
        ("--losses", "--losses openrlhf=PATH too; got nothing"),
        (f"--losses hinge --peer-python trl={sys.executable}", "loss of --losses 'hinge'"),
        (f"--families nonsuch --peer-python trl={sys.executable}", r"--families nonsuch: .*choices: llama-2"),
        (f"--families internlm2 --peer-python trl={sys.executable}", "--families internlm2: "),
    ],
)
def test_missing_or_wrong_argument_is_named(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(words.split())
