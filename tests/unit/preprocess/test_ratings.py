"""Ratings of attributes: from records through the files to examples and their targets."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.batching.targets import targets_of
from modellink_rm.commands.inspect import main as inspect_main
from modellink_rm.commands.preprocess import main
from modellink_rm.conversation import Message, Rated
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.manifest import array_prefix, manifest_path, read_manifest, serialized
from modellink_rm.dataset.reader import ExampleReader
from modellink_rm.handlers import make_handler
from modellink_rm.records import RecordError

NAME = "RatedResponseHandler"
READER = ExampleReader(seq_length=512, truncation="right", num_closing_tokens=1, num_ids=1000)
NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
FULL = {"prompt": "hello there", "response": "I am fine"} | dict.fromkeys(NAMES, 3)
RECORDS: list[dict[str, Any]] = [
    {**FULL, "helpfulness": 4, "verbosity": 1},
    {"prompt": "hello", "response": "no", "helpfulness": None, "coherence": "2"},
    {"prompt": "unrated", "response": "no"},
    {**FULL, "response": "fine", "complexity": "much"},
    {**FULL, "response": "how are you", "helpfulness": 0.5},
]
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentencepiece_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))

    def preprocess(*flags: str) -> int:
        words = ["--input", "in.jsonl", "--handler-name", NAME, "--prompt-type", "llama2"]
        words += ["--tokenizer-model", str(sentencepiece_path), "--output-prefix", "x"]
        return run_command(main, [*words, *flags])

    return preprocess


def numbers(ratings: tuple[float, ...]) -> list[float | None]:
    """With None for NaN, which equals nothing."""
    return [None if math.isnan(value) else value for value in ratings]


def test_examples_have_the_ratings_of_their_records(run: Run) -> None:
    assert run() == 0
    dataset = open_dataset(Path("x"))
    assert dataset.rows.attributes == NAMES
    assert not dataset.holds_rankings
    examples = [READER.read(dataset, row) for row in range(len(dataset))]
    ratings = [[4, 3, 3, 3, 1], [None, None, 2, None, None], [0.5, 3, 3, 3, 3]]
    assert [[numbers(row) for row in one.ratings] for one in examples] == [[row] for row in ratings]
    assert [len(one.responses) for one in examples] == [1, 1, 1]
    assert dataset.rows.longest_sides().tolist() == [len(one.responses[0].input_ids) for one in examples]
    targets = targets_of(examples)
    assert [numbers(tuple(row)) for row in targets.ratings.tolist()] == ratings
    assert targets.num_tokens.tolist() == [
        len(one.responses[0].input_ids) - one.responses[0].num_prompt_tokens for one in examples
    ]
    assert (len(targets.better), targets.tied.shape) == (0, (2, 0))


def test_manifest_names_the_attributes_and_why_records_were_dropped(run: Run) -> None:
    assert run() == 0
    manifest = read_manifest(Path("x"))
    assert manifest is not None
    assert manifest.attributes == list(NAMES)
    assert manifest.dropped == {"no attribute is rated": 1, "field 'complexity' must be a number": 1}
    assert manifest.num_responses == {"1": 3}


def test_other_attributes_are_named_by_map_keys(run: Run) -> None:
    assert run("--map-keys", '{"attributes": "verbosity, coherence"}') == 0
    dataset = open_dataset(Path("x"))
    assert dataset.rows.attributes == ("verbosity", "coherence")
    assert dataset.rows.ratings_of(0) == ((1.0, 3.0),)


def test_shards_and_workers_give_the_files_of_one_run(run: Run) -> None:
    assert run("--output-prefix", "one") == 0
    assert run("--output-prefix", "two", "--workers", "2") == 0
    for path in Path().glob("one_packed_*"):
        assert Path(path.name.replace("one_", "two_")).read_bytes() == path.read_bytes()


def test_inspect_shows_the_ratings(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    capsys.readouterr()
    assert inspect_main(["x", "--rows", "2"]) == 0
    shown = capsys.readouterr().out
    assert "attributes     helpfulness, correctness, coherence, complexity, verbosity" in shown
    assert "row 1: rated" in shown
    assert ", coherence 2" in shown
    assert "nan" not in shown


def test_ratings_that_do_not_fit_the_manifest_are_refused(run: Run) -> None:
    assert run() == 0
    manifest = read_manifest(Path("x"))
    assert manifest is not None
    manifest_path(Path("x")).write_bytes(
        serialized(dataclasses.replace(manifest, attributes=["helpfulness"]))
    )
    with pytest.raises(UserError, match=r"ratings_document.idx has rows of other lengths than 1 ratings"):
        open_dataset(Path("x"))
    manifest_path(Path("x")).unlink()
    with pytest.raises(UserError, match="x has ratings, and no manifest that names their attributes"):
        open_dataset(Path("x"))
    assert array_prefix(Path("x"), "ratings").with_suffix(".idx").exists()


def test_record_is_a_response_with_a_number_for_each_attribute() -> None:
    handler = make_handler(NAME, '{"attributes": "good,short", "source": "set"}')
    found = handler({"prompt": "q", "response": "a", "good": "1.5", "short": -2, "set": "web", "system": "s"})
    expected = Rated("s", "", (Message("user", "q"),), Message("assistant", "a"), (1.5, -2.0), "web")
    assert found == expected


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"response": "a", "good": 1}, "field 'prompt' is missing"),
        ({"prompt": "q", "good": 1}, "field 'response' is missing"),
        ({"prompt": "q", "response": "a", "good": "x"}, "field 'good' must be a number"),
    ],
)
def test_record_that_cannot_be_used_says_why(record: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        make_handler(NAME, '{"attributes": "good"}')(record)


@pytest.mark.parametrize("names", ["", "good,good", "good,", "a b", "x=1"])
def test_names_that_are_no_metrics_are_refused(names: str) -> None:
    with pytest.raises(UserError, match="--map-keys 'attributes' takes different names"):
        make_handler(NAME, json.dumps({"attributes": names}))
