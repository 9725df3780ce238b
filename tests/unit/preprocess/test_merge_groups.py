"""Indexed files that are merged by key belong into one data set, and are what was written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modellink_rm.base import files
from modellink_rm.base.errors import run_command
from modellink_rm.commands.preprocess import main
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.indexed import idx_path
from modellink_rm.dataset.manifest import PAIR_ARRAYS, array_prefix, data_files, manifest_path
from modellink_rm.preprocess.parts import parts_path
from tests.tiny_data import write_tokenizer

KEYS = [f"packed_{array}_document" for array in PAIR_ARRAYS]
Make = Callable[..., None]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes a data set of two pairs, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    write_tokenizer(tmp_path / "tokenizer")

    def written(prefix: str, template: str = "llama2", *flags: str, **fields: object) -> None:
        rows = [{"instruction": f"{prefix} {n}", "chosen": "a", "rejected": "b", **fields} for n in range(2)]
        Path("in.jsonl").write_text("\n".join(map(json.dumps, rows)))
        words = f"--input in.jsonl --handler-name AlpacaStylePairwiseHandler --prompt-type {template}"
        words += f" --tokenizer-name-or-path tokenizer --output-prefix {prefix}"
        assert run_command(main, [*words.split(), *flags]) == 0

    return written


def merge(output: str = "out/x", keys: list[str] = KEYS) -> int:
    words = ["--merge-group-keys", *keys, "--input", "in", "--output-prefix", output]
    return run_command(main, words)


def test_data_sets_of_another_template_are_not_merged(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("in/a")
    make("in/b", "mistral_v1")
    assert merge() == 2
    assert "in/b and in/a were made with different templates (--prompt-type)" in capsys.readouterr().err
    assert not list(Path("out").glob("x_*"))


def test_data_sets_of_another_tokenizer_are_not_merged(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("in/a")
    write_tokenizer(tmp_path / "tokenizer", vocab_size=290)
    make("in/b")
    assert merge() == 2
    assert "in/b and in/a were made with different tokenizers" in capsys.readouterr().err


def test_other_lengths_and_data_of_another_tool_are_merged_and_told(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make("in/a", "llama2", "--seq-length", "64")
    make("in/b", "llama2", "--seq-length", "32")
    make("in/c")
    manifest_path(Path("in/c")).unlink()
    capsys.readouterr()
    assert merge() == 0
    told = capsys.readouterr().err
    assert "the data sets were made with different --seq-length; the merged one holds rows of all" in told
    assert "in/c: no manifest says whether the tokenizer and the template are those of in/a" in told
    assert len(open_dataset(Path("out/x"))) == 6


def test_a_flipped_bit_is_not_merged(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("in/a")
    path = data_files(Path("in/a"))[0]
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    assert merge() == 2
    assert f"{path} has changed since it was written" in capsys.readouterr().err


def test_a_data_set_that_is_being_written_is_not_merged(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make("in/a")
    manifest_path(Path("in/a")).write_text(json.dumps({"format_version": 2, "unfinished": True}))
    assert merge() == 2
    assert "the data set is being written" in capsys.readouterr().err


def test_rows_of_different_data_sets_are_not_joined(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("in/a")
    make("in/b")
    for prefix, array in zip(("in/a", "in/a", "in/b", "in/b"), PAIR_ARRAYS, strict=True):
        idx_path(array_prefix(Path(prefix), array)).unlink()
    assert merge() == 2
    assert "merge files of the same data sets" in capsys.readouterr().err
    assert merge(keys=["input_ids"]) == 2
    assert "of several arrays, chosen_input_ids, rejected_input_ids" in capsys.readouterr().err


def test_margins_of_an_earlier_data_set_do_not_stay_beside_merged_pairs(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make("out/x", "llama2", "--map-keys", '{"margin": "margin"}', margin=2.0)
    make("in/a")
    assert merge() == 2
    assert "is a data set that has x_packed_margin_document.idx too" in capsys.readouterr().err
    manifest_path(Path("out/x")).unlink()
    assert merge() == 0
    assert "warning: x_packed_margin_document.idx, of an earlier merge, stays" in capsys.readouterr().err


def test_one_run_at_a_time_merges_to_a_prefix_and_removes_what_a_killed_one_left(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs gave their files names in turns; what a killed one had written stayed for good."""
    monkeypatch.setattr(files, "SECONDS_FOR_A_DYING_RUN", 0)
    make("in/a")
    Path("out").mkdir()
    left = Path("out") / f".x_{KEYS[0]}.bin.123.0.tmp"
    left.touch()
    with files.exclusive(parts_path(Path("out/x")), "held"):
        assert merge() == 2
    assert "--output-prefix out/x: another run is writing it" in capsys.readouterr().err
    assert merge() == 0
    names = {f"x_{key}{suffix}" for key in KEYS for suffix in (".bin", ".idx")}
    assert {path.name for path in Path("out").iterdir()} == names
