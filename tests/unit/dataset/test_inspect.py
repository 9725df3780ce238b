import json
import subprocess
import sys
from pathlib import Path

import pytest

from modellink_rm.base.errors import run_command
from modellink_rm.commands.inspect import main
from modellink_rm.commands.preprocess import main as preprocess_main
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.inspect import COLOURED, PLAIN, marked_text
from modellink_rm.dataset.manifest import manifest_path
from tests.unit.conftest import train_sentencepiece


@pytest.fixture
def prefix(tmp_path: Path, sentencepiece_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "in.jsonl"
    records = [
        {"instruction": "hello there", "chosen": "I am </s> fine", "rejected": "no"},
        {"instruction": "hello there", "chosen": "fine", "rejected": "fine"},
        {"instruction": "q"},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    words = ["--input", str(path), "--output-prefix", str(tmp_path / "x"), "--prompt-type", "llama2"]
    words += ["--handler-name", "AlpacaStylePairwiseHandler", "--tokenizer-model", str(sentencepiece_path)]
    assert run_command(preprocess_main, words) == 0
    capsys.readouterr()
    return tmp_path / "x"


def test_rows_are_decoded_with_control_tokens_and_the_scored_token_marked(
    prefix: Path, sentencepiece_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(prefix), "--rows", "1", "--tokenizer-model", str(sentencepiece_path)]
    assert run_command(main, words) == 0
    output = capsys.readouterr().out
    assert "--- row 0: prompt" in output
    assert "\n[<s> 1][INST] hello there [/INST]\n" in output
    assert "\nI am </s> fine>>[</s> 2]<<\n" in output  # what a text spells is not marked
    assert "\nno>>[</s> 2]<<\n" in output
    assert "--- row 1" not in output
    assert "\x1b" not in output


def test_texts_and_sources_give_a_terminal_no_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "tokenizer.model"
    model.write_bytes(train_sentencepiece(normalization_rule_name="identity"))
    record = {"instruction": "a\x1b[2J", "chosen": "a", "rejected": "b", "from": "\x1b]0;"}
    (tmp_path / "in.jsonl").write_text(json.dumps(record))
    words = f"--input {tmp_path}/in.jsonl --output-prefix {tmp_path}/x --prompt-type llama2 --tokenizer-model"
    words += f' {model} --handler-name AlpacaStylePairwiseHandler --map-keys {{"source":"from"}}'
    assert run_command(preprocess_main, words.split()) == 0
    assert run_command(main, f"{tmp_path}/x --rows 1 --tokenizer-model {model}".split()) == 0
    output = capsys.readouterr().out
    assert ", source \\x1b]0;\n" in output
    assert "[INST] a\\x1b[2J [/INST]" in output


def test_the_report_counts_what_was_kept_dropped_and_found(
    prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, [str(prefix), "--rows", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "records read   3" in lines
    assert "pairs kept     2" in lines
    assert "dropped        1 field 'chosen' is missing" in lines
    assert "kept, though   1 with equal responses" in lines
    assert (
        "checks found   equal 1, empty 0, long-prompt 0, long-answer 0, special-tokens 1, duplicate 0"
        in lines
    )
    assert any(line.split()[0] == "0-31" and int(line.split()[1]) == 4 for line in lines if line.split())
    assert sum(line.startswith("sha256 ") for line in lines) == 9


@pytest.mark.parametrize("load", ["iter_0000002", "."])
def test_a_checkpoint_gives_its_tokenizer(load: str, capsys: pytest.CaptureFixture[str]) -> None:
    fixture = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1"
    words = [str(fixture / "data"), "--load", str(fixture / load), "--rows", "1"]
    assert run_command(main, words) == 0, capsys.readouterr().err
    assert ">>[</s> 2]<<" in capsys.readouterr().out


def test_without_a_tokenizer_ids_are_shown(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--data-path", str(prefix), "--first-row", "1", "--rows", "9"]) == 0
    output, told = capsys.readouterr()
    assert "row 0" not in output
    assert output.count(" >>2<<\n") == 2
    assert "--load DIR or --tokenizer-name-or-path DIR shows their text" in told


def test_a_first_row_after_the_last_one_is_refused(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    num_rows = len(open_dataset(prefix))
    assert run_command(main, [str(prefix), "--first-row", str(num_rows)]) == 2
    output = capsys.readouterr()
    assert f"--first-row {num_rows} must be below the number of rows of {prefix}" in output.err
    assert output.out == ""


def test_data_of_another_tool_is_shown_without_a_report(
    prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest_path(prefix).unlink()
    assert run_command(main, [str(prefix)]) == 0
    assert "--- row 1: rejected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "is missing: --data-path"),
        (["--rows", "-1"], "--rows must not be negative"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    assert run_command(main, [str(tmp_path / "none"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_another_tokenizer_is_refused(
    prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.model"
    other.write_bytes(train_sentencepiece(normalization_rule_name="identity"))
    assert run_command(main, [str(prefix), "--tokenizer-model", str(other)]) == 2
    assert "made with another tokenizer" in capsys.readouterr().err


def test_a_terminal_gets_colours_around_the_same_text() -> None:
    for marks in (PLAIN, COLOURED):
        before, after = marks.scored
        assert marked_text([5, 6], None, marks, is_scored=True) == f"5 {before}6{after}"


def test_inspect_is_a_command_of_the_package(prefix: Path) -> None:
    command = [sys.executable, "-m", "modellink_rm", "inspect", str(prefix)]
    root = Path(__file__).parents[3]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "pairs kept     2" in result.stdout
