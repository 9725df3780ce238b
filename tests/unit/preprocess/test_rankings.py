"""K responses to one prompt, margins and sources: from records through the files to examples."""

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.batching.targets import targets_of
from modellink_rm.commands.inspect import main as inspect_main
from modellink_rm.commands.preprocess import main
from modellink_rm.conversation import PAIR_RANKS
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.indexed import IndexedReader, bin_path, idx_path
from modellink_rm.dataset.manifest import (
    COLUMNS,
    PAIR_ARRAYS,
    array_prefix,
    checksums_path,
    column_files,
    columns_of,
    data_files,
    key_of,
    manifest_path,
    read_manifest,
)
from modellink_rm.dataset.reader import ExampleReader
from modellink_rm.handlers import make_handler
from modellink_rm.preprocess.parts import parts_path
from modellink_rm.records import RecordError

NAME = "RankedResponsesHandler"
# Probabilities belong to pairs, and the others to single responses.
RANKING_COLUMNS = ["ranks", "margin", "source"]
READER = ExampleReader(seq_length=512, truncation="right", num_closing_tokens=1, num_ids=1000)
X = Path("x")
TEXTS = ["the capital", "I am fine", "no", "hello there, how are you today?"]


def records():
    """300 prompts with 2 to 5 responses, ties among them, and a few bad ones."""
    found = []
    for i in range(300):
        count = i % 4 + 2
        texts = [f"{TEXTS[k % 4]} {i % 250} {k}" for k in range(count)]
        ratings = [(i + k * 3) % 4 for k in range(count)]
        found.append({"prompt": f"question {i % 250}", "responses": texts, "ratings": ratings})
        found[-1]["set"] = "éa" if i % 3 else None
    found[7]["responses"][0] = ""
    found[9]["ratings"] = [1] * len(found[9]["ratings"])
    found[11] = {"prompt": "q"}
    return found


@pytest.fixture
def words(tmp_path, monkeypatch, sentencepiece_path):
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("\n".join(map(json.dumps, records())))
    flags = ["--input", "in.jsonl", "--handler-name", NAME, "--prompt-type", "llama2"]
    flags += ["--map-keys", '{"source": "set"}', "--drop", "duplicate", "empty"]
    return [*flags, "--tokenizer-model", str(sentencepiece_path)]


def kept_rankings():
    """What the handler makes of the records that are kept, in order."""
    handler = make_handler(NAME, '{"source": "set"}')
    found = []
    for record in records():
        try:
            one = handler(record)
        except RecordError:
            continue
        same = [other for other in found if (other.prompt, other.responses) == (one.prompt, one.responses)]
        if not same and all(response.content for response in one.responses):
            found.append(one)
    return found


def contents(prefix):
    directory = Path(prefix).parent
    return {path.name: path.read_bytes() for path in sorted(directory.glob(f"{Path(prefix).name}_*"))}


def test_megatron_core_reads_the_files_a_document_for_each_prompt(words, capsys):
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    files = [*data_files(X), *(path for column in RANKING_COLUMNS for path in column_files(X, column))]
    assert all(path.exists() for path in files)
    expected = kept_rankings()
    read = {name: IndexedDataset(str(array_prefix(X, name))) for name in (*PAIR_ARRAYS, *RANKING_COLUMNS)}
    boundaries = read["rejected_input_ids"].document_indices
    assert read["ranks"].index.dtype is np.int32
    assert read["margin"].index.dtype is np.float32
    assert len(read["chosen_input_ids"]) == len(read["ranks"]) == len(expected) > 200
    assert len(boundaries) == len(expected) + 1
    for row, one in enumerate(expected):
        assert tuple(read["ranks"][row].tolist()) == one.ranks
        assert tuple(read["margin"][row].tolist()) == one.margins
        assert bytes(read["source"][row]).decode() == (one.source or "")
        assert int(boundaries[row + 1] - boundaries[row]) == len(one.responses) - 1
    for side in ("chosen", "rejected"):
        assert np.array_equal(
            read[f"{side}_labels"].document_indices, read[f"{side}_input_ids"].document_indices
        )
    assert "with a tie" in capsys.readouterr().out


def test_rows_are_the_responses_best_first(words, sentencepiece_path):
    from modellink_rm.tokenizers.sentencepiece_tokenizer import load_sentencepiece_tokenizer

    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    tokenizer = load_sentencepiece_tokenizer(sentencepiece_path)
    dataset = open_dataset(X)
    assert dataset.holds_rankings
    assert len(dataset) == len(kept_rankings())
    for row, one in enumerate(kept_rankings()):
        example = READER.read(dataset, row)
        assert (example.ranks, example.margins, example.source) == (one.ranks, one.margins, one.source or "")
        texts = [tokenizer.decode(r.input_ids[r.num_prompt_tokens :].tolist()) for r in example.responses]
        assert texts == [response.content for response in one.responses]
        prompts = {tuple(r.input_ids[: r.num_prompt_tokens]) for r in example.responses}
        assert len(prompts) == 1


def test_long_rows_are_counted_by_their_longest_response(words):
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    dataset = open_dataset(X)
    rows = range(len(dataset))
    longest = [max(len(r.input_ids) for r in READER.read(dataset, row).responses) for row in rows]
    limit = sorted(longest)[len(longest) // 2]
    cutting = dataclasses.replace(READER, seq_length=limit)
    assert cutting.num_too_long(dataset) == sum(length > limit for length in longest) > 0
    cut = [cutting.read(dataset, row).is_truncated for row in rows]
    assert cut == [length > limit for length in longest]


def test_bad_id_of_any_response_is_named_by_its_prompt(words):
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    manifest_path(X).unlink()
    path = bin_path(array_prefix(X, "rejected_input_ids"))
    ids = np.fromfile(path, dtype="<i4")
    ids[-1] = 1000  # of the last response of the last prompt
    ids.tofile(path)
    with pytest.raises(UserError, match=f"x: row {len(kept_rankings()) - 1} has no token, or an id"):
        READER.check_rows(open_dataset(X))


def test_bytes_do_not_depend_on_workers_shards_and_resuming(words):
    assert run_command(main, [*words, "--output-prefix", "one/x"]) == 0
    assert run_command(main, [*words, "--output-prefix", "two/x", "--workers", "2"]) == 0
    for index in range(3):
        shard = ["--num-shards", "3", "--shard-index", str(index), "--output-prefix", "s/x"]
        assert run_command(main, [*words, *shard]) == 0
        parts = parts_path(Path("s/x"), index, 3)
        parts.write_bytes(parts.read_bytes()[: -(1 << 10)])  # torn in its last part, as a kill leaves it
        assert run_command(main, [*words, *shard, "--resume"]) == 0
    assert run_command(main, ["--merge-shards", "--output-prefix", "s/x"]) == 0
    assert contents("one/x") == contents("two/x") == contents("s/x")
    assert len(contents("one/x")) == 8 + 2 * 3 + 2


def test_merge_group_keys_keeps_documents_and_dtypes(words):
    assert run_command(main, [*words, "--output-prefix", "in/a"]) == 0
    assert run_command(main, [*words, "--output-prefix", "in/b"]) == 0
    keys = [f"packed_{name}_document" for name in (*PAIR_ARRAYS, *RANKING_COLUMNS)]
    merge = ["--merge-group-keys", *keys, "--input", "in", "--output-prefix", "both"]
    assert run_command(main, merge) == 0
    for name in (*PAIR_ARRAYS, *RANKING_COLUMNS):
        one = IndexedDataset(str(array_prefix(Path("in/a"), name)))
        both = IndexedDataset(str(array_prefix(Path("both"), name)))
        assert [row.tolist() for row in both] == 2 * [row.tolist() for row in one]
        ends = one.document_indices.tolist()
        assert both.document_indices.tolist() == ends + [ends[-1] + end for end in ends[1:]]
    assert open_dataset(Path("both")).manifest is None  # without a manifest: what is there is looked at
    assert columns_of(Path("both"), None) == RANKING_COLUMNS


def test_merging_files_of_other_values_is_refused(words, capsys):
    assert run_command(main, [*words, "--output-prefix", "in/a"]) == 0
    merge = ["--merge-group-keys", "a_packed", "--input", "in", "--output-prefix", "both"]
    assert run_command(main, merge) == 2
    assert "holds float32" in capsys.readouterr().err


def test_the_manifest_vouches_for_the_columns(words):
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    manifest = open_dataset(X).manifest
    assert sum(manifest.num_responses.values()) == manifest.num_kept == len(kept_rankings())
    counts = [len(one.responses) for one in kept_rankings()]
    assert manifest.num_responses == {str(k): counts.count(k) for k in (2, 3, 4, 5)}
    assert manifest.num_ties == sum(len(set(one.ranks)) < len(one.ranks) for one in kept_rankings())
    path = column_files(X, "margin")[0]
    assert manifest.files[key_of(path, X)].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    with pytest.raises(UserError, match=r"x_packed_margin_document\.bin is missing"):
        open_dataset(X)


@pytest.mark.parametrize("column", RANKING_COLUMNS)
def test_columns_of_another_dtype_are_refused(words, column):
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    manifest_path(X).unlink()
    other = "ranks" if column == "margin" else "margin"
    assert len(IndexedReader(array_prefix(X, column), COLUMNS[column])) > 0
    for mine, theirs in zip(column_files(X, column), column_files(X, other), strict=True):
        mine.write_bytes(theirs.read_bytes())
    with pytest.raises(UserError, match="dtype code"):
        open_dataset(X)


def test_ranks_that_do_not_fit_the_rejected_responses_are_refused(words):
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    manifest_path(X).unlink()
    for path in column_files(X, "ranks"):
        path.unlink()
    rejected = idx_path(array_prefix(X, "rejected_input_ids")).name
    with pytest.raises(UserError, match=f"{rejected} has {sum(map(k_of, kept_rankings()))} rows instead of"):
        open_dataset(X)


def k_of(one):
    return len(one.responses) - 1


def test_two_responses_each_without_ratings_are_a_plain_data_set_of_pairs(words, capsys):
    Path("in.jsonl").write_text(
        "\n".join(
            json.dumps({"prompt": f"q {i}", "responses": ["a", "b"], "ranks": [2, 1]}) for i in range(9)
        )
    )
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    assert sorted(contents("x")) == sorted(
        path.name for path in [*data_files(X), checksums_path(X), manifest_path(X)]
    )
    dataset = open_dataset(X)
    assert (dataset.holds_rankings, dataset.rows.ranks_of(0)) == (False, PAIR_RANKS)
    assert "(8 files)" in capsys.readouterr().out


def test_margins_and_sources_of_pairs_are_written_where_there_are_any(words, capsys):
    lines = [
        {"instruction": f"q {i}", "chosen": "a", "rejected": "b", "by": i / 8 if i > 70 else None, "set": "s"}
        for i in range(100)
    ]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [word if word != NAME else "AlpacaStylePairwiseHandler" for word in words]
    words[words.index("--map-keys") + 1] = '{"margin": "by", "source": "set"}'
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    assert columns_of(X, read_manifest(X)) == ["margin", "source"]
    margins = IndexedDataset(str(array_prefix(X, "margin")))
    assert np.isnan([row[0] for row in margins[:71]]).all()
    assert [row.tolist() for row in margins[71:]] == [[i / 8] for i in range(71, 100)]
    dataset = open_dataset(X)
    examples = [READER.read(dataset, row) for row in (0, 70, 71, 99)]
    assert [example.margins for example in examples] == [None, None, (8.875,), (12.375,)]
    assert {example.source for example in examples} == {"s"}
    capsys.readouterr()
    assert run_command(inspect_main, ["x", "--first-row", "70", "--rows", "2"]) == 0
    output = capsys.readouterr().out
    assert "--- row 70: rejected, " in output
    assert "margin nan" not in output
    assert "--- row 71: prompt, " in output
    assert "source s" in output
    assert "margin 8.875" in output
    # a run without them takes the older files away
    words[words.index("--map-keys") + 1] = "{}"
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    assert sorted(contents("x")) == sorted(
        path.name for path in [*data_files(X), checksums_path(X), manifest_path(X)]
    )


@pytest.mark.parametrize(
    ("margin", "reason"), [(-1, "field 'by' is below 0"), (1e300, "field 'by' must be a number up to 1e+38")]
)
def test_a_margin_that_cannot_be_is_counted(words, margin, reason):
    lines = [{"instruction": "q", "chosen": "a", "rejected": "b", "by": by} for by in (margin, 2)]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [word if word != NAME else "AlpacaStylePairwiseHandler" for word in words]
    words[words.index("--map-keys") + 1] = '{"margin": "by"}'
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    assert open_dataset(X).manifest.dropped == {reason: 1}


def test_probabilities_of_pairs_are_written_where_there_are_any(words, capsys):
    given = (None, 0.75, 0.4, 1, 0.5, 1.5)
    lines = [{"instruction": f"q{i}", "chosen": "a", "rejected": "b", "by": p} for i, p in enumerate(given)]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [word if word != NAME else "AlpacaStylePairwiseHandler" for word in words]
    words[words.index("--map-keys") + 1] = '{"probability": "by"}'
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    dataset = open_dataset(X)
    assert dataset.manifest.dropped == {
        "chosen has the lower probability": 1,
        "field 'by' is no probability": 1,
    }
    examples = [READER.read(dataset, row) for row in range(len(dataset))]
    assert [example.probabilities for example in examples] == [None, (0.75,), (1.0,), (0.5,)]
    assert targets_of(examples).probabilities.tolist() == [1, 1, 1, 0.75, 1, 1, 1, 0.5]
    capsys.readouterr()
    assert run_command(inspect_main, ["x", "--first-row", "1", "--rows", "1"]) == 0
    assert "probability 0.25" in capsys.readouterr().out


def test_checks_look_at_every_response(words):
    odd = {"prompt": "q", "responses": ["a", "b", "b"], "ranks": [1, 2, 3]}
    empty = {"prompt": "q", "responses": ["a", "b", " "], "ranks": [1, 2, 3]}
    long = {"prompt": "q", "responses": ["a", "the capital " * 20, "b"], "ranks": [1, 3, 2]}
    special = {"prompt": "q", "responses": ["a", "b", "c </s>"], "ranks": [1, 2, 3]}
    Path("in.jsonl").write_text("\n".join(map(json.dumps, [odd, empty, long, special, special])))
    words = [word for word in words if word not in ("--drop", "duplicate", "empty")]
    assert run_command(main, [*words, "--output-prefix", "x", "--max-answer-length", "30"]) == 0
    assert open_dataset(X).manifest.checks == {
        "equal": 1,
        "empty": 1,
        "long-prompt": 0,
        "long-answer": 1,
        "special-tokens": 2,
        "duplicate": 1,
    }


def test_rows_are_shown_with_their_ranks(words, capsys):
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    capsys.readouterr()
    row = next(row for row, one in enumerate(kept_rankings()) if len(one.responses) == 5)
    assert run_command(inspect_main, ["x", "--first-row", str(row), "--rows", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    one = kept_rankings()[row]
    headings = [line for line in lines if line.startswith(f"--- row {row}:")]
    assert len(headings) == 1 + len(one.responses)
    for rank, heading in zip(one.ranks, headings[1:], strict=True):
        assert f"rank {rank} of {one.ranks[-1]}" in heading
    assert any(line.startswith("responses      2 each to ") and line.endswith("with a tie") for line in lines)


def test_a_handler_of_ones_own_makes_rankings_that_hold_together(words, capsys):
    code = """
from modellink_rm.conversation import Message, Ranking
class Mine:
    def __call__(self, record):
        answers = tuple(Message("assistant", text) for text in record["responses"])
        return Ranking(None, "", (Message("user", "q"),), answers, tuple(record["ranks"]))
"""
    Path("mine.py").write_text(code)
    words[words.index(NAME)] = "mine.py:Mine"
    words = [word for word in words if word not in ("--map-keys", '{"source": "set"}')]
    good = {"responses": ["a", "b", "c"], "ranks": [1, 2, 2]}
    Path("in.jsonl").write_text(json.dumps(good))
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0
    for ranks in ([1, 2], [1, 3, 3], [2, 1, 3], [1, 1, 1], []):
        Path("in.jsonl").write_text(json.dumps({**good, "ranks": ranks}))
        assert run_command(main, [*words, "--output-prefix", "y"]) == 2
        assert f"Mine returned a Ranking of 3 responses with the ranks {ranks}" in capsys.readouterr().err


def test_every_order_of_the_responses_is_the_same_row(words):
    rows = set()
    for number, order in enumerate(itertools.permutations(range(3))):
        record = {"prompt": "q", "responses": [TEXTS[i] for i in order], "ranks": [i + 1 for i in order]}
        Path("in.jsonl").write_text(json.dumps(record))
        assert run_command(main, [*words, "--output-prefix", f"{number}/x"]) == 0
        files = contents(f"{number}/x")
        rows.add(tuple(content for name, content in files.items() if name.endswith(".bin")))
    assert len(rows) == 1
