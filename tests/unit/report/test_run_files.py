"""What is read of a run's directory."""

from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.report.run_files import ScoredExample, read_run
from tests.unit.report.runs import NUM_PAIRS, write_run

LINE = (
    '{"iteration": 1, "set": "a", "dataset": "b", "row": 0, "source": "", "scores": [1.0], "ranks": %s, '
    '"num_tokens": [3]}'
)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert run.name == "run"
    assert len(run.scores) == 2 * 3 * NUM_PAIRS
    assert all(isinstance(one, ScoredExample) for one in run.scores)
    assert run.scores[-5].responses[1] == "世界"
    assert run.scores[0].prompt is None
    assert run.about["train_iters"] == 8


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    whole = read_run(directory)
    for name in ("metrics.jsonl", "scores.jsonl"):
        with (directory / name).open("a") as file:
            file.write('{"iteration": 9, "lo')
    assert read_run(directory) == whole


def test_a_run_of_an_earlier_version_has_metrics_alone(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    (directory / "scores.jsonl").unlink()
    (directory / "about.json").unlink()
    run = read_run(directory)
    assert run.scores == ()
    assert run.about == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", None, "holds no metrics.jsonl: give the --save of a run"),
        ("metrics.jsonl", "", "has no row yet"),
        ("metrics.jsonl", "[1]\n", "metrics.jsonl:1 holds no JSON object"),
        ("scores.jsonl", '{"iteration": 1}\n', "scores.jsonl:1 is no line of scores"),
        ("scores.jsonl", '{"iteration": "1"}\n', "scores.jsonl:1 is no line of scores"),
        ("scores.jsonl", "\xff\n", "scores.jsonl:1 holds no JSON object"),
        ("scores.jsonl", f"{LINE % '[1, 2]'}\n", "scores.jsonl:1 is no line of scores"),
        ("scores.jsonl", f"{LINE % '[]'}\n", "scores, ranks, num_tokens and responses are not equally many"),
        (
            "best.json",
            '{"iteration": 1, "metric": "m", "value": 1' + "0" * 400 + "}",
            "best.json is damaged (int too large",
        ),
        ("about.json", "{", "about.json holds no JSON object"),
        ("about.json", '{"train_iters": "8"}', "about.json is not what a run writes"),
        ("about.json", '{"flags": []}', "about.json is not what a run writes"),
    ],
)
def test_odd_files_are_one_line(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    (directory / name).unlink(missing_ok=True)
    if content is not None:
        (directory / name).write_text(content, encoding="latin-1")
    with pytest.raises(UserError) as refused:
        read_run(directory)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
