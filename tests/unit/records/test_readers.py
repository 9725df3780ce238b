"""Every format of --input against what its own library wrote."""

import builtins
import csv
import gzip
import json
import os
import struct
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from modellink_rm.base.errors import UserError
from modellink_rm.records import (
    BadRecord,
    Limits,
    Record,
    hub,
    input_files,
    inputs,
    read_raw_records,
    read_records,
    text_crc32,
)

ROWS = [
    {"prompt": "你好\n", "n": 1, "chosen": [{"role": "assistant", "content": "a"}]},
    {"prompt": "", "n": None, "chosen": []},
    {"prompt": '"quoted", {}', "n": -3, "chosen": [{"role": "assistant", "content": "b"}]},
]
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def compressed(suffix, content):
    if suffix == ".gz":
        return gzip.compress(content)
    return zstandard.ZstdCompressor().compress(content) if suffix == ".zst" else content


def arrow_file(path, table):
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def arrow_stream(path, table):
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", json.dumps(ROWS, indent=1).encode()),
        ("x.json", JSON_LINES),
        ("x.jsonl", JSON_LINES),
        ("x.txt", JSON_LINES),
        ("X.JSONL", JSON_LINES),
    ],
)
def test_json_is_read_through_compression(tmp_path, name, content, suffix):
    path = tmp_path / (name + suffix)
    path.write_bytes(compressed(suffix, content))
    assert [record.fields for record in read_records(str(path))] == ROWS


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("write", [parquet.write_table, arrow_file, arrow_stream])
def test_tables_are_read_row_by_row(tmp_path, write, suffix):
    path = tmp_path / ("x.parquet" if write is parquet.write_table else "x.arrow")
    table = pyarrow.Table.from_pylist(ROWS)
    if write is parquet.write_table:
        write(table, path)
    else:
        write(path, table)
    given = path.with_name(path.name + suffix)
    given.write_bytes(compressed(suffix, path.read_bytes()))
    assert list(read_records(str(given))) == [
        Record(f"{given}[{index}]", row) for index, row in enumerate(ROWS)
    ]


def test_a_table_of_many_batches_keeps_its_order(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"n": list(range(1000))}), path, row_group_size=300)
    assert [record.fields["n"] for record in read_records(str(path))] == list(range(1000))


def test_text_of_a_table_that_is_not_utf8_is_one_bad_record(tmp_path):
    path = tmp_path / "x.arrow"
    column = pyarrow.array([b"a", b"\xff", b"c"]).view(pyarrow.string())
    arrow_stream(path, pyarrow.table({"text": column}))
    first, bad, last = read_records(str(path))
    assert (first.fields, last.fields) == ({"text": "a"}, {"text": "c"})
    assert bad == BadRecord(f"{path}[1]", "invalid UTF-8", "invalid UTF-8")


@pytest.mark.parametrize("write", [arrow_file, arrow_stream])
@pytest.mark.parametrize("wrong", [1 << 20, -9])
def test_an_offset_outside_of_an_arrow_file_is_damage_and_not_what_lies_in_memory(write, wrong, tmp_path):
    path = tmp_path / "x.arrow"
    write(path, pyarrow.table({"turns": [[{"from": "human", "value": text}] for text in ("aaaa", "bbbbb")]}))
    content = path.read_bytes()
    offsets = struct.pack("<3i", 0, 4, 9)
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, struct.pack("<3i", 0, wrong, 9)))
    with pytest.raises(UserError, match=r"x\.arrow is cut off or damaged: "):
        list(read_records(str(path)))


@pytest.mark.parametrize("write", [parquet.write_table, arrow_file, arrow_stream])
def test_a_column_whose_name_is_not_utf8_is_damage(write, tmp_path):
    path = tmp_path / ("x.parquet" if write is parquet.write_table else "x.arrow")
    table = pyarrow.table({"a_name": [1]})
    write(table, path) if write is parquet.write_table else write(path, table)
    path.write_bytes(path.read_bytes().replace(b"a_name", b"a\xffname"))
    with pytest.raises(UserError, match="is cut off or damaged: 'utf-8' codec can't decode"):
        list(read_records(str(path)))


def test_text_in_every_arrow_type_is_read(tmp_path):
    path = tmp_path / "x.arrow"
    pairs = pyarrow.map_(pyarrow.string(), pyarrow.large_string())
    columns = {
        "large": pyarrow.array(["é", None], pyarrow.large_string()),
        "lists": pyarrow.array([["é"], []], pyarrow.large_list(pyarrow.string())),
        "fixed": pyarrow.array([["é", "b"], None], pyarrow.list_(pyarrow.string(), 2)),
        "pairs": pyarrow.array([[("é", "b")], None], pairs),
        "codes": pyarrow.array(["é", "b"]).dictionary_encode(),
        "struct": pyarrow.array([{"a": {"b": ["é"]}}, None]),
        "none": pyarrow.nulls(2),
    }
    arrow_file(path, pyarrow.table(columns))
    expected = {name: column[0].as_py() for name, column in columns.items()}
    first, _ = read_records(str(path))
    assert first.fields == json.loads(json.dumps(expected))


def test_a_csv_row_of_another_encoding_is_told_as_that(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("prompt,chosen\r\na,b\r\nq,caf\u00e9\r\n".encode("cp1252"))
    good, bad = read_records(str(path))
    assert good.fields == {"prompt": "a", "chosen": "b"}
    assert bad == BadRecord(f"{path}:3", "invalid UTF-8", "invalid UTF-8")


def test_bytes_of_a_table_are_utf8_or_a_bad_record(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"b": ["é".encode(), b"\xff"], "d": [float("nan"), 1.5]}), path)
    text, bad = read_records(str(path))
    assert text.fields == {"b": "é", "d": None}
    assert bad == BadRecord(f"{path}[1]", "invalid UTF-8", "invalid UTF-8")


def test_times_that_python_has_no_type_for_are_text(tmp_path):
    path = tmp_path / "x.parquet"
    nanoseconds = pyarrow.array([10**18, 10**18 + 1], pyarrow.timestamp("ns"))
    days = pyarrow.array([0, 2**31 - 1], pyarrow.date32())
    parquet.write_table(pyarrow.table({"t": nanoseconds, "d": days, "n": [1, 2]}), path)
    first, last = read_records(str(path))
    assert first.fields == {"t": "2001-09-09T01:46:40", "d": "1970-01-01", "n": 1}
    assert last.fields["t"] == "2001-09-09T01:46:40.000000001"
    assert last.fields["n"] == 2


def test_a_list_of_times_that_python_has_no_type_for_is_one_bad_record(tmp_path):
    path = tmp_path / "x.parquet"
    lists = pyarrow.array([[10**18], [10**18 + 1]], pyarrow.list_(pyarrow.timestamp("ns")))
    parquet.write_table(pyarrow.table({"t": lists}), path)
    good, bad = read_records(str(path))
    assert good.fields == {"t": ["2001-09-09T01:46:40"]}
    assert bad.reason == "a date or time that Python has no type for"


def test_a_record_over_the_limit_that_moved_is_a_change_of_the_input(tmp_path):
    lines = ['{"n": 1}\n', '{"n": "a long text"}\n']
    for name, order in (("a", lines), ("b", lines[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(order))
    limits = Limits(max_record_bytes=12)
    one, other = (text_crc32(read_raw_records(str(tmp_path / f"{name}.jsonl"), limits)) for name in "ab")
    assert one != other


@pytest.mark.parametrize("write", [parquet.write_table, arrow_file])
def test_a_table_with_two_columns_of_one_name_is_an_error(tmp_path, write):
    path = tmp_path / ("x.parquet" if write is parquet.write_table else "x.arrow")
    table = pyarrow.table([[1], [2]], names=["a", "a"])
    if write is parquet.write_table:
        write(table, path)
    else:
        write(path, table)
    with pytest.raises(UserError, match="names a column twice: a, a"):
        list(read_records(str(path)))


SMALL = Limits(max_record_bytes=1000, max_expansion=200)
LONG = {"a": "x" * 2000}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_line_over_the_limit_is_one_bad_record(tmp_path, suffix):
    path = tmp_path / f"x.jsonl{suffix}"
    longest = json.dumps({"a": "x" * (1000 - len('{"a": ""}'))})
    lines = [json.dumps(LONG), '{"a": 1}', longest, json.dumps({"a": "y" * 3_000_000}), '{"a": 2}']
    path.write_bytes(compressed(path.suffix, "\n".join(lines).encode()))
    found = [(raw.place, raw.problem) for raw in read_raw_records(str(path), SMALL)]
    too_long = "longer than --max-record-bytes 1000"
    assert found == [(f"{path}:{i}", too_long if i in (1, 4) else "") for i in range(1, 6)]


def test_an_element_or_row_over_the_limit_is_refused(tmp_path):
    array = tmp_path / "x.json"
    array.write_text(json.dumps([LONG, {"a": 1}]))
    assert [raw.problem for raw in read_raw_records(str(array), SMALL)] == [SMALL.too_long, ""]
    array.write_text('[{"a": 1}, {"a": "' + "x" * 3_000_000)
    with pytest.raises(UserError, match=r"x.json: element 1 of its array, from line 1 on, is longer than"):
        list(read_raw_records(str(array), SMALL))
    table = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([LONG, {"a": "1"}]), table)
    assert [raw.problem for raw in read_raw_records(str(table), SMALL)] == [SMALL.too_long, ""]
    for content in ('a,b\n1,"' + "x\n" * 2000, "a,b\n" + "1," * 1000, "a,b\n1," + "x" * 2000):
        path = tmp_path / "x.csv"
        path.write_text(content)
        with pytest.raises(UserError, match=r"x.csv: a row, .* is longer than --max-record-bytes 1000"):
            list(read_raw_records(str(path), SMALL))


READ_WITHIN_400_MB = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
from modellink_rm.base.errors import UserError
from modellink_rm.records import read_raw_records
try:
    print([raw.problem for raw in read_raw_records(sys.argv[1])])
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.json.gz", "x.csv.gz", "x.json.zst"])
def test_a_decompression_bomb_is_refused_within_bounded_memory(tmp_path, name):
    path = tmp_path / name
    block = b"x" * (1 << 20)
    with zstandard.open(path, "wb") if name.endswith("zst") else gzip.open(path, "wb", 1) as file:
        file.write(b'a,b\n"' if "csv" in name else b'[{"a": "' if ".json." in name else b'{"a": "')
        for _ in range(300):
            file.write(block)
    run = [sys.executable, "-c", READ_WITHIN_400_MB, str(path)]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    expected = (
        "decompresses to more than 200 times its size" if "jsonl" in name else "--max-record-bytes 16777216"
    )
    assert expected in result.stdout


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_csv_as_the_csv_module_writes_it(tmp_path, suffix):
    rows = [{"prompt": 'a "b",\nc', "chosen": "你"}, {"prompt": "", "chosen": "x\r\ny"}]
    plain = tmp_path / "plain"
    with plain.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["prompt", "chosen"])
        writer.writeheader()
        writer.writerows(rows)
    path = tmp_path / f"x.csv{suffix}"
    path.write_bytes(compressed(suffix, plain.read_bytes()))
    assert list(read_records(str(path))) == [Record(f"{path}:2", rows[0]), Record(f"{path}:4", rows[1])]


def test_bad_rows_of_a_csv_leave_the_others(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n1,2\n\n1\n1,2,3\n\xff,2\n3,4\n")
    records = list(read_records(str(path)))
    assert [record.fields for record in records if isinstance(record, Record)] == [
        {"a": "1", "b": "2"},
        {"a": "3", "b": "4"},
    ]
    bad = [(record.place, record.reason) for record in records if isinstance(record, BadRecord)]
    assert [place for place, _ in bad] == [f"{path}:{line}" for line in (4, 5, 6)]
    assert bad[0][1] == "more or fewer fields than the header"


def test_a_csv_with_two_fields_of_one_name_is_an_error(tmp_path):
    (tmp_path / "x.csv").write_text("a,a\n1,2\n")
    with pytest.raises(UserError, match=r"x.csv:1: the header names a field twice"):
        list(read_records(str(tmp_path / "x.csv")))


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.json.zst", "x.csv.gz", "x.parquet"])
@pytest.mark.parametrize("damage", ["cut", "garbled"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    rows = [{"a": f"{index * 7919 % 10007}"} for index in range(20_000)]
    path = tmp_path / name
    if name == "x.parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        content = path.read_bytes()
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        content = compressed(path.suffix, content)
    half = len(content) // 2
    path.write_bytes(content[:half] if damage == "cut" else content[:half] + b"\0" * (len(content) - half))
    with pytest.raises(UserError, match=r"is cut off or damaged"):
        list(read_records(str(path)))


def test_zstd_of_several_frames_is_read_whole(tmp_path):
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(compressed(".zst", JSON_LINES) + compressed(".zst", JSON_LINES))
    assert [record.fields for record in read_records(str(path))] == ROWS * 2


def test_a_directory_a_glob_and_several_inputs(tmp_path):
    (tmp_path / "a").mkdir()
    for name, number in (("a/2.jsonl.gz", 2), ("a/1.json", 1), ("b.jsonl", 3)):
        path = tmp_path / name
        path.write_bytes(compressed(path.suffix, json.dumps({"n": number}).encode()))
    (tmp_path / "a" / "dataset_info.json").write_text("{}")
    (tmp_path / "a" / "readme.txt").write_text("about")

    def numbers(*inputs):
        return [record.fields["n"] for record in read_records(inputs)]

    assert numbers(str(tmp_path / "a")) == [1, 2]
    assert numbers(str(tmp_path / "b.jsonl"), str(tmp_path / "a")) == [3, 1, 2]
    assert numbers(str(tmp_path / "**" / "*.json*")) != []
    assert numbers(str(tmp_path / "a" / "[12].json*")) == [1, 2]
    assert numbers(str(tmp_path / "*")) == [1, 2, 3]


def test_records_of_a_directory_in_other_formats_are_named(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(inputs, "warn_once", told.append)
    (tmp_path / "a.jsonl").write_text('{"n": 1}')
    (tmp_path / "README.md").write_text("about")
    assert [record.fields for record in read_records(str(tmp_path))] == [{"n": 1}]
    assert told == []
    for name in ("b.jsonl.bz2", "c.tsv", "d/part.jsonl", "e/README.md", "f/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [record.fields for record in read_records(str(tmp_path))] == [{"n": 1}]
    assert told[0].startswith(f"--input {tmp_path}: not read are b.jsonl.bz2, c.tsv, d; files end in one of")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "readme.jsonl"], None),
        (["test-00000-of-00001.jsonl", "train-00000-of-00001.jsonl"], "test, train"),
        (["train_prefs-00000-of-00001.jsonl", "train_sft-00000-of-00001.jsonl"], "train_prefs, train_sft"),
        (["pairs-dev.jsonl", "pairs-training.json", "pairs.TEST.jsonl"], "test, train, validation"),
        (["imdb-train.jsonl", "latest.jsonl", "train_test.jsonl"], None),
        (["gsm8k-00000-of-00001.jsonl", "math-00000-of-00001.jsonl"], None),
        (["data-00000-of-00002.jsonl", "data-00001-of-00002.jsonl"], None),
    ],
)
def test_splits_of_a_directory_that_are_read_together_are_named(names, splits, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(inputs, "warn_once", told.append)
    directory = tmp_path / "train"  # which is no split of the files in it
    directory.mkdir()
    for name in names:
        (directory / name).write_text('{"n": 1}')
    for given in ([str(directory)], [str(directory / "*.json*")], list(map(str, directory.iterdir()))):
        told.clear()
        assert len(input_files(given)) == len(names)
        assert len(told) == (splits is not None)
        if splits is not None:
            assert told[0].startswith(f"--input: the splits {splits} are read together; ")
            assert f"name its files, such as {directory}/" in told[0]


def test_splits_in_directories_are_named_too(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(inputs, "warn_once", told.append)
    for name in ("en/train/a.jsonl", "en/test/a.jsonl", "zh/train/a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('{"n": 1}')
    assert len(input_files(f"{tmp_path}/*/train/*")) == 2
    assert told == []
    assert len(input_files(f"{tmp_path}/en/**/*.jsonl")) == 2
    assert "the splits test, train are read together" in told[0]
    with pytest.raises(UserError, match=r"en holds no file .*; name a directory within it: test, train$"):
        input_files(f"{tmp_path}/en")


def test_splits_are_those_of_the_directories_where_shards_have_one_name(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(inputs, "warn_once", told.append)
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-00000-of-00001.jsonl").write_text('{"n": 1}')
    assert len(input_files(f"{tmp_path}/*/*.jsonl")) == 2
    assert "the splits test, train are read together" in told[0]


def test_relative_and_absolute_paths_are_read_together(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(inputs, "warn_once", told.append)
    monkeypatch.chdir(tmp_path)
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text('{"n": 1}')
    assert len(input_files(["train.jsonl", f"{tmp_path}/test.jsonl"])) == 2
    assert told[0].endswith("such as train.jsonl")


def test_rows_that_the_datasets_library_keeps_beside_its_data_are_not_read_again(tmp_path):
    table = pyarrow.table({"n": [1, 2]})
    for name in ("data-00000-of-00001.arrow", "cache-88c4c2c2d1ed3e8d.arrow"):
        with pyarrow.ipc.new_stream(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
    assert len(list(read_records(str(tmp_path)))) == 2
    assert len(list(read_records(str(tmp_path / "*.arrow")))) == 2
    assert len(list(read_records(str(tmp_path / "cache-88c4c2c2d1ed3e8d.arrow")))) == 2


def test_a_data_set_of_the_hub_is_read_in_the_split_that_a_line_names(monkeypatch):
    asked = []

    def load_dataset(*words, **options):
        asked.append((words, options))
        return [{"n": 1}, {"n": 2}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    told = []
    monkeypatch.setattr(hub, "info", told.append)
    for _ in range(2):
        found = list(read_records("somebody/of-this-test", flag="--data held-out:"))
        assert [(one.place, one.fields["n"]) for one in found] == [
            ("somebody/of-this-test[0]", 1),
            ("somebody/of-this-test[1]", 2),
        ]
    assert asked == [(("somebody/of-this-test",), {"split": "train", "streaming": True})] * 2
    (line,) = told
    assert line.startswith("--data held-out: somebody/of-this-test of the Hugging Face hub, its train split")


def test_a_directory_of_txt_files_is_read(tmp_path):
    (tmp_path / "x.txt").write_text('{"n": 1}\n')
    assert [record.fields for record in read_records(str(tmp_path))] == [{"n": 1}]


def test_a_pipe_and_a_device_are_refused_before_they_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for name in ("pipe.jsonl", "zero.jsonl"):
        with pytest.raises(UserError, match=rf"--input .*{name} is no regular file"):
            list(read_records(str(tmp_path / name)))


def test_an_error_of_the_disk_names_the_file(tmp_path):
    (tmp_path / "x.jsonl").symlink_to("/proc/self/mem")  # its first page is not there: EIO
    with pytest.raises(UserError, match=r"x.jsonl cannot be read: Input/output error"):
        list(read_records(str(tmp_path / "x.jsonl")))


def test_an_input_given_twice_is_an_error(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"n": 1}\n')
    with pytest.raises(UserError, match=r"--input names .*x.jsonl twice"):
        input_files([str(path), str(tmp_path)])


def test_a_mistake_in_a_path_is_not_taken_for_a_name_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--input data/pairs does not exist"):
        list(read_records("data/pairs"))


def test_a_glob_that_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="matches no file"):
        input_files(str(tmp_path / "*.jsonl"))


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("x.parquet", "pyarrow", "arrow"), ("x.jsonl.zst", "zstandard", "zstd"), (None, "datasets", "datasets")],
)
def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch, name, module, extra):
    given = "owner/name"
    if name:
        given = str(tmp_path / name)
        (tmp_path / name).write_bytes(b"x")
    imported = builtins.__import__

    def without(wanted, *args, **kwargs):
        if wanted.split(".")[0] == module:
            raise ImportError(wanted)
        return imported(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=rf"pip install 'modellink-rm\[{extra}\]'"):
        list(read_records(given))


@pytest.mark.parametrize("name", ["x.json", "x.json.zst"])
def test_memory_does_not_grow_with_an_array(tmp_path, name):
    def peak(count):
        path = tmp_path / name
        array = (
            "[" + ",".join(json.dumps({"a": os.urandom(250).hex()}) for _ in range(count)) + "]"
        ).encode()
        path.write_bytes(compressed(path.suffix, array))
        del array
        tracemalloc.start()
        assert sum(1 for _ in read_records(str(path))) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    # The buffer holds one read of 1 MiB and the rest of the one before.
    assert peak(20_000) < 1.1 * peak(8_000)


def test_an_element_longer_than_a_read_is_read_whole(tmp_path):
    rows = [{"a": '\\"[,' * 700_000}, {"a": 1}, {"a": ["]"] * 500_000}]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows))
    assert [record.fields for record in read_records(str(path))] == rows
