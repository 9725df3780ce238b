"""`evaluate` on held-out sets: its numbers are those of `score`, and its mistakes are one line."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from modellink_rm.base.errors import run_command
from tests.distributed import Workers

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"
WORDS = ["the", "a", "cat", "dog", "sun", "moon", "tree", "river", "stone", "bird", "sings", "runs", "sleeps"]
PAIRS = [
    {
        "prompt": f"{WORDS[number % 13]} {WORDS[number * 5 % 13]}",
        "chosen": " ".join(WORDS[: 1 + number % 4]),
        "rejected": " ".join(WORDS[number % 3 : 3 + number % 5]),
        "from": "web" if number % 3 else "code",
        "strength": number % 2 + 1,
    }
    for number in range(11)
]
HANDLER = [
    "--handler-name",
    "OpenAiMessagesPairwiseHandler",
    "--map-keys",
    '{"source": "from", "margin": "strength"}',
]


def run(command: str, argv: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    from modellink_rm.commands import evaluate, score

    main = {"evaluate": evaluate, "score": score}[command].main
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
        code = run_command(main, argv)
    return code, out.getvalue(), err.getvalue()


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def test_numbers_are_those_of_the_scores(workers: Workers, tmp_path: Path) -> None:
    tie = {"prompt": "the", "chosen": "cat", "rejected": "cat", "from": "code", "strength": 1}
    pairs = write(tmp_path / "pairs.jsonl", [*PAIRS, tie])
    common = [f"--load={CHECKPOINT}", *HANDLER]
    argv = [*common, "--input", str(pairs), "--output", str(tmp_path / "scores.jsonl")]
    ((code, told, _),) = workers.run(run, 1, "score", argv)
    assert code == 0
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    argv = [*common, "--data", f"held-out={pairs}", "--output", str(tmp_path / "results.json")]
    ((code, table, errors),) = workers.run(run, 1, "evaluate", argv)
    assert code == 0, errors
    (model,) = json.loads((tmp_path / "results.json").read_text())["models"]
    (found,) = model["sets"]
    expected = sum((row["margin"] > 0) + 0.5 * (row["margin"] == 0) for row in scores) / 12
    assert found["accuracy"]["value"] == pytest.approx(expected)
    assert f"accuracy: {expected:.4f}" in told
    assert found["ties"] == sum(row["margin"] == 0 for row in scores) == 1
    assert found["margin"] == pytest.approx(sum(row["margin"] for row in scores) / 12)
    longer = [len(str(one["chosen"])) - len(str(one["rejected"])) for one in [*PAIRS, tie]]
    assert found["longer_accuracy"] == pytest.approx(sum((d > 0) + 0.5 * (d == 0) for d in longer) / 12)
    assert [(one["name"], one["num_pairs"]) for one in found["by_source"]] == [("code", 5), ("web", 7)]
    assert [(one["name"], one["num_pairs"]) for one in found["by_margin"]] == [("1", 7), ("2", 5)]
    assert found["swap"]["num_pairs"] == 12
    assert found["swap"]["swapped_accuracy"] == pytest.approx(1 - expected)
    assert found["swap"]["largest_difference"] < 1e-5
    assert f"{expected:.4f}" in table
    assert max(len(line) for line in table.splitlines() if str(CHECKPOINT) not in line) <= 100


def test_records_that_are_no_pair_are_named_and_counted(workers: Workers, tmp_path: Path) -> None:
    bad = [{"prompt": "the", "response": "cat"}, {"prompt": "the", "chosen": "cat", "rejected": 3}]
    pairs = write(tmp_path / "pairs.jsonl", [*PAIRS, *bad])
    argv = [f"--load={CHECKPOINT}", *HANDLER[:2], "--data", f"a={pairs}", f"--output={tmp_path}/results.json"]
    ((code, _, errors),) = workers.run(run, 1, "evaluate", argv)
    assert code == 1
    assert f"{pairs}:12: field 'chosen' is missing" in errors
    (found,) = json.loads((tmp_path / "results.json").read_text())["models"][0]["sets"]
    assert found["num_pairs"] == 11
    assert found["records"]["total"] == 13
    assert sum(found["records"]["not_scored"].values()) == 2


def test_a_set_without_a_pair_is_one_line(workers: Workers, tmp_path: Path) -> None:
    responses = write(tmp_path / "responses.jsonl", [{"prompt": "the", "response": "cat"}])
    argv = [f"--load={CHECKPOINT}", "--data", f"a={responses}"]
    ((code, _, errors),) = workers.run(run, 1, "evaluate", argv)
    assert code == 2
    assert f"error: --data a={responses}: no pair has scores (1 not a pair)" in errors.splitlines()


def test_models_are_compared_on_the_same_pairs(workers: Workers, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", PAIRS[:6])
    write(tmp_path / "test.jsonl", PAIRS[6:])
    argv = [f"--load={CHECKPOINT}", "--compare", str(CHECKPOINT), *HANDLER, "--data", f"a={tmp_path}"]
    ((code, table, errors),) = workers.run(run, 1, "evaluate", argv)
    assert code == 0, errors
    (told,) = (line for line in errors.splitlines() if "splits" in line)
    assert told.startswith("warning: --data a: the splits test, train are read together; ")
    assert f"{CHECKPOINT} minus {CHECKPOINT}" in table
    assert table.splitlines()[-1].split() == ["a", "11", "+0.0000", "+0.0000", "to", "+0.0000", "0", "0", "1"]


def run_on_a_full_disk(argv: list[str]) -> tuple[int, str, str]:
    """As `run`, without room for --output."""
    from unittest.mock import patch

    with patch("modellink_rm.commands.evaluate.write_whole", side_effect=OSError(28, "No space", "x.json")):
        return run("evaluate", argv)


def test_results_are_printed_where_the_disk_has_no_room_for_them(workers: Workers, tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", PAIRS[:3])
    argv = [f"--load={CHECKPOINT}", *HANDLER, "--data", f"a={pairs}", f"--output={tmp_path}/x.json"]
    ((code, table, errors),) = workers.run(run_on_a_full_disk, 1, argv)
    assert (code, errors.splitlines()[-1]) == (
        2,
        "error: x.json: no space; free some space, or write elsewhere",
    )
    assert table.splitlines()[-1].startswith("a: records 3 | ")


def run_while_written_to(argv: list[str], path: str) -> tuple[int, str, str]:
    """As `run`, with a record more in the file once the first model has read it."""
    from unittest.mock import patch

    from modellink_rm.evaluation import evaluate

    score_set = evaluate.score_set  # type: ignore[attr-defined]

    def and_write(*arguments: Any, **keywords: Any) -> Any:
        found = score_set(*arguments, **keywords)
        with Path(path).open("a") as file:
            file.write(json.dumps(PAIRS[0]) + "\n")
        return found

    with patch.object(evaluate, "score_set", and_write):
        return run("evaluate", argv)


def test_models_are_not_compared_on_a_file_that_changes(workers: Workers, tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", PAIRS)
    argv = [f"--load={CHECKPOINT}", "--compare", str(CHECKPOINT), *HANDLER, "--data", f"a={pairs}"]
    ((code, _, errors),) = workers.run(run_while_written_to, 1, argv, str(pairs))
    assert code == 2
    assert "error: a file of --data was changed while it was evaluated: evaluate again" in errors


def test_benchmark_is_scored_as_the_same_pairs_are(workers: Workers, tmp_path: Path) -> None:
    subsets = ["hep-go", "donotanswer", "math-prm"]
    rows = [{**pair, "subset": subsets[number % 3]} for number, pair in enumerate(PAIRS)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "filtered.parquet")
    pairs = write(tmp_path / "pairs.jsonl", PAIRS)
    argv = [f"--load={CHECKPOINT}", *HANDLER, "--input", str(pairs), "--output", f"{tmp_path}/scores.jsonl"]
    workers.run(run, 1, "score", argv)
    wins = [json.loads(line)["margin"] > 0 for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    shares = [sum(wins[start::3]) / len(wins[start::3]) for start in range(3)]
    argv = [f"--load={CHECKPOINT}", f"--benchmark=rewardbench={tmp_path}/filtered.parquet"]
    argv += ["--compare", str(CHECKPOINT), f"--output={tmp_path}/results.json"]
    ((code, table, errors),) = workers.run(run, 1, "evaluate", argv)
    assert code == 0, errors
    results = json.loads((tmp_path / "results.json").read_text())
    (found,) = results["models"][0]["benchmarks"]
    assert (found["name"], found["num_rows"], found["truncated"]) == ("rewardbench", 11, 0)
    reasoning = (164 * shares[0] + 984 * shares[2]) / (164 + 984)
    assert found["overall"] == pytest.approx((reasoning + shares[1]) / 4)
    assert found["interval"]["low"] <= found["overall"] <= found["interval"]["high"]
    assert f"{found['overall']:.4f}" in table
    assert results["comparisons"][0]["benchmarks"][0]["difference"]["p_value"] == 1.0
    assert max(len(line) for line in table.splitlines() if str(CHECKPOINT) not in line) <= 100


def test_records_of_the_training_data_are_named(workers: Workers, tmp_path: Path) -> None:
    long = " ".join(WORDS)
    held_out = [*PAIRS, {"prompt": f"say {long}", "chosen": "a", "rejected": "b"}]
    pairs = write(tmp_path / "pairs.jsonl", held_out)
    training = write(tmp_path / "training.jsonl", [{"prompt": long, "chosen": "c", "rejected": "d"}])
    argv = [f"--load={CHECKPOINT}", *HANDLER[:2], f"--data=a={pairs}", f"--training-data={training}"]
    ((code, table, errors),) = workers.run(run, 1, "evaluate", [*argv, f"--output={tmp_path}/results.json"])
    assert code == 0, errors
    results = json.loads((tmp_path / "results.json").read_text())
    (found,) = results["overlaps"]
    assert (found["name"], found["num_items"], found["places"]) == ("a", 12, [f"{pairs}:12"])
    accuracy = results["models"][0]["sets"][0]["accuracy"]["value"]
    assert (found["accuracy"] + 11 * found["others_accuracy"]) / 12 == pytest.approx(accuracy)
    assert table.splitlines()[-1].split()[:3] == ["a", "12", "1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "nothing to evaluate: give --data NAME=PATH, as in --data held-out=pairs.jsonl, or --bench"),
        ("--data pairs.jsonl", "--data pairs.jsonl: give NAME=PATH, the name of letters, digits and _.+-"),
        ("--data a=gone.jsonl", "--data a: gone.jsonl does not exist"),
        ("--data a=x.jsonl --data a=x.jsonl", "--data names a twice; a directory or a glob makes one set"),
        ("--data a=empty.jsonl", "--data a=empty.jsonl holds no record"),
        (
            "--data a=x.jsonl --output x.jsonl",
            "--output x.jsonl: x.jsonl is x.jsonl, which this command reads",
        ),
    ],
)
def test_a_mistake_is_one_line_before_a_model_is_loaded(
    flags: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from modellink_rm.commands.evaluate import main

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.jsonl", PAIRS)
    (tmp_path / "empty.jsonl").touch()
    assert run_command(main, ["--load", "nowhere", *flags.split()]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


def test_a_normalization_is_not_written_into_a_checkpoint_that_another_one_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of the first were taken for those of the second, without a word."""
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path / CHECKPOINT.name))
    pairs = write(tmp_path / "pairs.jsonl", PAIRS)
    scores = {"chosen_score": 1.0, "chosen_std": 1.0, "rejected_score": 0.0, "rejected_std": 1.0}
    of_set = SimpleNamespace(name="held-out", num_pairs=11, **scores)
    model = SimpleNamespace(load=str(checkpoint), sets=[of_set], num_not_scored=0)
    replaces = [False]

    def evaluate(*arguments: Any, **options: Any) -> Any:
        if replaces[0]:  # by a run that was taken back
            files = checkpoint / "files.json"
            files.write_bytes(files.read_bytes() + b" ")
        return SimpleNamespace(models=[model])

    monkeypatch.setattr("modellink_rm.evaluation.evaluate.evaluate", evaluate)
    monkeypatch.setattr("modellink_rm.commands.evaluate.lines_of", lambda results: [])
    argv = [f"--load={checkpoint}", f"--data=held-out={pairs}", "--write-normalization=held-out", *HANDLER]
    assert run("evaluate", argv)[0] == 0
    (checkpoint / "normalization.json").unlink()
    replaces[0] = True
    code, _, errors = run("evaluate", argv)
    assert code == 2
    assert "was written anew while it was evaluated" in errors
    assert not (checkpoint / "normalization.json").exists()
