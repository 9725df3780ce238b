"""The rule and the questions of examples/study.sh."""

import json
import random
from pathlib import Path

import pytest

from examples.study_task import answer, judge, questions, rule_score

ROW = {"verb": "paint", "thing": "boat"}
STEP, OTHER_STEP = "Wipe the boat with a dry cloth.", "Then paint the boat slowly."


@pytest.mark.parametrize(
    ("text", "score", "is_good"),
    [
        (f"{STEP} {OTHER_STEP}", 2, True),
        (f"{STEP} {STEP}", 1, True),  # said twice
        (f"{STEP} It depends on a lot of things.", 0, False),
        ("Wipe the clock with a dry cloth.", -1, False),  # of something else
        (f"{STEP} Then paint", 0, False),  # cut
        ("", 0, False),
    ],
)
def test_the_rule_counts_steps_and_takes_off_what_is_none(text: str, score: int, is_good: bool) -> None:
    assert rule_score(ROW, text) == (score, is_good)


def test_held_out_questions_are_about_other_pairs_of_words_that_training_knows() -> None:
    rows = questions(5)
    parts = {name: [row for row in rows if row["set"] == name] for name in ("train", "held-out")}
    assert len(parts["held-out"]) * 4 == len(parts["train"]) == 240
    both = {name: {(row["verb"], row["thing"]) for row in part} for name, part in parts.items()}
    assert not both["train"] & both["held-out"]
    for key in ("verb", "thing"):
        assert {row[key] for row in parts["held-out"]} <= {row[key] for row in parts["train"]}
    assert questions(5) == rows != questions(6)


def test_few_answers_that_the_base_model_learns_from_are_good() -> None:
    rng = random.Random(3)
    good = [rule_score(ROW, answer("paint", "boat", rng))[1] for _ in range(2000)]
    assert 0.15 < sum(good) / 2000 < 0.35


def test_answers_with_line_ends_of_other_scripts_are_judged(tmp_path: Path) -> None:
    """`generate` writes UTF-8, in which a line of JSON may hold them as they are."""
    row = {**ROW, "set": "held-out", "responses": [f"{STEP} {OTHER_STEP}", f"{STEP}\u2028\x85"]}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    judge(tmp_path / "answers.jsonl", tmp_path / "judged.jsonl")
    (judged,) = map(json.loads, (tmp_path / "judged.jsonl").read_text().splitlines())
    assert judged["scores"][0] == 2
