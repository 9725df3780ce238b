import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.commands.preprocess import main
from modellink_rm.dataset.manifest import PAIR_ARRAYS, array_prefix, checksums_path, data_files, manifest_path
from modellink_rm.preprocess.parts import locked_parts, parts_path, read_shard
from modellink_rm.preprocess.rows import Refused, Rows, from_bytes, to_bytes

SCRIPT = Path(__file__).parents[3] / "preprocess_data.py"
X = Path("x")


@pytest.fixture
def words(tmp_path, monkeypatch, sentencepiece_path):
    """Flags for 500 records with bad ones and repetitions among them, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    records = [
        {"instruction": f"question {i % 431} " * (i % 7 + 1), "chosen": "I am fine", "rejected": "no"}
        for i in range(500)
    ]
    lines = [json.dumps(record) for record in records]
    lines[100], lines[499] = "not json", '{"instruction": "q"}'
    Path("in.jsonl").write_text("\n".join(lines))
    flags = ["--input", "in.jsonl", "--handler-name", "AlpacaStylePairwiseHandler", "--prompt-type", "llama2"]
    return [*flags, "--tokenizer-model", str(sentencepiece_path), "--drop", "duplicate"]


def run(words, prefix, *flags):
    rejects = ["--rejects", str(Path(prefix).parent / "rejects.jsonl")]
    return run_command(main, [*words, *rejects, "--output-prefix", prefix, *flags])


def contents(directory):
    paths = [*data_files(X), checksums_path(X), manifest_path(X), Path("rejects.jsonl")]
    return {path.name: Path(directory, path.name).read_bytes() for path in paths}


def test_merged_shards_are_a_single_runs_bytes(words, capsys):
    assert run(words, "one/x") == 0
    for num_shards in (2, 3, 11):  # 11 are more than there are blocks
        prefix = f"s{num_shards}/x"
        for index in reversed(range(num_shards)):
            shard = ["--num-shards", str(num_shards), "--shard-index", str(index)]
            assert run(words, prefix, *shard, "--workers", str(index % 2 + 1)) == 0
        merge = ["--merge-shards", "--output-prefix", prefix, "--rejects", f"s{num_shards}/rejects.jsonl"]
        assert run_command(main, merge) == 0
        assert contents(f"s{num_shards}") == contents("one")
        assert sorted(os.listdir(f"s{num_shards}")) == sorted(os.listdir("one"))
    rejects = Path("one/rejects.jsonl").read_text().splitlines()
    assert json.loads(rejects[0])["place"] == "in.jsonl:101"


def test_shards_that_cannot_be_merged_are_named(words, capsys):
    merge = ["--merge-shards", "--output-prefix", "x"]
    assert run_command(main, merge) == 2
    assert "there are no shards x_shard_*.parts" in capsys.readouterr().err
    assert run(words, "x", "--num-shards", "3", "--shard-index", "1") == 0
    assert run_command(main, merge) == 2
    assert "of the 3 shards of x, these are missing: 0, 2" in capsys.readouterr().err
    assert run(words, "x", "--num-shards", "3", "--shard-index", "0") == 0
    assert run(words, "x", "--num-shards", "3", "--shard-index", "2", "--seq-length", "9") == 0
    assert run_command(main, merge) == 2
    assert "x_shard_2_of_3.parts was made with another seq_length" in capsys.readouterr().err
    assert run(words, "x", "--num-shards", "3", "--shard-index", "2") == 0
    path = Path("x_shard_1_of_3.parts")
    path.write_bytes(path.read_bytes()[:-30])
    assert run_command(main, merge) == 2
    assert "x_shard_1_of_3.parts is not complete" in capsys.readouterr().err
    assert not any(path.exists() for path in data_files(X))
    assert run(words, "x", "--num-shards", "3", "--shard-index", "1", "--resume") == 0
    assert run_command(main, [*merge, "--rejects", "rejects.jsonl"]) == 0
    assert run(words, "one/x") == 0
    assert contents(".") == contents("one")


def test_shards_of_an_input_that_changed_between_them_are_not_merged(words, capsys):
    answers = {"chosen": "a", "rejected": "b"}
    lines = [json.dumps({"instruction": f"{i:06} {'word ' * 80}", **answers}) for i in range(500)]
    Path("in.jsonl").write_text("\n".join(lines))
    assert run(words, "x", "--num-shards", "2", "--shard-index", "0") == 0
    lines[192:256], lines[256:320] = lines[256:320], lines[192:256]  # beyond both ends of the file
    Path("in.jsonl").write_text("\n".join(lines))
    assert run(words, "x", "--num-shards", "2", "--shard-index", "1") == 0
    assert run_command(main, ["--merge-shards", "--output-prefix", "x"]) == 2
    assert "x_shard_1_of_2.parts was made of other records than x_shard_0_of_2" in capsys.readouterr().err
    assert not any(path.exists() for path in data_files(X))


def test_a_length_that_is_damaged_is_an_incomplete_shard(words, capsys):
    """The next 2^62 bytes are not asked of the system, which would call it a want of memory."""
    for index in "01":
        assert run(words, "x", "--num-shards", "2", "--shard-index", index) == 0
    path = Path("x_shard_0_of_2.parts")
    content = bytearray(path.read_bytes())
    size_of_identity = int.from_bytes(content[9:17], "little")
    for end_of_a_length, message in ((17, "holds no parts"), (17 + size_of_identity + 8, "is not complete")):
        damaged = content.copy()
        damaged[end_of_a_length - 1] ^= 0x40
        path.write_bytes(damaged)
        assert run_command(main, ["--merge-shards", "--output-prefix", "x"]) == 2
        assert f"x_shard_0_of_2.parts {message}" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.full), "2"])
def test_a_killed_run_continues_to_the_bytes_of_an_uninterrupted_one(words, workers):
    text = Path("in.jsonl").read_text()
    Path("in.jsonl").write_text("\n".join([text] * 40))
    assert run(words, "one/x") == 0
    command = [
        sys.executable,
        str(SCRIPT),
        *words,
        "--output-prefix",
        "two/x",
        "--rejects",
        "two/rejects.jsonl",
    ]
    process = subprocess.Popen([*command, "--workers", workers])
    parts = parts_path(Path("two/x"))
    while not (parts.exists() and parts.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not manifest_path(Path("two/x")).exists()
    # torn in the middle of a part, as a power cut may leave it
    parts.write_bytes(parts.read_bytes()[:-7])
    result = subprocess.run([*command, "--resume"], stderr=subprocess.PIPE, text=True, check=True)
    finished = int(result.stderr.split("--resume: ")[1].split()[0].replace(",", ""))
    assert 0 < finished < 40 * 500 // 64
    assert contents("two") == contents("one")
    assert sorted(os.listdir("two")) == sorted(os.listdir("one"))


def test_resume_with_other_flags_or_input_is_refused(words, capsys):
    process = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_TWO_PARTS, *words, "--output-prefix", "x"], check=False
    )
    assert process.returncode == -signal.SIGKILL
    left = parts_path(X).read_bytes()
    assert run_command(main, [*words, "--output-prefix", "x", "--resume", "--seq-length", "9"]) == 2
    assert "is of a run with another seq_length" in capsys.readouterr().err
    assert parts_path(X).read_bytes() == left
    with open("in.jsonl", "a") as file:
        file.write("\n")
    assert run_command(main, [*words, "--output-prefix", "x", "--resume"]) == 2
    assert "is of a run with another input_files" in capsys.readouterr().err


def test_strict_stops_at_a_bad_record_that_the_killed_run_had_skipped(words, capsys):
    killed = [sys.executable, "-c", KILLED_AFTER_TWO_PARTS, *words, "--output-prefix", "x"]
    assert subprocess.run(killed, check=False).returncode == -signal.SIGKILL
    assert run_command(main, [*words, "--output-prefix", "x", "--resume", "--strict"]) == 2
    assert "error: in.jsonl:101: invalid JSON" in capsys.readouterr().err
    assert not manifest_path(X).exists()


def test_resume_notices_a_change_in_the_middle_of_what_was_read(words, capsys):
    records = [{"instruction": f"question {i} " * 150, "chosen": "yes", "rejected": "no"} for i in range(500)]
    path = Path("in.jsonl")
    path.write_text("\n".join(map(json.dumps, records)))
    killed = [sys.executable, "-c", KILLED_AFTER_TWO_PARTS, *words, "--output-prefix", "x"]
    assert subprocess.run(killed, check=False).returncode == -signal.SIGKILL
    text = path.read_text()
    place = text.index("question 90 ")
    assert 1 << 16 < place < len(text) - (1 << 16)
    path.write_text(text.replace("question 90 ", "question 91 "))
    left = parts_path(X).read_bytes()
    assert run_command(main, [*words, "--output-prefix", "x", "--resume"]) == 2
    assert (
        "--resume: the input changed since the interrupted run, from in.jsonl:65 on"
        in capsys.readouterr().err
    )
    assert parts_path(X).read_bytes() == left
    path.write_text(text)
    assert run_command(main, [*words, "--output-prefix", "x", "--resume"]) == 0


KILLED_AFTER_TWO_PARTS = """
import os, signal, sys
from modellink_rm.preprocess.parts import Parts
from modellink_rm.commands.preprocess import main
append, count = Parts.append, [0]
def append_and_die(self, part):
    append(self, part)
    count[0] += 1
    if count[0] == 3:  # the identity and two parts
        os.kill(os.getpid(), signal.SIGKILL)
Parts.append = append_and_die
main(sys.argv[1:])
"""


def test_resume_without_parts_begins_at_the_start(words):
    assert run(words, "one/x") == 0
    assert run(words, "two/x", "--resume") == 0
    assert contents("two") == contents("one")


def test_a_second_run_on_a_prefix_is_refused(words, capsys, monkeypatch):
    monkeypatch.setattr("modellink_rm.base.files.SECONDS_FOR_A_DYING_RUN", 0.1)
    with locked_parts(parts_path(X), flag="--output-prefix x"):
        assert run_command(main, [*words, "--output-prefix", "x"]) == 2
        assert "another run is writing it" in capsys.readouterr().err
        assert run_command(main, [*words, "--output-prefix", "y"]) == 0
    assert run_command(main, [*words, "--output-prefix", "x"]) == 0


def test_the_remains_of_a_killed_run_are_removed(words):
    remains = Path(".x_manifest.json.123.tmp")
    remains.touch()
    others = Path(".x_2_manifest.json.123.tmp")
    others.touch()
    assert run(words, "x") == 0
    assert not remains.exists()
    assert others.exists()


def test_merge_group_keys_joins_the_files_sorted_by_name(words):
    for prefix, limit in (("b", "40"), ("a", "50"), ("c", "500")):
        assert run_command(main, [*words, "--output-prefix", f"in/{prefix}", "--seq-length", limit]) == 0
    keys = [f"packed_{array}_document" for array in PAIR_ARRAYS]
    made = sorted(path.name[0] for path in Path("in").glob("*_manifest.json"))
    assert len(made) >= 2
    merge = ["--input", "in", "--output-prefix", "out/all", "--merge-group-keys", *keys]
    assert run_command(main, merge) == 0
    for array in PAIR_ARRAYS:
        expected = [
            row.tolist()
            for prefix in made
            for row in IndexedDataset(str(array_prefix(Path("in", prefix), array)))
        ]
        merged = IndexedDataset(f"out/all_packed_{array}_document")
        assert [row.tolist() for row in merged] == expected
        assert merged.document_indices.tolist() == list(range(len(expected) + 1))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--merge-group-keys", "k"], "--merge-group-keys needs --input"),
        (["--merge-group-keys", "k", "--input", "nowhere"], "--input nowhere is not a directory"),
        (["--merge-group-keys", "k", "--input", "."], "--merge-group-keys k: no file in . has it"),
        (["--merge-shards", "--merge-group-keys", "k"], "give one of --merge-shards and"),
        (["--merge-shards", "--worker", "2"], "unknown flag --worker"),
    ],
)
def test_a_mistake_in_merging_is_one_line(words, capsys, flags, message):
    assert run_command(main, ["--output-prefix", "x", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_shard_index_outside_of_the_shards_is_refused(words, capsys):
    assert run(words, "x", "--num-shards", "2", "--shard-index", "2") == 2
    assert "--shard-index 2 must be from 0 to --num-shards - 1 = 1" in capsys.readouterr().err


def test_rows_survive_their_bytes_and_damage_is_seen():
    rows = Rows(
        num_bytes=9,
        num_records=2,
        refused=[Refused("a:1", "r", "m \udce9", True, 3, 0, "\xff")],
        num_responses=np.array([2], np.int32),
        lengths=np.array([2, 1, 0], np.int32),
        digests=np.array([2**64 - 1], np.uint64),
        flags=np.array([5], np.uint8),
        ranks=np.array([1, 2], np.int32),
        margins=np.array([0.5], np.float32),
        probabilities=np.array([0.75], np.float32),
        num_steps=np.array([2], np.int32),
        step_ends=np.array([0, 1], np.int32),
        step_labels=np.array([1.0, 0.5], np.float32),
        sources=["\u00e9"],
        ids=np.array([7, -1, 2**31 - 1], np.int32),
    )
    data = to_bytes(rows)
    back = from_bytes(data)
    assert (back.refused, back.sources) == (rows.refused, rows.sources)
    names = ["num_responses", "lengths", "digests", "flags", "ranks", "margins", "probabilities", "ids"]
    for name in (*names, "num_steps", "step_ends", "step_labels"):
        assert np.array_equal(getattr(back, name), getattr(rows, name))
    for damaged in (data[:-1], data[:20] + b"?" + data[21:], b""):
        assert from_bytes(damaged) is None


def test_a_file_that_is_no_shard_is_named(words):
    Path("x_shard_0_of_1.parts").write_text("text")
    with pytest.raises(UserError, match="holds no parts"):
        read_shard(Path("x_shard_0_of_1.parts"))
