"""best-of-n, filter and make-pairs on rows as `score` writes them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import run_command
from modellink_rm.commands import best_of_n, filter, make_pairs
from modellink_rm.commands.preprocess import main as preprocess_main
from tests.tiny_data import write_tokenizer

LISTS = [
    {"id": 1, "prompt": "p", "responses": ["a", "b", "c"], "scores": [0.5, 2.0, -1.0]},
    {"id": 2, "prompt": "q", "responses": ["d", "e"], "scores": [1.0, 1.0], "truncated": True},
    {"id": 3, "error": "in.jsonl:3: no response"},
    {"id": 4, "chosen": "x", "rejected": "y", "chosen_score": 3.0, "rejected_score": 1.0, "margin": 2.0},
]
SINGLE: list[dict[str, Any]] = [
    {"id": 1, "prompt": "p", "response": "a", "score": 0.5},
    {"id": 2, "prompt": "p", "response": "b", "score": 2.0},
    {"id": 3, "prompt": "q", "response": "c", "score": -1},
]
Main = Callable[[Sequence[str]], int]


def run(main: Main, rows: Sequence[Any], flags: str, tmp_path: Path) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and the rows that were written."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    code = run_command(main, [*f"--input {source} --output {output}".split(), *flags.split()])
    lines = output.read_text().splitlines() if output.exists() else []
    return code, [json.loads(line) for line in lines]


def test_the_best_response_of_a_list_is_picked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = run(best_of_n.main, LISTS, "", tmp_path)
    assert code == 0
    assert rows == [
        {"id": 1, "prompt": "p", "response": "b", "score": 2.0, "place": 1},
        {"id": 2, "prompt": "q", "response": "d", "score": 1.0, "place": 0},
    ]
    told = capsys.readouterr().err.splitlines()
    assert told[:3] == [
        "rows read 4 | written 2 | rows dropped 2",
        "          1  not scored",
        "          1  a pair, not a list of responses",
    ]


def test_quantiles_of_the_largest_numbers_are_numbers(tmp_path: Path) -> None:
    rows = [{"id": 1, "score": 1.7e308}, {"id": 2, "score": 0.0}, {"id": 3, "score": -1.7e308}]
    _, found = run(filter.main, rows, "--quantiles 0.4,1", tmp_path)
    assert [row["id"] for row in found] == [1, 2]


def test_quantiles_of_the_smallest_numbers_are_these(tmp_path: Path) -> None:
    rows = [{"id": 1, "score": 5e-324}, {"id": 2, "score": 0.0}]
    _, found = run(filter.main, rows, "--quantiles 0,1", tmp_path)
    assert [row["id"] for row in found] == [1, 2]
    _, found = run(filter.main, rows, "--quantiles 0.9,1", tmp_path)
    assert [row["id"] for row in found] == [1]


@pytest.mark.parametrize("main", [filter.main, best_of_n.main, make_pairs.main])
def test_the_gap_of_the_largest_integers_is_no_error(main: Main, tmp_path: Path) -> None:
    wide = [{"id": 7, "prompt": "p", "responses": ["a", "b"], "scores": [10**308, -(10**308)]}]
    code, found = run(main, [*LISTS, *wide], "--min-gap 1" if main is filter.main else "", tmp_path)
    assert code == 0
    assert (7 in [row["id"] for row in found]) == (main is not make_pairs.main)


def test_an_integer_of_more_than_64_bits_is_kept_and_groups_prompts(tmp_path: Path) -> None:
    rows = [{**row, "prompt": {"n": 2**70 + number // 2}, "id": 3**50} for number, row in enumerate(SINGLE)]
    _, found = run(best_of_n.main, rows, "", tmp_path)
    assert [(row["prompt"], row["id"]) for row in found] == [({"n": 2**70}, 3**50), ({"n": 2**70 + 1}, 3**50)]


def test_rows_of_one_prompt_are_one_list(tmp_path: Path) -> None:
    _, ranked = run(best_of_n.main, SINGLE, "--rank", tmp_path)
    assert ranked == [
        {"prompt": "p", "responses": ["b", "a"], "scores": [2.0, 0.5], "places": [1, 0]},
        {"id": 3, "prompt": "q", "responses": ["c"], "scores": [-1.0], "places": [0]},
    ]
    _, first = run(best_of_n.main, SINGLE, "--n 1", tmp_path)
    assert [row["response"] for row in first] == ["a", "c"]


def test_fields_of_a_response_are_those_of_its_own_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "source": "s", "num_tokens": 10 * row["id"], f"of {tmp_path}": row} for row in SINGLE]
    _, best = run(best_of_n.main, rows, "", tmp_path)
    assert [(row["id"], row["num_tokens"], row["response"]) for row in best] == [(2, 20, "b"), (3, 30, "c")]
    _, pairs = run(make_pairs.main, rows, "", tmp_path)
    assert [row.keys() & {"id", "num_tokens", "source"} for row in pairs] == [{"source"}]
    assert f"warning: field 'of {tmp_path}' is not written: it differs between" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["system", "tools"])
def test_rows_of_one_prompt_with_other_system_texts_or_tools_are_several_lists(
    name: str, tmp_path: Path
) -> None:
    rows = [{**SINGLE[0], name: "s"}, {**SINGLE[1], name: "t"}, {**SINGLE[1], "response": "c"}]
    _, best = run(best_of_n.main, rows, "", tmp_path)
    assert [row["response"] for row in best] == ["a", "b", "c"]
    code, _ = run(make_pairs.main, rows, "", tmp_path)
    assert code == 2


def test_lists_beside_the_responses_follow_them(tmp_path: Path) -> None:
    lists = {"num_tokens": [10, 20, 30], "ended": [True, False, True], "ranks": [3, 1, 2], "ratings": [1, 2]}
    rows = [{**LISTS[0], **lists}]
    _, (ranked,) = run(best_of_n.main, rows, "--rank", tmp_path)
    assert (ranked["responses"], ranked["places"]) == (["b", "a", "c"], [1, 0, 2])
    assert (ranked["num_tokens"], ranked["ended"]) == ([20, 10, 30], [False, True, True])
    assert (ranked["ranks"], ranked["ratings"]) == ([1, 3, 2], [1, 2])  # not one for each response
    _, (best,) = run(best_of_n.main, rows, "", tmp_path)
    assert (best["response"], best["num_tokens"], best["ended"], best["ranks"]) == ("b", [20], [False], [1])


def test_lists_beside_the_responses_are_those_of_a_pair(tmp_path: Path) -> None:
    """Of the preferred one first; those of all three stood beside two responses."""
    row = {"prompt": "q", "responses": ["a", "b", "c"], "scores": [0.5, 2.0, 1.0]}
    row |= {"num_tokens": [10, 20, 30], "ended": [True, False, True], "ratings": [1, 2]}
    _, (pair,) = run(make_pairs.main, [row], "", tmp_path)
    assert (pair["chosen"], pair["rejected"]) == ("b", "a")
    assert (pair["num_tokens"], pair["ended"], pair["ratings"]) == ([20, 10], [False, True], [1, 2])


def test_rows_of_one_prompt_that_are_apart_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = run(best_of_n.main, [*SINGLE, SINGLE[0]], "", tmp_path)
    assert (code, rows) == (2, [])
    assert "in.jsonl:4: its prompt came earlier, and others since" in capsys.readouterr().err


def test_rows_that_were_not_scored_are_refused_with_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = run(filter.main, [{"prompt": "q", "response": "a"}], "--min-score 0", tmp_path)
    assert code == 2
    assert "(1 x no score); nothing was written; --input takes what the command score wrote" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("main", [best_of_n.main, make_pairs.main])
def test_scores_of_pairs_alone_are_refused_with_what_to_give(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"prompt": "q", "chosen_score": 1.0, "rejected_score": 0.5, "margin": 0.5}
    code, rows = run(main, [pair], "", tmp_path)
    assert (code, rows) == (2, [])
    assert 'give the scores of records such as {"prompt": ..., "responses": [...]}' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "ids"),
    [
        ("--min-score 1.5", [1, 4]),
        ("--max-score 2", [1, 2]),
        ("--min-gap 0.5 --max-gap 2.5", [4]),
        ("--quantiles 0,0.5", [1, 2]),
        ("--quantiles 0.9,1", [4]),
    ],
)
def test_rows_are_kept_by_score_gap_and_quantile(flags: str, ids: list[int], tmp_path: Path) -> None:
    code, rows = run(filter.main, LISTS, flags, tmp_path)
    assert (code, [row["id"] for row in rows]) == (0, ids)
    assert all(row in LISTS for row in rows)


def test_a_row_of_one_response_has_no_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = run(filter.main, SINGLE, "--min-gap 0.1", tmp_path)
    assert (code, rows) == (2, [])
    assert "none of the 3 rows is left (3 x one response: it has no gap)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", [("b", "c", 3.0)]),
        ("--pairs best-others", [("b", "a", 1.5), ("b", "c", 3.0)]),
        ("--pairs all", [("b", "a", 1.5), ("b", "c", 3.0), ("a", "c", 1.5)]),
        ("--pairs all --min-margin 2", [("b", "c", 3.0)]),
        ("--pairs all --max-margin 2", [("b", "a", 1.5), ("a", "c", 1.5)]),
    ],
)
def test_pairs_are_made_of_responses_with_different_scores(
    flags: str, expected: list[tuple[str, str, float]], tmp_path: Path
) -> None:
    _, rows = run(make_pairs.main, LISTS, flags, tmp_path)
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in rows] == expected
    scores = {"score_chosen", "score_rejected", "margin"}
    assert rows[0].keys() == {"id", "prompt", "chosen", "rejected", *scores}


def test_pairs_are_read_by_preprocessing_with_their_margins(tmp_path: Path) -> None:
    run(make_pairs.main, LISTS[:1], "--pairs all", tmp_path)
    write_tokenizer(tmp_path / "tokenizer")
    words = f"--input {tmp_path}/out.jsonl --handler-name OpenAiMessagesPairwiseHandler --prompt-type llama2"
    words += f" --tokenizer-name-or-path {tmp_path}/tokenizer --output-prefix {tmp_path}/data"
    assert preprocess_main(words.split()) == 0
    manifest = json.loads((tmp_path / "data_manifest.json").read_text())
    assert (manifest["num_read"], manifest["num_kept"]) == (3, 3)
    assert list(tmp_path.glob("data*margin*"))


@pytest.mark.parametrize(
    ("main", "flags", "message"),
    [
        (filter.main, "", "nothing to filter by: give --min-score"),
        (filter.main, "--quantiles 0.5", "--quantiles takes LOW,HIGH with 0 <= LOW < HIGH <= 1, got '0.5'"),
        (filter.main, "--quantiles 0.9,nan", "--quantiles takes LOW,HIGH"),
        (make_pairs.main, "--min-margin 2 --max-margin 1", "--max-margin 1.0 is below --min-margin 2.0"),
        (make_pairs.main, "--min-margin -1", "--min-margin must not be negative, got -1.0"),
        (best_of_n.main, "--n 0", "--n must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line(
    main: Main, flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(main, LISTS, flags, tmp_path)[0] == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("main", [best_of_n.main, make_pairs.main])
def test_an_output_over_the_input_is_refused(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text("\n".join(map(json.dumps, LISTS)))
    before = path.read_bytes()
    assert run_command(main, ["--input", str(tmp_path), "--output", str(path)]) == 2
    assert "which this command reads" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_table_is_read_and_written(tmp_path: Path) -> None:
    source, table, output = tmp_path / "in.jsonl", tmp_path / "kept.parquet", tmp_path / "best.jsonl"
    source.write_text("\n".join(map(json.dumps, LISTS[:2])))
    words = f"--input {source} --output {table} --min-score 1.5"
    assert run_command(filter.main, words.split()) == 0
    assert run_command(best_of_n.main, f"--input {table} --output {output}".split()) == 0
    row = json.loads(output.read_text())
    assert (row["id"], row["response"], row["score"], row["place"]) == (1, "b", 2.0, 1)


@pytest.mark.parametrize("main", [best_of_n.main, make_pairs.main])
def test_rows_without_a_prompt_are_not_responses_to_one_prompt(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": number, "response": str(number), "score": number} for number in range(3)]
    code, written = run(main, rows, "", tmp_path)
    assert (code, written) == (2, [])
    assert "none of the 3 rows is left (3 x field 'prompt' is missing)" in capsys.readouterr().err
    code, written = run(best_of_n.main, rows, "--prompt question", tmp_path)
    assert (code, [row["response"] for row in written]) == (0, ["0", "1", "2"])


def test_a_list_of_one_response_is_the_best_of_its_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "responses": ["a"], "score": 0.5}, *SINGLE[:2]]
    code, written = run(best_of_n.main, rows, "", tmp_path)
    assert (code, [row["response"] for row in written]) == (0, ["a", "b"])


def test_columns_without_a_value_are_as_ones_that_are_missing(tmp_path: Path) -> None:
    """Where rows of one response, of several, and pairs lie in one table."""
    names = {name for row in (*LISTS, *SINGLE) for name in row}
    table = [{name: row.get(name) for name in names} for row in (*LISTS, *SINGLE)]
    for main, flags in ((best_of_n.main, ""), (make_pairs.main, ""), (filter.main, "--min-gap 0.1")):
        _, without = run(main, [*LISTS, *SINGLE], flags, tmp_path)
        _, with_nulls = run(main, table, flags, tmp_path)
        names_of_rows = [{name: row.get(name) for name in names} for row in without]
        assert [{name: row.get(name) for name in names} for row in with_nulls] == names_of_rows


def test_scores_that_are_no_numbers_are_not_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "p", "responses": ["a", "b", "c"], "scores": "abc", "score": 1}]
    assert run(best_of_n.main, rows, "", tmp_path) == (2, [])
    assert "1 x field 'response' is missing" in capsys.readouterr().err


def test_a_margin_that_is_no_number_of_json_makes_no_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "p", "responses": ["a", "b"], "scores": [1e308, -1e308]}]
    assert run(make_pairs.main, rows, "", tmp_path) == (2, [])
    assert "1 x margin beyond the largest number" in capsys.readouterr().err
