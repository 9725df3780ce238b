import json
from pathlib import Path

import orjson
import pytest

from modellink_rm.base.errors import run_command
from modellink_rm.commands.preprocess import main
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.indexed import IndexedReader
from modellink_rm.dataset.lengths import LengthCounts
from modellink_rm.dataset.manifest import array_prefix
from modellink_rm.preprocess.checks import DigestSet

GOOD = {"instruction": "hello there", "chosen": "I am fine", "rejected": "no"}
LONG = " the capital of France" * 5
RECORDS = {
    "good": GOOD,
    "equal": {**GOOD, "rejected": GOOD["chosen"]},
    "empty": {**GOOD, "rejected": " \n"},
    "long-prompt": {**GOOD, "instruction": "hello" + LONG},
    "long-answer": {**GOOD, "chosen": "fine" + LONG},
    "special-tokens": {**GOOD, "chosen": "I am </s> fine"},
    "duplicate": GOOD,
}
LIMITS = ["--max-prompt-length", "25", "--max-answer-length", "20"]
CHECKS = ("equal", "empty", "long-prompt", "long-answer", "special-tokens", "duplicate")


@pytest.fixture
def run(tmp_path, monkeypatch, sentencepiece_path):
    monkeypatch.chdir(tmp_path)

    def run_on(records, *flags):
        Path("in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        words = ["--input", "in.jsonl", "--output-prefix", "x", "--prompt-type", "llama2"]
        words += [
            "--handler-name",
            "AlpacaStylePairwiseHandler",
            "--tokenizer-model",
            str(sentencepiece_path),
        ]
        return run_command(main, [*words, *flags])

    return run_on


def num_rows():
    return len(IndexedReader(array_prefix(Path("x"), "chosen_labels")))


def rejects():
    return [json.loads(line) for line in Path("rejects.jsonl").read_text().splitlines()]


def test_checks_count_and_keep_by_default(run):
    assert run(RECORDS.values(), *LIMITS) == 0
    manifest = open_dataset(Path("x")).manifest
    assert manifest.checks == dict.fromkeys(CHECKS, 1)
    assert manifest.dropped == {}
    assert sum(manifest.notes.values()) == 6
    assert num_rows() == 7


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_drops_its_pair_alone_and_still_counts_it(run, check):
    assert run(RECORDS.values(), *LIMITS, "--drop", check, "--rejects", "rejects.jsonl") == 0
    manifest = open_dataset(Path("x")).manifest
    assert manifest.checks == dict.fromkeys(CHECKS, 1)
    assert list(manifest.dropped.values()) == [1]
    assert len(manifest.notes) == 5
    assert num_rows() == 6
    (rejected,) = rejects()
    assert rejected["record"] == RECORDS[check]
    assert rejected["place"] == f"in.jsonl:{list(RECORDS).index(check) + 1}"
    assert rejected["reason"] == next(iter(manifest.dropped))


def test_all_checks_together_keep_the_good_pair(run):
    assert run(RECORDS.values(), *LIMITS, "--drop", *CHECKS, "--rejects", "rejects.jsonl") == 0
    assert num_rows() == 1
    assert [entry["record"] for entry in rejects()] == list(RECORDS.values())[1:]


def test_special_tokens_in_a_text_stay_text(run):
    assert run([RECORDS["special-tokens"]]) == 0
    row = IndexedReader(array_prefix(Path("x"), "chosen_input_ids"))[0].tolist()
    assert row.count(2) == 1
    assert row[-1] == 2


def test_rejects_hold_every_refused_record_in_order_also_what_is_no_json(run):
    Path("in.jsonl").touch()
    assert run([GOOD, {"instruction": "q"}, GOOD], "--rejects", "rejects.jsonl", "--drop", "duplicate") == 0
    assert [(entry["place"], entry["reason"]) for entry in rejects()] == [
        ("in.jsonl:2", "field 'chosen' is missing"),
        ("in.jsonl:3", "equal to an earlier pair"),
    ]
    Path("bad.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"a": "\xff"}\n{"b": \n')
    assert run([], "--input", "bad.jsonl", "--rejects", "rejects.jsonl") == 0
    assert [(entry["reason"], entry["text"]) for entry in rejects()] == [
        ("invalid UTF-8", '{"a": "\\xff"}\n'),
        ("invalid JSON", '{"b": \n'),
    ]


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": 1, "a": 2}'])
def test_rejects_hold_as_text_what_parsers_read_differently(run, text):
    """Lines were no JSON, or of a key that is twice in a record one value was lost."""
    Path("in.jsonl").touch()
    Path("bad.jsonl").write_text(f"{json.dumps(GOOD)}\n{text}\n")
    assert run([], "--input", "bad.jsonl", "--rejects", "rejects.jsonl") == 0
    (entry,) = map(orjson.loads, Path("rejects.jsonl").read_bytes().splitlines())
    assert entry["text"] == f"{text}\n"


def test_rejects_keep_integers_of_any_size(run):
    assert run([GOOD, {"a": 10**30}], "--rejects", "rejects.jsonl") == 0
    assert rejects()[0]["record"] == {"a": 10**30}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--drop", "equals"], "unknown check of --drop 'equals'; did you mean equal?"),
        (["--drop", "long-prompt"], "--drop long-prompt needs a limit: --max-prompt-length"),
        (["--max-answer-length", "0"], "--max-answer-length must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(run, capsys, flags, message):
    assert run([GOOD], *flags) == 2
    assert message in capsys.readouterr().err


def test_limits_are_the_last_lengths_that_pass(run):
    assert run([GOOD]) == 0
    lengths = open_dataset(Path("x")).manifest.lengths
    prompt, answer = lengths["prompt"].longest, lengths["chosen"].longest
    assert run([GOOD], "--max-prompt-length", str(prompt), "--max-answer-length", str(answer)) == 0
    assert open_dataset(Path("x")).manifest.notes == {}
    assert run([GOOD], "--max-prompt-length", str(prompt - 1), "--max-answer-length", str(answer - 1)) == 0
    assert len(open_dataset(Path("x")).manifest.notes) == 2


def test_digests_are_found_again_while_the_table_grows():
    digests = DigestSet(4)
    values = [0, 2**64 - 1, *(i * 2654435761 for i in range(2, 200))]
    assert not any(digests.add(value) for value in values)
    assert all(digests.add(value) for value in values)


def test_length_statistics_of_known_lengths():
    import numpy as np

    counts = LengthCounts()
    counts.add(np.array([1] * 50 + [40] * 45, np.int32))
    counts.add(np.array([100] * 4 + [1000], np.int32))
    found = counts.statistics()
    assert (found.total, found.mean, found.shortest, found.longest) == (3250, 32.5, 1, 1000)
    assert (found.median, found.p95, found.p99) == (1, 40, 100)
    assert found.histogram == {
        "0-31": 50,
        "32-63": 45,
        "64-127": 4,
        "128-255": 0,
        "256-511": 0,
        "512-1023": 1,
    }
    assert LengthCounts().statistics().histogram == {}
