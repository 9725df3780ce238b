"""Whatever the small files of a checkpoint hold: it is read, or refused in one line; never a traceback."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.contract import CONTRACT_NAME, read_contract
from modellink_rm.checkpoint.files import FILES_NAME, describe_files, files_json
from modellink_rm.checkpoint.layout import (
    LATEST_NAME,
    RUN_NAME,
    latest_checkpoint,
    read_checkpoint_info,
)
from modellink_rm.commands.train import run_config
from modellink_rm.train.continuing import check_continues, plan_length

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"
WORDS = "--stage rm --is-pairwise-dataset --data-path data --train-iters 4"
CONFIG = run_config(WORDS.split())
FINGERPRINT = {"prefix": "a", "num_rows": 1, "files": {}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of a JSON value and of all that it holds."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(path for name, item in inner for path in places(item, (*place, name)))]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """The value with another one at a path."""
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.json as it is written today, and its files.json."""
    directory = tmp_path_factory.mktemp("odd") / "iter_0000002"
    shutil.copytree(CHECKPOINT, directory)
    run = read_checkpoint_info(directory).run
    data = ({"prefix": "a", "num_rows": 1, "files": {"x": "y"}},)
    today = dataclasses.replace(run, schedule=(0, 8), consumed_samples=4, data=data)
    (directory / RUN_NAME).write_bytes(today.to_json())
    describe_again(directory)
    return directory


def describe_again(directory: Path) -> None:
    (directory / FILES_NAME).unlink(missing_ok=True)
    paths = [path for path in directory.rglob("*") if path.is_file()]
    (directory / FILES_NAME).write_bytes(files_json(describe_files(directory, paths)))


def read_and_go_on(directory: Path) -> None:
    """Use a checkpoint as a plan does."""
    checkpoint = read_checkpoint_info(directory)
    length = plan_length(CONFIG, 1, checkpoint.run, num_examples=10)
    check_continues(CONFIG, checkpoint, length=length, fingerprints=[FINGERPRINT], held_out={})


def refusal(use: Callable[[Path], object], directory: Path) -> str:
    """What a user is told who cannot use a checkpoint."""
    try:
        use(directory)
    except UserError as error:
        return str(error)
    return ""


@given(data=st.data(), new=JSON)
def test_any_value_anywhere_in_run_json_is_read_or_one_line(
    data: st.DataObject, new: Any, checkpoint: Path
) -> None:
    path = checkpoint / RUN_NAME
    content = path.read_bytes()
    try:
        values = json.loads(content)
        path.write_text(json.dumps(replaced(values, data.draw(st.sampled_from(places(values))), new)))
        describe_again(checkpoint)
        assert "\n" not in refusal(read_and_go_on, checkpoint)
    finally:
        path.write_bytes(content)
        describe_again(checkpoint)


@given(data=st.data(), new=JSON)
def test_any_value_anywhere_in_files_json_is_read_or_one_line(
    data: st.DataObject, new: Any, checkpoint: Path
) -> None:
    path = checkpoint / FILES_NAME
    content = path.read_bytes()
    try:
        values = json.loads(content)
        path.write_text(json.dumps(replaced(values, data.draw(st.sampled_from(places(values))), new)))
        assert "\n" not in refusal(read_and_go_on, checkpoint)
    finally:
        path.write_bytes(content)


@given(data=st.data(), new=JSON)
def test_any_value_anywhere_in_the_contract_is_read_or_one_line(data: st.DataObject, new: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        values = json.loads((CHECKPOINT / CONTRACT_NAME).read_bytes())
        changed = replaced(values, data.draw(st.sampled_from(places(values))), new)
        (Path(directory) / CONTRACT_NAME).write_text(json.dumps(changed))
        assert "\n" not in refusal(read_contract, Path(directory))


@pytest.mark.parametrize("name", [RUN_NAME, FILES_NAME])
@given(content=st.binary(max_size=30) | st.sampled_from([b"[" * 100_000, b"{}"]))
def test_any_bytes_are_refused_in_one_line(name: str, content: bytes, checkpoint: Path) -> None:
    path = checkpoint / name
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged") as refused:
            read_checkpoint_info(checkpoint)
        assert "\n" not in str(refused.value)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["x" * 300, "a\x00b", "a\nb", "../../etc/passwd", "tokenizer"])
def test_odd_name_among_the_files_is_one_line(name: str, checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, copy)
    (copy / FILES_NAME).write_text(json.dumps({name: [1, None]}))
    with pytest.raises(UserError) as refused:
        read_checkpoint_info(copy)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"release", b"-1", b"7.0", "²".encode(), "٣".encode(), b"\xff\xfe\x00", b"9" * 5000, b"7 8"],
)
def test_tracker_that_holds_no_iteration_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / LATEST_NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"must hold the iteration.*remove the file") as refused:
        latest_checkpoint(tmp_path)
    assert "\n" not in str(refused.value)


def test_tracker_that_names_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "iter_0000004").mkdir()
    for content in ("5", "9" * 18):
        (tmp_path / LATEST_NAME).write_text(content)
        with pytest.raises(UserError, match=rf"names iteration {content}, but there is no .*remove the file"):
            latest_checkpoint(tmp_path)
    (tmp_path / LATEST_NAME).unlink()
    assert latest_checkpoint(tmp_path) == tmp_path / "iter_0000004"


@pytest.mark.parametrize("kind", ["directory", "dangling link"])
def test_tracker_that_is_no_file_is_one_line(kind: str, tmp_path: Path) -> None:
    if kind == "directory":
        (tmp_path / LATEST_NAME).mkdir()
    else:
        (tmp_path / LATEST_NAME).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cannot be read: .*; remove it"):
        latest_checkpoint(tmp_path)


def test_newest_without_a_tracker_is_by_number_and_a_directory(tmp_path: Path) -> None:
    for name in ("iter_0000900", "iter_10000000", "iter_0000901.tmp", "iter_x9"):
        (tmp_path / name).mkdir()
    (tmp_path / "iter_99999999").write_text("")
    assert latest_checkpoint(tmp_path) == tmp_path / "iter_10000000"
