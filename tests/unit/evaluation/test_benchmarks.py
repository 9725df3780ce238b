"""The formulas of benchmarks, against numbers worked out by hand and the vectors of their sources."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.evaluation.benchmarks import judgebench, rewardbench, rewardbench2, rm_bench
from modellink_rm.evaluation.benchmarks.benchmark import BENCHMARKS, BenchmarkScore
from modellink_rm.evaluation.benchmarks.ppe_correctness import best_of_k
from modellink_rm.evaluation.inputs import named_inputs
from modellink_rm.evaluation.read_benchmarks import BenchmarkInput, read_benchmarks
from modellink_rm.evaluation.score_benchmarks import interval_of


def read(name: str, path: Path, records: list[dict[str, Any]] | str) -> BenchmarkInput:
    """The rows of a file of these records."""
    text = records if isinstance(records, str) else "".join(f"{json.dumps(one)}\n" for one in records)
    path.write_text(text)
    (found,) = read_benchmarks(named_inputs("--benchmark", [f"{name}={path}"]))
    return found


def scored(rows: BenchmarkInput, scores: Sequence[Sequence[float]]) -> BenchmarkScore:
    return rows.benchmark.score(
        [row.label for row in rows.rows], [np.array(one, dtype=np.float64) for one in scores]
    )


def part(score: BenchmarkScore, kind: str, name: str) -> tuple[Any, int]:
    (found,) = [one for one in score.parts[kind] if one.name == name]
    return found.value, found.num_rows


# RewardBench


def of_rewardbench(subset: str, **fields: Any) -> dict[str, Any]:
    return {
        "prompt": "q",
        "chosen": "good ",
        "chosen_model": "a",
        "rejected": "bad",
        "rejected_model": "b",
        "subset": subset,
        "id": 3,
        **fields,
    }


def test_rewardbench_has_its_published_weights() -> None:
    totals = {section: sum(weights.values()) for section, weights in rewardbench.SECTIONS.items()}
    assert totals == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 984 + 984}


def test_rewardbench_weighs_subsets_and_averages_sections(tmp_path: Path) -> None:
    subsets = ["math-prm"] * 3 + ["hep-go"] + ["alpacaeval-easy"] * 2 + ["mt-bench-med"] + ["donotanswer"]
    rows = read("rewardbench", tmp_path / "x.jsonl", [of_rewardbench(subset) for subset in subsets])
    won, lost, tied = [1.0, 0.0], [0.0, 1.0], [2.0, 2.0]
    score = scored(rows, [won, lost, won, lost, won, tied, won, won])
    assert part(score, "subset", "math-prm") == (pytest.approx(2 / 3), 3)
    assert part(score, "subset", "alpacaeval-easy") == (0.5, 2)  # a tie is a loss
    reasoning = (984 * 2 / 3 + 164 * 0) / (984 + 164)
    chat = (100 * 0.5 + 40 * 1) / 140
    assert part(score, "section", "Reasoning") == (pytest.approx(reasoning), 4)
    assert part(score, "section", "Chat") == (pytest.approx(chat), 3)
    assert part(score, "section", "Chat Hard") == (0.0, 0)
    assert score.overall == pytest.approx((reasoning + chat + 0 + 1) / 4)
    assert score.ties == 1
    assert score.weights is not None
    assert score.weights @ score.credits == pytest.approx(score.overall)
    (note,) = score.notes
    assert "hep-rust" in note
    assert "math-prm" not in note


def test_rewardbench_leaves_prior_sets_out_and_says_so(tmp_path: Path) -> None:
    records = [of_rewardbench("shp"), of_rewardbench("mt-bench-easy")]
    score = scored(read("rewardbench", tmp_path / "x.jsonl", records), [[0, 1], [1, 0]])
    assert score.overall == 0.25
    assert part(score, "subset", "shp") == (0.0, 1)
    assert score.notes[-1] == "the 1 rows of prior sets are not in the overall score"


def test_equal_rows_all_count(tmp_path: Path) -> None:
    rows = read("rewardbench", tmp_path / "x.jsonl", [of_rewardbench("hep-js")] * 4)
    assert part(scored(rows, [[1, 0], [1, 0], [1, 0], [0, 1]]), "subset", "hep-js") == (0.75, 4)


def test_texts_are_read_as_they_stand(tmp_path: Path) -> None:
    record = of_rewardbench("hep-js", prompt="\n\nHuman: a\n\nAssistant: ", chosen=" x\u2028\n")
    (row,) = read("rewardbench", tmp_path / "x.jsonl", json.dumps(record, ensure_ascii=False)).conversations()
    assert [turn.content for turn in row.conversation.prompt] == ["\n\nHuman: a\n\nAssistant: "]
    assert [turn.content for turn in row.conversation.responses] == [" x\u2028\n", "bad"]
    assert row.conversation.system is None


# RewardBench 2


def of_rewardbench2(
    subset: str, num_correct: int = 1, *, num_wrong: int = 3, id: str = "7"
) -> dict[str, Any]:
    return {
        "id": id,
        "prompt": "q",
        "chosen": [f"right {number}" for number in range(num_correct)],
        "rejected": [f"wrong {number}" for number in range(num_wrong)],
        "num_correct": num_correct,
        "num_incorrect": num_wrong,
        "total_completions": num_correct + num_wrong,
        "models": [],
        "subset": subset,
        "additional_metadata": None,
    }


@pytest.mark.parametrize(
    ("scores", "credit"),
    [
        ([3, 1, 2, 0], 1.0),
        ([3, 3, 2, 0], 0.5),
        ([3, 3, 3, 3], 0.25),
        ([2, 3, 2, 0], 0.0),
        ([1, 1, 1, 0], 1 / 3),
    ],
)
def test_best_of_four_divides_the_credit_of_a_tie(scores: list[float], credit: float) -> None:
    assert rewardbench2.best_of_credit(np.array(scores, dtype=float)) == credit


# Rows of Ties: id, number of correct responses, scores with the correct ones first.
VECTOR = [
    ("ref:0", 1, [3.0, 1.0, 0.0]),
    ("tied:0", 3, [3.0, 2.5, 2.8, 0.0, -1.0]),
    ("ref:1", 1, [0.2, 0.1]),
    ("tied:1", 2, [1.0, 0.0, 0.5, -3.0]),
]


def ties_of(tmp_path: Path, rows: list[tuple[str, int, list[float]]]) -> BenchmarkScore:
    records = [of_rewardbench2("Ties", num, num_wrong=len(s) - num, id=name) for name, num, s in rows]
    return scored(read("rewardbench2", tmp_path / "x.jsonl", records), [s for *_, s in rows])


def test_ties_have_the_published_formula(tmp_path: Path) -> None:
    score = ties_of(tmp_path, VECTOR)
    assert part(score, "subset", "Ties") == (pytest.approx(0.6504495, abs=1e-7), 4)
    # By hand: margins 2, 2.5, 0.1, -0.5; spreads of tied 0.5 and 1.
    assert part(score, "of Ties", "accuracy of tied rows") == (0.5, 2)
    assert part(score, "of Ties", "accuracy of ref rows") == (1.0, 2)
    assert part(score, "of Ties", "margin above the spread") == (0.5, 4)
    assert part(score, "of Ties", "smaller margin above the spread") == (0.5, 4)
    closeness = (math.tanh(2 / 0.5 - 1) + math.tanh(-0.5 / 1 - 1)) / 2
    assert part(score, "of Ties", "closeness of correct scores")[0] == pytest.approx(closeness)
    assert score.overall == pytest.approx(0.6504495, abs=1e-7)


def test_order_of_ties_rows_does_not_matter(tmp_path: Path) -> None:
    assert ties_of(tmp_path, VECTOR[::-1]).overall == pytest.approx(ties_of(tmp_path, VECTOR).overall)


@pytest.mark.parametrize(("wrong", "closeness"), [(0.0, 1.0), (1.0, 0.0), (2.0, -1.0)])
def test_no_spread_makes_the_closeness_a_sign(tmp_path: Path, wrong: float, closeness: float) -> None:
    score = ties_of(tmp_path, [("ref:0", 1, [5.0, 0.0]), ("tied:0", 2, [1.0, 1.0, wrong])])
    assert part(score, "of Ties", "closeness of correct scores")[0] == closeness


def test_prompts_without_both_rows_count_for_the_accuracy_alone(tmp_path: Path) -> None:
    score = ties_of(tmp_path, [*VECTOR[:2], ("ref:9", 1, [0.0, 1.0])])
    assert part(score, "of Ties", "accuracy of ref rows") == (0.5, 2)
    assert part(score, "of Ties", "margin above the spread") == (1.0, 2)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([of_rewardbench2("Ties", 1, id="tied:0")], "a row tied:0 of Ties with 1 correct responses"),
        ([of_rewardbench2("Ties", 1, id="0")], "field 'id' of a row of Ties must be ref:N or tied:N"),
        ([of_rewardbench2("Ties", 1, id="ref:0")] * 2, "the row ref:0 of Ties is there twice"),
        ([of_rewardbench2("Ties", 1, id="ref:0")], "no prompt of Ties has both a row ref:N and a row tied:N"),
        ([of_rewardbench2("Math", 2)], "a row of Math with 2 correct responses instead of one"),
        ([of_rewardbench2("Maths")], "field 'subset' is 'Maths', which is none of Factuality, Precise IF"),
        ([of_rewardbench2("Math", num_wrong=0)], "a row without a correct or without a wrong response"),
        ([{"subset": "Math"}], "field 'chosen' is missing"),
        ([{"subset": "Math", "chosen": "a"}], "field 'chosen' must be a list of texts"),
    ],
)
def test_rows_of_another_form_are_refused(
    records: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read("rewardbench2", tmp_path / "x.jsonl", records)


def test_rewardbench2_averages_the_subsets_that_are_there(tmp_path: Path) -> None:
    records = [of_rewardbench2("Math"), of_rewardbench2("Math"), of_rewardbench2("Precise IF")]
    score = scored(
        read("rewardbench2", tmp_path / "x.jsonl", records), [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]
    )
    assert score.overall == pytest.approx((0.5 + 0.5) / 2)
    assert score.notes == ("subsets without rows: Factuality, Safety, Focus, Ties",)
    assert score.ties == 2  # of a correct response and any wrong one
    assert score.weights is None


# RM-Bench


def of_rm_bench(**fields: Any) -> dict[str, Any]:
    return {"id": 1, "prompt": "q", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], **fields}


def test_rm_bench_has_easy_normal_and_hard_pairs(tmp_path: Path) -> None:
    records = [of_rm_bench(domain="chat"), of_rm_bench(domain="math")]
    rows = read("rm-bench", tmp_path / "total_dataset.json", json.dumps(records))
    # Chat: chosen 1, 2, 3 against 0, 2, 4. Math: always won.
    score = scored(rows, [[1, 2, 3, 0, 2, 4], [9, 9, 9, 0, 0, 0]])
    # Normal (0,0), (1,1), (2,2): won, tied, lost. Easy (1,0), (2,0), (2,1): won. Hard: lost.
    assert part(score, "domain and difficulty", "chat, normal") == (pytest.approx(1 / 3), 1)
    assert part(score, "domain and difficulty", "chat, easy") == (1.0, 1)
    assert part(score, "domain and difficulty", "chat, hard") == (0.0, 1)
    assert part(score, "domain", "chat")[0] == pytest.approx(4 / 9)
    assert part(score, "difficulty", "hard")[0] == 0.5
    assert score.overall == pytest.approx((4 / 9 + 1) / 2)
    assert score.weights is not None
    assert score.weights @ score.credits == pytest.approx(score.overall)
    assert score.ties == 1
    assert score.notes == ("domains without rows: code, safety",)


def test_rm_bench_pools_both_parts_of_safety_before_the_mean(tmp_path: Path) -> None:
    domains = ["safety-refuse", "safety-refuse", "safety-response"]
    rows = read("rm-bench", tmp_path / "x.json", json.dumps([of_rm_bench(domain=one) for one in domains]))
    score = scored(rows, [[1] * 3 + [0] * 3, [1] * 3 + [0] * 3, [0] * 6])
    assert part(score, "domain", "safety") == (pytest.approx(2 / 3), 3)


def test_domain_of_rm_bench_may_be_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "code_filtered.json").write_text(json.dumps([of_rm_bench()]))
    (tmp_path / "safety-response_filtered.json").write_text(json.dumps([of_rm_bench()]))
    (rows,) = read_benchmarks(named_inputs("--benchmark", [f"rm-bench={tmp_path}"]))
    assert [row.label for row in rows.rows] == ["code", "safety"]  # ids collide, and both count
    with pytest.raises(UserError, match="neither field 'domain' nor the file's name"):
        read("rm-bench", tmp_path / "other.json", json.dumps([of_rm_bench()]))


# JudgeBench


def of_judgebench(source: str, label: str, model: str = "gpt-4o") -> dict[str, Any]:
    return {
        "pair_id": "x",
        "original_id": 1,
        "source": source,
        "question": "q",
        "response_model": model,
        "response_A": "a",
        "response_B": "b",
        "label": label,
    }


def test_judgebench_counts_rows_whichever_response_is_better(tmp_path: Path) -> None:
    records = [
        of_judgebench("mmlu-pro-law", "A>B"),
        of_judgebench("mmlu-pro-math", "B>A"),
        of_judgebench("livecodebench", "B>A"),
        of_judgebench("livebench-math", "B>A"),
    ]
    score = scored(read("judgebench", tmp_path / "x.jsonl", records), [[1, 0], [1, 0], [0, 1], [2, 2]])
    assert score.overall == 0.5  # a tie is wrong, also where the label is B>A
    assert part(score, "source", "mmlu-pro") == (0.5, 2)
    assert part(score, "source", "livebench-math") == (0.0, 1)
    assert score.ties == 1


def test_files_of_judgebench_are_never_pooled(tmp_path: Path) -> None:
    records = [of_judgebench("livecodebench", "A>B", model) for model in ("gpt-4o", "claude-3-5")]
    with pytest.raises(UserError, match="responses of claude-3-5 and gpt-4o are scored apart"):
        read("judgebench", tmp_path / "x.jsonl", records)


# PPE


def of_human(model_a: str, model_b: str, winner: str, **fields: Any) -> dict[str, Any]:
    return {
        "question_id": "x",
        "model_a": model_a,
        "model_b": model_b,
        "winner": winner,
        "prompt": "q",
        "response_1": "a",
        "response_2": "b",
        "language": "English",
        **fields,
    }


def test_ppe_human_accuracy_is_of_rows_with_a_winner(tmp_path: Path) -> None:
    records = [
        of_human("x", "y", "model_a", is_code=True),
        of_human("x", "y", "model_b", is_code=True),
        of_human("x", "y", "model_b"),
        of_human("x", "y", "tie (bothbad)"),
        of_human("x", "y", "model_a"),
    ]
    score = scored(read("ppe", tmp_path / "x.jsonl", records), [[1, 0], [1, 0], [0, 1], [1, 0], [3, 3]])
    assert score.overall == 0.5  # of four; the tie of scores is wrong
    assert part(score, "category", "is_code") == (0.5, 2)
    assert score.ties == 1
    assert score.weights is not None
    assert score.weights @ score.credits == pytest.approx(0.5)
    assert score.parts["ranking of models"] == ()  # of two models


def test_ppe_human_ranks_models(tmp_path: Path) -> None:
    strengths = {"weak": 1.0, "middle": 2.0, "strong": 4.0, "best": 8.0}
    records, scores, reverse = [], [], []
    for one, other in [(a, b) for a in strengths for b in strengths if a < b]:
        won = round(60 * strengths[one] / (strengths[one] + strengths[other]))
        for number in range(60):
            records.append(of_human(one, other, "model_a" if number < won else "model_b"))
            scores.append([1, 0] if number < won else [0, 1])
            reverse.append(scores[-1][::-1])
    rows = read("ppe", tmp_path / "x.jsonl", records)
    same, other_way = scored(rows, scores), scored(rows, reverse)
    assert (same.overall, other_way.overall) == (1.0, 0.0)
    for name in ("row-wise Pearson", "Spearman", "Kendall", "confidence agreement"):
        assert part(same, "ranking of models", name) == (pytest.approx(1.0), 360)
    for name in ("Spearman", "Kendall", "confidence agreement"):
        assert part(other_way, "ranking of models", name)[0] == pytest.approx(-1.0)
    assert part(same, "ranking of models", "separability")[0] >= 4 / 6
    assert part(same, "ranking of models", "Brier score")[0] < 0.05
    assert part(other_way, "ranking of models", "Brier score")[0] > 0.9


def of_correctness(correct: list[bool], pairs: list[list[int]]) -> dict[str, Any]:
    responses = {f"response_{number + 1}": f"r{number}" for number in range(len(correct))}
    return {"prompt": "q", "model_name": "m", "scores": correct, "sampled_conflict_pairs": pairs, **responses}


def test_ppe_correctness_is_the_mean_over_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps(of_correctness([True, False, False], [[0, 1], [2, 0], [1, 0], [0, 1]]))
    )
    (tmp_path / "b.jsonl").write_text(json.dumps(of_correctness([False, True, False], [[0, 1], [1, 2]] * 2)))
    (rows,) = read_benchmarks(named_inputs("--benchmark", [f"ppe={tmp_path}"]))
    score = scored(rows, [[2, 1, 3], [0, 5, 5]])
    names = [f"{tmp_path.name}/{name}.jsonl" for name in "ab"]
    # a: 2 > 1 three times, 3 above 2 once; b: 5 > 0 twice, a tie twice.
    assert [part(score, "accuracy", name) for name in names] == [(0.75, 1), (0.5, 1)]
    assert score.overall == 0.625
    # Scaled to 0.5, 0, 1 and to 0, 1, 1.
    assert part(score, "AUC", names[0])[0] == 0.5
    assert part(score, "AUC", names[1])[0] == 0.75
    assert score.ties == 1


def test_scores_of_a_prompt_are_scaled_before_they_are_pooled(tmp_path: Path) -> None:
    records = [of_correctness([True, False], [[0, 1]])] * 2
    score = scored(read("ppe", tmp_path / "x.jsonl", records), [[100, 90], [2, 1]])
    assert part(score, "AUC", f"{tmp_path.name}/x.jsonl")[0] == 1.0


def test_best_of_k_has_the_curve_of_all_orders() -> None:
    scores = [np.array([3.0, 2.0, 1.0])]
    right = best_of_k(scores, [np.array([True, False, False])])
    # The curve and the oracle's are both 1/3, 2/3, 1 over all orders.
    assert right["best-of-K loss"] == 0.0
    assert right["best-of-K end"] == right["best-of-K maximum"] == 1.0
    wrong = best_of_k(scores, [np.array([False, False, True])])
    assert wrong["best-of-K end"] == 0.0
    # The curve is 1/3, 0, 0 and the oracle's 1/3, 2/3, 1, within the error of 100 orders.
    assert wrong["best-of-K maximum"] == pytest.approx(1 / 3, abs=0.15)
    assert wrong["best-of-K loss"] == pytest.approx((4 / 9 + 1) / 3, abs=0.07)
    tied = best_of_k([np.zeros(2)], [np.array([True, False])])
    assert tied["best-of-K end"] == pytest.approx(0.5, abs=0.15)  # the first of equals


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (of_correctness([True, True], [[0, 1]]), "the sampled pair [0, 1] is not of a correct and a wrong"),
        (of_correctness([True, False], [[0, 2]]), "'sampled_conflict_pairs' must be a list of pairs"),
        (of_correctness([True, False], []), "'sampled_conflict_pairs' must be a list of pairs"),
        ({"prompt": "q"}, "field 'scores' must be a list of booleans, and there is no field 'winner'"),
        ({**of_correctness([True, False], [[0, 1]]), "response_2": None}, "'response_2' must be a text"),
        (of_human("x", "y", "model_A"), "field 'winner' is 'model_A', which is none of model_a, model_b"),
    ],
)
def test_rows_of_ppe_of_another_form_are_refused(
    record: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        read("ppe", tmp_path / "x.jsonl", [record])
    assert message in str(error.value)


def test_kinds_of_ppe_are_never_pooled(tmp_path: Path) -> None:
    records = [of_human("x", "y", "model_a"), of_correctness([True, False], [[0, 1]])]
    with pytest.raises(UserError, match="human preferences and correctness are scored apart"):
        read("ppe", tmp_path / "x.jsonl", records)


# All


def test_every_module_registers_its_benchmark() -> None:
    assert set(BENCHMARKS) == {"rewardbench", "rewardbench2", "rm-bench", "judgebench", "ppe", "processbench"}
    assert BENCHMARKS["judgebench"].row is judgebench.read_row
    assert BENCHMARKS["rm-bench"].row is rm_bench.read_row


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rewardbench3=x.jsonl"], "unknown --benchmark 'rewardbench3'; did you mean rewardbench"),
        (["rewardbench=gone.jsonl"], "--benchmark rewardbench: gone.jsonl does not exist"),
        (["rewardbench=empty.jsonl"], "--benchmark rewardbench=empty.jsonl holds no row"),
        (["rewardbench=x.jsonl", "rewardbench=x.jsonl"], "--benchmark rewardbench=x.jsonl is there twice"),
        (["rewardbench=x.jsonl"], "x.jsonl:2: invalid JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").touch()
    Path("x.jsonl").write_text(f"{json.dumps(of_rewardbench('hep-js'))}\n{{\n")
    with pytest.raises(UserError) as error:
        read_benchmarks(named_inputs("--benchmark", words))
    assert str(error.value).startswith(message)


def test_interval_is_of_rows_within_their_parts(tmp_path: Path) -> None:
    subsets = ["math-prm"] * 40 + ["donotanswer"] * 40
    rows = read("rewardbench", tmp_path / "x.jsonl", [of_rewardbench(subset) for subset in subsets])
    score = scored(rows, [[1, 0]] * 20 + [[0, 1]] * 20 + [[1, 0]] * 40)
    found = interval_of(score, seed=3)
    assert found is not None
    assert found.value == pytest.approx((0.5 + 1) / 4)
    # Only math-prm varies: a quarter of a binomial share of 40, whose 95% interval is 0.35 to 0.65.
    assert (found.low, found.high) == pytest.approx((0.3375, 0.4125), abs=0.013)
