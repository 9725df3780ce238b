"""run.json: what is older is read, what is newer is refused or told of."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.files import FILES_NAME, TENSOR_SUFFIX, describe_files, files_json
from modellink_rm.checkpoint.layout import (
    FORMAT_VERSION,
    LATEST_NAME,
    RUN_NAME,
    CheckpointInfo,
    RunInfo,
    latest_checkpoint,
    read_checkpoint_info,
)
from modellink_rm.model.rope import RopeScaling
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec

SHAPE = ModelShape(
    family="llama",
    num_layers=2,
    hidden_size=12,
    ffn_hidden_size=16,
    num_attention_heads=2,
    num_query_groups=2,
    kv_channels=6,
    vocab_size=21,
    max_position_embeddings=64,
    norm_epsilon=1e-5,
    rotary_base=10000.0,
    rotary_percent=1.0,
    rotary_interleaved=False,
    add_qkv_bias=True,
)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    for module in ("checkpoint.layout", "base.json_types"):
        monkeypatch.setattr(f"modellink_rm.{module}.warn_once", messages.append)
    return messages


def info_in(directory: Path) -> CheckpointInfo:
    spec = ModelSpec(shape=SHAPE, padded_vocab_size=32, post_layer_norm=False, head_bias=True)
    run = RunInfo(iteration=3, spec=spec, parallel_sizes=(1, 2, 1, 1), config={"optim": {"lr": 0.1}})
    return CheckpointInfo(path=directory, run=run)


def write(directory: Path, edit: Callable[[dict[str, Any]], object] = lambda values: None) -> None:
    values = json.loads(info_in(directory).run.to_json())
    edit(values)
    (directory / RUN_NAME).write_text(json.dumps(values))
    (directory / FILES_NAME).write_bytes(files_json(describe_files(directory, [directory / RUN_NAME])))


def test_what_is_written_is_read_again(tmp_path: Path, warnings: list[str]) -> None:
    write(tmp_path)
    assert read_checkpoint_info(tmp_path) == info_in(tmp_path)
    assert json.loads((tmp_path / RUN_NAME).read_text())["format_version"] == FORMAT_VERSION
    assert warnings == []


def test_scaling_of_rotary_angles_is_read_again(tmp_path: Path, warnings: list[str]) -> None:
    scaling = RopeScaling(
        kind="longrope", original_positions=32, short_factors=(1.0, 1.5, 2.0), long_factors=(1.0, 2.5, 4.0)
    )
    shape = dataclasses.replace(SHAPE, rope_scaling=scaling, qk_norm="head")
    info = info_in(tmp_path)
    run = dataclasses.replace(info.run, spec=dataclasses.replace(info.run.spec, shape=shape))
    write(tmp_path, lambda values: values.update(json.loads(run.to_json())))
    assert read_checkpoint_info(tmp_path).run == run
    assert warnings == []


@pytest.mark.parametrize(
    "scaling",
    [
        {"kind": "spiral", "original_positions": 8},
        {"kind": "linear"},
        {"kind": "linear", "original_positions": 8, "factor": "2"},
        {"kind": "linear", "original_positions": 8, "factor": -1},
        [1],
        "linear",
    ],
)
def test_scaling_that_is_none_is_damage(scaling: Any, tmp_path: Path) -> None:
    write(tmp_path, lambda values: values["spec"]["shape"].update(rope_scaling=scaling))
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint_info(tmp_path)


def test_newer_format_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, lambda values: values.update(format_version=FORMAT_VERSION + 1, spec="of another kind"))
    with pytest.raises(UserError) as error:
        read_checkpoint_info(tmp_path)
    assert f"format version {FORMAT_VERSION + 1} and this package reads up to {FORMAT_VERSION}" in str(
        error.value
    )
    assert "upgrade" in str(error.value)
    assert "damaged" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["2", None, 2.5, 0, True])
def test_format_version_that_is_no_number_is_damage(version: object, tmp_path: Path) -> None:
    write(tmp_path, lambda values: values.update(format_version=version))
    with pytest.raises(UserError, match=r"run\.json or files\.json is damaged \(format_version"):
        read_checkpoint_info(tmp_path)


@pytest.mark.parametrize("place", [(), ("spec",), ("spec", "shape")])
def test_unknown_field_is_reported_and_ignored(
    place: tuple[str, ...], tmp_path: Path, warnings: list[str]
) -> None:
    def edit(values: dict[str, Any]) -> None:
        for name in place:
            values = values[name]
        values["of_a_later_package"] = 1

    write(tmp_path, edit)
    assert read_checkpoint_info(tmp_path) == info_in(tmp_path)
    assert warnings == [
        f"{tmp_path / RUN_NAME}: of_a_later_package is unknown to this version of modellink-rm and is ignored"
    ]


def test_field_with_a_default_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path, lambda values: values["spec"].pop("head_bias"))
    assert not read_checkpoint_info(tmp_path).run.spec.head_bias


@pytest.mark.parametrize("value", [[], {"spec": 1}, {"spec": {}}, {"spec": {"shape": []}}])
def test_anything_else_is_damage(value: object, tmp_path: Path) -> None:
    write(tmp_path)
    content = {"format_version": FORMAT_VERSION, **value} if isinstance(value, dict) else value
    (tmp_path / RUN_NAME).write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged"):
        read_checkpoint_info(tmp_path)


@pytest.mark.parametrize("head", ["", "word", None, 3])
def test_head_of_no_kind_is_damage(head: object, tmp_path: Path) -> None:
    write(tmp_path, lambda values: values["spec"].update(head=head))
    with pytest.raises(UserError, match="is damaged"):
        read_checkpoint_info(tmp_path)


def test_tracker_that_names_an_older_checkpoint_is_told_of(tmp_path: Path, warnings: list[str]) -> None:
    for name in ("iter_0000010", "iter_0000030", "iter_0000040.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / LATEST_NAME).write_text("10\n")
    assert latest_checkpoint(tmp_path) == tmp_path / "iter_0000010"
    (warning,) = warnings
    assert warning.endswith(f"names iteration 10, which is taken, though there is {tmp_path}/iter_0000030")


@pytest.mark.parametrize(
    ("name", "is_told"), [("iter_0000003", False), ("kept", False), ("iter_0000009", True)]
)
def test_checkpoint_that_has_the_name_of_another_iteration_is_told_of(
    name: str, is_told: bool, tmp_path: Path, warnings: list[str]
) -> None:
    directory = tmp_path / name
    directory.mkdir()
    write(directory)
    assert read_checkpoint_info(directory).run.iteration == 3
    told = f"{directory} holds the checkpoint of iteration 3, which is taken, whatever its name says; "
    assert warnings == ([f"{told}was it renamed?"] if is_told else [])


def test_small_file_changed_without_its_size_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / RUN_NAME
    path.write_text(path.read_text().replace('"iteration": 3', '"iteration": 4'))
    with pytest.raises(UserError, match=rf"{RUN_NAME} has changed since it was written"):
        read_checkpoint_info(tmp_path)


def test_files_of_tensors_are_left_to_be_verified_as_they_are_loaded(tmp_path: Path) -> None:
    write(tmp_path)
    tensors = tmp_path / f"__0_0{TENSOR_SUFFIX}"
    tensors.write_bytes(b"weights")
    (tmp_path / FILES_NAME).write_bytes(files_json(describe_files(tmp_path, [tmp_path / RUN_NAME, tensors])))
    tensors.write_bytes(b"WEIGHTS")
    assert read_checkpoint_info(tmp_path).run.iteration == 3
    tensors.write_bytes(b"weight")
    with pytest.raises(UserError, match="has 6 bytes; 7 were written"):
        read_checkpoint_info(tmp_path)
