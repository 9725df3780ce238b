import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modellink_rm.base.errors import UserError
from modellink_rm.records import BadRecord, Record, read_records


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_jsonl_records_carry_their_line(tmp_path):
    path = written(tmp_path / "x.jsonl", '{"a": 1}\n\n{"a": 2}\r\n{"a": 3}')
    assert list(read_records(path)) == [
        Record(f"{path}:1", {"a": 1}),
        Record(f"{path}:3", {"a": 2}),
        Record(f"{path}:4", {"a": 3}),
    ]


def test_json_array_elements_carry_their_index(tmp_path):
    path = written(tmp_path / "x.json", ' \n[{"a": "],}{["},\n {"a": [1, {"b": "\\"]"}]}]\n')
    assert list(read_records(path)) == [
        Record(f"{path}[0]", {"a": "],}{["}),
        Record(f"{path}[1]", {"a": [1, {"b": '"]'}]}),
    ]


def test_json_file_may_hold_lines(tmp_path):
    path = written(tmp_path / "x.json", '{"a": 1}\n{"a": 2}\n')
    assert [record.place for record in read_records(path)] == [f"{path}:1", f"{path}:2"]


def test_integers_of_any_size_keep_their_digits(tmp_path):
    numbers = [2**63, -(2**63) - 1, 2**64, 123456789012345678901234567890, -(10**300)]
    path = written(tmp_path / "x.jsonl", "".join(f'{{"a": [{number}], "b": 0.1}}\n' for number in numbers))
    assert [record.fields for record in read_records(path)] == [{"a": [one], "b": 0.1} for one in numbers]
    (bad,) = read_records(written(tmp_path / "y.jsonl", f'{{"a": 0.{"1" * 5000}, "b": -0.0}}'))
    assert bad.fields == {"a": 1 / 9, "b": 0.0}


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_byte_order_mark_is_skipped(tmp_path, name):
    path = written(tmp_path / name, b'\xef\xbb\xbf{"a": 1}\n')
    assert [record.fields for record in read_records(path)] == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"not json", "invalid JSON"),
        (b'{"a": 1} x', "invalid JSON"),
        (b'{"a": NaN}', "invalid JSON"),
        (b'{"a": "\xff"}', "invalid UTF-8"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a": "x\0y"}', "NUL bytes"),
        (b"\0" * 5000, "NUL bytes"),
        (b'{"a": 1, "b": 2, "a": 3}', "an object with a key twice"),
        (b'{"b": [{"\\u0061" :1, "a": ":"}]}', "an object with a key twice"),
        (b'{"b": "\\u003a", "a": 1, "a": 1}', "an object with a key twice"),
        (b'{"' + b"k" * 9999 + b'": 1, "' + b"k" * 9999 + b'": 1}', "an object with a key twice"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid JSON"),
        (b'{"a\\u003a": ' + b"[" * 1000 + b"]" * 1000 + b"}", "nested too deeply"),
        (b'{"a": ' * 3000 + b"1" + b"}" * 3000, "invalid JSON"),
        (b"[1, 2]", "not an object"),
        (b'"x"', "not an object"),
        (b"null", "not an object"),
    ],
)
@pytest.mark.parametrize("form", ["lines", "array"])
def test_one_bad_record_leaves_the_others(tmp_path, text, reason, form):
    if form == "lines":
        path = written(tmp_path / "x.jsonl", b'{"a": 1}\n' + text + b'\n{"a": 2}\n')
        place = f"{path}:2"
    else:
        path = written(tmp_path / "x.json", b'[{"a": 1}, ' + text + b', {"a": 2}]')
        place = f"{path}[1]"
    first, bad, last = read_records(path)
    assert (first.fields, last.fields) == ({"a": 1}, {"a": 2})
    assert isinstance(bad, BadRecord)
    assert (bad.place, bad.reason) == (place, reason)
    assert len(bad.message) < 400
    assert len(bad.message.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    ['{"a:b": ":", "c" : "\\u003a"}', '{"a": {"k": 1}, "b": {"k": 1}}', '{"a": "\\"a\\": 1, \\"a\\": 2"}'],
)
def test_colons_and_equal_keys_of_several_objects_are_no_key_twice(tmp_path, text):
    assert [record.fields for record in read_records(written(tmp_path / "x.jsonl", text))] == [
        json.loads(text)
    ]


def test_a_comma_too_many_is_one_bad_record(tmp_path):
    path = written(tmp_path / "x.json", '[{"a": 1},]')
    first, bad = read_records(path)
    assert isinstance(first, Record)
    assert isinstance(bad, BadRecord)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", ""),
        ("x.json", "\n\n"),
        ("x.json", "[]"),
        ("x.json", " [ ] "),
        ("x.jsonl", ""),
        ("x.jsonl", "\n"),
    ],
)
def test_nothing_in_a_file_is_no_records(tmp_path, name, content):
    assert list(read_records(written(tmp_path / name, content))) == []


@pytest.mark.parametrize(
    "content", ['[{"a": 1}, {"a": 2', '[{"a": 1}', '[{"a": 1}, {"a": "x]', '[\n{"a": 1},\n{"a": "x}\n]']
)
def test_an_array_that_is_cut_off_is_an_error(tmp_path, content):
    with pytest.raises(
        UserError, match=r"x.json is cut off or damaged: element [01] of its array, from line"
    ):
        list(read_records(written(tmp_path / "x.json", content)))


def test_what_follows_an_array_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"x.json:2: there is text after"):
        list(read_records(written(tmp_path / "x.json", '[{"a": 1}]\n{"a": 2}')))


def test_a_directory_is_read_by_name_without_manifests(tmp_path):
    written(tmp_path / "b.jsonl", '{"a": 2}\n')
    written(tmp_path / "a.json", '[{"a": 1}]')
    written(tmp_path / "x_manifest.json", "{}")
    written(tmp_path / ".hidden.jsonl", "{}")
    written(tmp_path / "notes.md", "text")
    assert [record.fields["a"] for record in read_records(str(tmp_path))] == [1, 2]


@pytest.mark.parametrize(("name", "message"), [("x.xml", "cannot tell its format"), (None, "does not exist")])
def test_an_input_that_cannot_be_read_is_named(tmp_path, name, message):
    path = written(tmp_path / name, "x") if name else str(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match=message):
        list(read_records(path))


def test_an_empty_directory_is_an_error(tmp_path):
    with pytest.raises(
        UserError, match=r"no file of a known kind \(.arrow, .csv, .json, .jsonl, .parquet, .txt, or"
    ):
        list(read_records(str(tmp_path)))


def test_jsonl_is_read_lazily(tmp_path):
    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n' * 3)
        file.flush()
        records = read_records(str(path))
        assert next(records).place.endswith(":1")
        file.write(b'{"a": 1}\n' * 100_000)
        file.flush()
        assert sum(1 for _ in records) == 100_002


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    objects=st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    ensure_ascii=st.booleans(),
)
def test_any_array_is_read_as_the_json_module_reads_it(tmp_path_factory, objects, indent, ensure_ascii):
    content = json.dumps(objects, indent=indent, ensure_ascii=ensure_ascii)
    path = written(tmp_path_factory.getbasetemp() / "any.json", content)
    assert [record.fields for record in read_records(path)] == objects
