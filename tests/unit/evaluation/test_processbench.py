"""ProcessBench's rows and F1, against numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from modellink_rm.evaluation.benchmarks.processbench import RowLabel, read_row, score
from modellink_rm.records import RecordError

FILE = Path("gsm8k.json")
FIELDS = {
    "id": "gsm8k-0",
    "generator": "Qwen2-7B-Instruct",
    "problem": "p",
    "steps": ["a", "b"],
    "final_answer_correct": False,
    "label": 1,
}


def test_row_is_a_problem_with_steps_and_its_first_error():
    row = read_row(FIELDS, FILE)
    assert (row.prompt, row.responses, row.is_stepwise) == ("p", ("a", "b"), True)
    assert row.label == RowLabel(subset="gsm8k", first_error=1)


@pytest.mark.parametrize(
    "fields",
    [{"id": "aime-0"}, {"label": 2}, {"label": -2}, {"label": None}, {"label": True}, {"steps": "a"}],
)
def test_row_of_another_form_is_refused(fields):
    with pytest.raises(RecordError):
        read_row({**FIELDS, **fields}, FILE)


def rows(subset, *pairs):
    labels = [RowLabel(subset=subset, first_error=error) for error, _ in pairs]
    return labels, [np.array(probabilities) for _, probabilities in pairs]


def test_f1_is_the_harmonic_mean_of_both_accuracies_and_the_overall_their_mean():
    labels, scores = rows(
        "gsm8k",
        (1, [0.9, 0.5, 0.1]),  # found: one half is wrong, as argmax of two equal logits is the first label
        (0, [0.9, 0.2]),  # another one
        (2, [0.9, 0.9, 0.51]),  # none
        (0, [0.1, 0.1]),  # found
        (-1, [0.9, 0.6]),  # right
        (-1, [0.6, 0.4]),  # wrong
        (-1, [0.9]),  # right
    )
    more_labels, more_scores = rows("math", (0, [0.4]), (-1, [0.4]))
    result = score(labels + more_labels, scores + more_scores)
    f1 = 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)
    assert [(part.name, part.value, part.num_rows) for part in result.parts["F1"]] == [
        ("gsm8k", pytest.approx(f1), 7),
        ("math", 0.0, 2),
    ]
    assert result.parts["with an error"][0].value == 0.5
    assert result.parts["without"][0].value == pytest.approx(2 / 3)
    assert result.overall == pytest.approx(f1 / 2)
    assert result.credits.tolist() == [1, 0, 0, 1, 1, 0, 1, 1, 0]
    assert result.notes == ("subsets without rows: olympiadbench, omnimath",)
    assert result.weights is None


def test_subset_of_one_kind_of_solutions_has_an_f1_of_zero():
    assert score(*rows("omnimath", (0, [0.1]))).overall == 0.0
