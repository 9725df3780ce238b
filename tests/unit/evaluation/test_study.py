"""The study of scored answers: what is read, what is said, and what is refused."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.commands.study import main
from modellink_rm.config.study import StudyConfig
from modellink_rm.evaluation.read_answers import read_study
from modellink_rm.evaluation.study_table import study_json
from modellink_rm.report.answer_sets import Study
from tests.unit.report.runs import HOSTILE

NUM_PROMPTS = 40


def write_scores(path: Path, *, gain: float, longer: int, seed: int, tokens: bool = True) -> Path:
    """What `score` writes of two answers to each prompt, 30 of the set train and 10 held out.

    Args:
        gain: of the score, above 0.1 a token.
        longer: tokens more than about 20.
    """
    generator = random.Random(seed)
    rows = []
    for number in range(NUM_PROMPTS):
        lengths = [20 + longer + generator.randint(-8, 8) for _ in range(2)]
        row: dict[str, Any] = {
            "set": "train" if number < 30 else "held-out",
            "prompt": f"question {number} {HOSTILE}",
            "responses": [f"answer of {length} words <b>" for length in lengths],
            "scores": [0.1 * length + gain + generator.uniform(-0.2, 0.2) for length in lengths],
        }
        if tokens:
            row |= {"num_tokens": lengths, "ended": [True, lengths[1] < 30]}
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_scores(tmp_path / "base.jsonl", gain=0.0, longer=0, seed=1)


def numbers_of(base: Path, tuned: Path) -> Study:
    answers = (f"base={base}", f"tuned={tuned}")
    return read_study(StudyConfig(answers=answers, output="study.html"))


def study(base: Path, tuned: Path, flags: str = "") -> tuple[int, dict, str]:
    """The exit code, the results and the page."""
    output, results = base.parent / "study.html", base.parent / "study.json"
    words = f"--answers base={base} tuned={tuned} --output {output} --results {results} {flags}".split()
    code = run_command(main, words)
    return code, json.loads(results.read_text()) if code == 0 else {}, output.read_text() if code == 0 else ""


def test_a_better_policy_wins_and_is_better_at_equal_length(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = write_scores(tmp_path / "tuned.jsonl", gain=1.0, longer=2, seed=2)
    seen = tmp_path / "seen.jsonl"
    seen.write_text('{"chosen_score": 2.9, "rejected_score": 1.0, "margin": 1.9}\n{"score": 2.0}\n')
    code, results, page = study(base, tuned, f"--by set --training-scores {seen}")
    assert code == 0
    assert results["unit"] == "tokens"
    assert results["seen"] == [1.0, 2.9]
    assert [(one["name"], one["policy"], one["num_answers"]) for one in results["summaries"]] == [
        ("train", "base", 60),
        ("train", "tuned", 60),
        ("held-out", "base", 20),
        ("held-out", "tuned", 20),
    ]
    train, held_out = results["comparisons"]
    for one in (train, held_out):
        assert one["win_rate"]["value"] > 0.85
        assert 0.7 < one["at_equal_length"]["difference"]["value"] < 1.3
        assert one["win_rate"]["low"] <= one["win_rate"]["value"] <= one["win_rate"]["high"]
    first = results["summaries"][1]
    rows = [json.loads(line) for line in tuned.read_text().splitlines()[:30]]
    above = [score > 2.9 for row in rows for score in row["scores"]]
    assert first["above"] == pytest.approx(sum(above) / 60)
    assert first["explained_by_length"] > 0.5
    assert "train, tuned against base" in capsys.readouterr().out
    assert page.count("<svg ") == 6
    assert "held-out: largest gains of tuned" in page
    assert HOSTILE not in page


def test_a_policy_that_is_only_longer_wins_and_is_not_better_at_equal_length(
    base: Path, tmp_path: Path
) -> None:
    tuned = write_scores(tmp_path / "tuned.jsonl", gain=0.0, longer=8, seed=3)
    (one,) = numbers_of(base, tuned).comparisons
    assert one.name == "prompts"
    assert one.win_rate.low > 0.6
    assert one.longer > 0.7
    assert abs(one.at_equal_length.difference.value) < 0.25 < one.score.value


def test_lengths_are_characters_where_a_row_has_no_tokens(base: Path, tmp_path: Path) -> None:
    tuned = write_scores(tmp_path / "tuned.jsonl", gain=0.0, longer=0, seed=3, tokens=False)
    found = numbers_of(base, tuned)
    assert found.unit == "characters"
    assert found.summaries[1].ended is None
    assert found.seen is None


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (lambda rows: rows[::-1], "", "scored prompt 1 of tuned is not that of base"),
        (lambda rows: [{**row, "tools": "[]"} for row in rows], "", "scored prompt 1 of tuned is not that"),
        (lambda rows: rows[:-1], "", "tuned has 39 scored prompts, and base has 40"),
        (
            lambda rows: [{"prompt": rows[0]["prompt"], "error": "x"}, *rows[1:]],
            "",
            "take a prompt that has no score in one file out of all",
        ),
        (lambda rows: [{"prompt": "a", "error": "x"}], "", "holds no scored answer (1 x not scored)"),
        (lambda rows: rows, "--by nothing", "--by nothing: a row has no text there"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(
    change, flags: str, message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = write_scores(tmp_path / "tuned.jsonl", gain=0.0, longer=0, seed=3)
    rows = change([json.loads(line) for line in tuned.read_text().splitlines()])
    tuned.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert study(base, tuned, flags)[0] == 2
    assert message in capsys.readouterr().err


def test_answers_without_their_prompts_are_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = tmp_path / "tuned.jsonl"
    rows = [json.loads(line) for line in base.read_text().splitlines()]
    for path, order in ((base, 1), (tuned, -1)):
        asked = [{**row, "question": row["prompt"], "prompt": None} for row in rows[::order]]
        path.write_text("".join(json.dumps(row) + "\n" for row in asked))
    assert study(base, tuned)[0] == 2
    assert "base.jsonl: scored prompt 1 has no field 'prompt'" in capsys.readouterr().err


def test_the_range_of_training_is_of_all_responses_and_holds_its_ends(base: Path, tmp_path: Path) -> None:
    scores = [score for line in base.read_text().splitlines() for score in json.loads(line)["scores"]]
    seen = tmp_path / "seen.jsonl"
    seen.write_text(json.dumps({"scores": [min(scores), 2.0, max(scores)]}) + "\n")
    answers = (f"base={base}", f"again={base}")
    found = read_study(StudyConfig(answers=answers, output="study.html", training_scores=(str(seen),)))
    assert found.seen == (min(scores), max(scores))
    assert (found.summaries[0].below, found.summaries[0].above) == (0.0, 0.0)


def test_rows_that_nothing_is_said_of_are_told(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that neither policy has a score for would be missing without a word."""
    tuned = write_scores(tmp_path / "tuned.jsonl", gain=0.0, longer=0, seed=3)
    seen = tmp_path / "seen.jsonl"
    seen.write_text('{"score": 2.0, "scores": 5}\n{"error": "x"}\n')
    for path in (base, tuned):
        path.write_text('{"prompt": "a", "error": "x"}\n' + path.read_text())
    answers = (f"base={base}", f"tuned={tuned}")
    read_study(StudyConfig(answers=answers, output="study.html", training_scores=(str(seen),)))
    told = capsys.readouterr().err
    for what in ("--answers base: 1 of 41", "--answers tuned: 1 of 41", "--training-scores: 1 of 2"):
        assert f"{what} rows are left out (1 x not scored)" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", 10**30),
        ("responses", [{"content": None, "n": 10**30}, 7]),
        ("ended", True),
        ("ended", [5, 7]),
        ("ended", ["yes", "no"]),
        ("num_tokens", [10**300, 1]),
    ],
)
def test_odd_values_of_a_row_are_passed_over(name: str, value: Any, base: Path, tmp_path: Path) -> None:
    for path in (base, tmp_path / "tuned.jsonl"):
        write_scores(path, gain=0.0, longer=0, seed=3)
        with_value(path, name, value)
    found = numbers_of(base, tmp_path / "tuned.jsonl")
    assert found.unit == ("characters" if name == "num_tokens" else "tokens")
    assert (found.summaries[0].ended is None) == (name == "ended")
    assert study_json(found)


def test_a_score_whose_square_is_no_number_is_refused(base: Path) -> None:
    with_value(base, "scores", [1e200, -1e300])
    with pytest.raises(UserError, match=r"base.jsonl holds the score -1e\+300, which no model gives"):
        numbers_of(base, base)


@pytest.mark.parametrize("score", [1e308, 10**308])
def test_a_training_score_that_no_model_gives_is_refused(score: float, base: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.jsonl"
    seen.write_text(json.dumps({"chosen_score": 1.0, "rejected_score": score}))
    config = StudyConfig(
        answers=(f"a={base}", f"b={base}"), output="study.html", training_scores=(str(seen),)
    )
    with pytest.raises(UserError, match=r"--training-scores .*seen.jsonl holds the score .*no model gives"):
        read_study(config)


def with_value(path: Path, name: str, value: Any) -> None:
    """Give the fourth row another value."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3][name] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("a=x", "--answers takes two policies or more, got a"),
        ("a=x a=y", "--answers: two policies have one name, got a, a"),
        ("a=x b", "--answers takes NAME=PATH, got 'b'"),
    ],
)
def test_policies_that_are_not_named_are_refused(
    answers: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, f"--answers {answers} --output out.html".split()) == 2
    assert message in capsys.readouterr().err
