"""A run that is killed while it overwrites a data set leaves the old one, the new one, or a refusal."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.commands.preprocess import main
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.manifest import PAIR_ARRAYS

# The answers have as many tokens: files of both have the same sizes.
ANSWERS = {"old": ("good", "bad"), "new": ("fair", "low")}


@pytest.fixture
def overwrite(tmp_path: Path, sentencepiece_path: Path) -> Callable[[str], int]:
    """Writes `tmp_path/x` with the answers of that name."""

    def run(name: str) -> int:
        chosen, rejected = ANSWERS[name]
        records = [{"instruction": f"q{i}", "chosen": chosen, "rejected": rejected} for i in range(30)]
        (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
        words = f"--input {tmp_path}/in.jsonl --output-prefix {tmp_path}/x --workers 1 --prompt-type llama2"
        words += f" --handler-name AlpacaStylePairwiseHandler --tokenizer-model {sentencepiece_path}"
        return run_command(main, words.split())

    return run


def killed_at_rename(number: int, run: Callable[[], object]) -> bool:
    """Whether a child that runs this was killed at its rename of that number, counted from 0."""
    child = os.fork()
    if child == 0:
        replace, count = os.replace, iter(range(1 << 20))

        def counted(source: object, target: object) -> None:
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)  # type: ignore[arg-type]

        os.replace = counted  # type: ignore[assignment]
        try:
            run()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def rows_of(prefix: Path) -> list[list[list[int]]]:
    dataset = open_dataset(prefix)
    return [[one.input_ids.tolist() for one in dataset.rows.responses(row)] for row in range(len(dataset))]


def outcome(prefix: Path, whole: dict[str, list[list[list[int]]]]) -> str:
    """Which of the data sets is there, or how it is refused."""
    try:
        rows = rows_of(prefix)
    except UserError as error:
        return "refused" if "the run that wrote it was stopped within" in str(error) else str(error)
    return next(name for name in whole if whole[name] == rows)


def test_a_kill_at_any_rename_leaves_old_new_or_a_refusal(
    overwrite: Callable[[str], int], tmp_path: Path
) -> None:
    whole = {}
    for name in ANSWERS:
        assert overwrite(name) == 0
        whole[name] = rows_of(tmp_path / "x")
    assert whole["old"] != whole["new"]
    outcomes = []
    for number in range(100):
        assert overwrite("old") == 0
        if not killed_at_rename(number, lambda: overwrite("new")):
            break
        outcomes.append(outcome(tmp_path / "x", whole))
    num_files = 8 + 2
    assert outcomes == ["old", *["refused"] * num_files]
    assert overwrite("new") == 0  # over what is left
    assert rows_of(tmp_path / "x") == whole["new"]


def test_a_kill_in_a_first_run_leaves_no_data_of_another_tool(
    overwrite: Callable[[str], int], tmp_path: Path
) -> None:
    assert killed_at_rename(9, lambda: overwrite("old"))  # all but the checksums and the manifest
    with pytest.raises(UserError, match="stopped within"):
        open_dataset(tmp_path / "x")


def test_a_kill_while_files_are_merged_leaves_a_refusal(
    overwrite: Callable[[str], int], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    keys = [f"packed_{name}_document" for name in PAIR_ARRAYS]
    words = ["--merge-group-keys", *keys, "--input", f"{tmp_path}/in", "--output-prefix", f"{tmp_path}/both"]
    for name in ANSWERS:
        assert overwrite(name) == 0
        for path in tmp_path.glob("x_*_document.*"):
            shutil.copy(path, tmp_path / "in")
        if name == "old":
            assert run_command(main, words) == 0
    before = rows_of(tmp_path / "both")
    assert killed_at_rename(5, lambda: run_command(main, words))
    with pytest.raises(UserError, match="stopped within"):
        open_dataset(tmp_path / "both")
    assert run_command(main, words) == 0
    assert rows_of(tmp_path / "both") == rows_of(tmp_path / "x") != before
