"""Responses in labelled steps: from records through the files to examples, and into no run of preferences."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.commands.inspect import main as inspect_main
from modellink_rm.commands.preprocess import main
from modellink_rm.dataset.dataset import open_dataset, verify_contents
from modellink_rm.dataset.indexed import IndexedWriter, bin_path, idx_path
from modellink_rm.dataset.manifest import array_prefix, read_manifest
from modellink_rm.dataset.reader import ExampleReader
from modellink_rm.objective.choice import choose_objective
from modellink_rm.tokenizers.sentencepiece_tokenizer import load_sentencepiece_tokenizer
from tests.tiny_data import write_random_rows, write_random_steps

READER = ExampleReader(seq_length=512, truncation="right", num_closing_tokens=1, num_ids=1000)
X = Path("x")


def records():
    """200 responses of 1 to 4 steps; a label is missing here and there, and a few records are bad."""
    found = []
    for i in range(200):
        steps = [f"the capital {i} {k}" for k in range(i % 4 + 1)]
        labels = [(i + k) % 3 / 2 for k in range(len(steps))]
        found.append({"prompt": f"question {i}", "completions": steps, "labels": labels})
    found[5]["labels"][0] = None
    found[6] = {"prompt": "q", "completions": ["a"], "labels": [None]}
    found[7] = {"prompt": "q", "completions": ["a"]}
    return found


@pytest.fixture
def words(tmp_path, monkeypatch, sentencepiece_path):
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("\n".join(map(json.dumps, records())))
    flags = ["--input", "in.jsonl", "--handler-name", "StepwiseHandler", "--prompt-type", "llama2"]
    return [*flags, "--tokenizer-model", str(sentencepiece_path), "--placeholder-token", " so"]


def contents(prefix):
    return {path.name: path.read_bytes() for path in sorted(Path().glob(f"{prefix}_*"))}


def test_a_token_for_the_score_of_a_whole_response_is_refused(words, capsys):
    assert run_command(main, [*words, "--output-prefix", "x", "--reward-token", "</s>"]) == 2
    error = capsys.readouterr().err
    assert "error: --reward-token </s> is for responses that are scored as a whole: steps are scored" in error


def test_rows_are_the_steps_with_their_labels(words, sentencepiece_path, capsys):
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    shown = capsys.readouterr().out
    tokenizer = load_sentencepiece_tokenizer(sentencepiece_path)
    dataset = open_dataset(X)
    verify_contents(dataset)
    kept = [one for one in records() if any(label is not None for label in one.get("labels", []))]
    assert len(dataset) == len(kept) == 198
    assert not dataset.holds_rankings
    end = tokenizer.encode(" so")
    for row, one in enumerate(kept):
        example = READER.read(dataset, row)
        (response,) = example.responses
        starts = [response.num_prompt_tokens, *(end + 1 for end in response.step_ends)]
        pieces = [response.input_ids[a:b].tolist() for a, b in itertools.pairwise(starts)]
        assert pieces == [tokenizer.encode(step) + end for step in one["completions"]]
        labels = [math.nan if label is None else label for label in one["labels"]]
        assert response.step_labels == pytest.approx(labels, nan_ok=True)
    labels = [label for one in kept for label in one["labels"] if label is not None]
    manifest = read_manifest(X)
    assert manifest.num_responses == {"1": 198}
    assert (manifest.num_steps, manifest.num_wrong_steps) == (len(labels), sum(x < 0.5 for x in labels))
    assert manifest.placeholder_token == " so"
    assert manifest.dropped == {"no step has a label": 2}
    assert f"labelled steps{len(labels):>15,}  {manifest.num_wrong_steps} of them wrong\n" in shown
    assert run_command(inspect_main, ["x", "--tokenizer-model", str(sentencepiece_path)]) == 0
    shown = capsys.readouterr().out
    assert f"{len(labels)} labelled" in shown
    headings = [line for line in shown.splitlines() if line.startswith("--- row 1: step")]
    assert [line.rpartition(", ")[2] for line in headings] == ["label 0.5", "label 1"]


def test_workers_and_shards_write_the_bytes_of_one_process(words):
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    assert run_command(main, [*words, "--output-prefix", "y", "--workers", "2"]) == 0
    for index in range(2):
        shard = ["--num-shards", "2", "--shard-index", str(index)]
        assert run_command(main, [*words, "--output-prefix", "z", *shard]) == 0
    assert run_command(main, ["--merge-shards", "--output-prefix", "z"]) == 0
    once = contents("x")
    for prefix in "yz":
        assert {"x" + name[1:]: data for name, data in contents(prefix).items()} == once


def test_long_rows_are_counted_by_their_only_response(tmp_path):
    dataset = open_dataset(write_random_steps(tmp_path / "s", 9))
    lengths = [len(READER.read(dataset, row).responses[0].input_ids) for row in range(9)]
    assert dataset.rows.longest_sides().tolist() == lengths


def test_steps_are_not_trained_on_as_preferences_nor_the_other_way_round(words, tmp_path):
    steps = open_dataset(write_random_steps(tmp_path / "s", 4))
    with pytest.raises(UserError, match="holds labelled steps of single responses"):
        choose_objective("sigmoid").for_data([steps])
    Path("pairs.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}))
    flags = ["--input", "pairs.jsonl", "--handler-name", "OpenAiMessagesPairwiseHandler", *words[4:]]
    assert run_command(main, [*flags, "--output-prefix", "x"]) == 0
    with pytest.raises(UserError, match="holds no labelled steps"):
        choose_objective("sigmoid", stage="prm").for_data([open_dataset(X)])


def rewrite(prefix, name, values, lengths):
    path = array_prefix(prefix, name)
    with bin_path(path).open("wb") as data, idx_path(path).open("wb") as index:
        writer = IndexedWriter(data, index, "float32" if name == "step_labels" else "int32")
        writer.append(np.array(values), np.array(lengths, np.int32))
        writer.finish()


def test_damaged_steps_are_named(tmp_path):
    prefix = write_random_steps(tmp_path / "s", 2)
    rewrite(prefix, "step_ends", [10**6, 10**6], [1, 1])
    with pytest.raises(UserError, match=r"step_labels_document\.idx is not the labels of the steps"):
        open_dataset(prefix)
    rewrite(prefix, "step_labels", [1.0, 1.0], [1, 1])
    with pytest.raises(UserError, match="a step of row 1 ends outside of its response"):
        READER.read(open_dataset(prefix), 1)
    pairs = write_random_rows(tmp_path / "p", 2)
    for name in ("step_ends", "step_labels"):
        rewrite(pairs, name, [1, 1], [1, 1])
    with pytest.raises(UserError, match=r"ranks_document\.idx has rows of several responses"):
        open_dataset(pairs)


def test_placeholder_that_the_tokenizer_does_not_have_ends_the_command(words, capsys):
    assert run_command(main, [*words, "--output-prefix", "x", "--placeholder-token", "\\n"]) == 2
    assert "--placeholder-token '\\n' has no token of" in capsys.readouterr().err
