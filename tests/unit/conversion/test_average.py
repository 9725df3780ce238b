"""Which checkpoints can be averaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.contract import write_normalization
from modellink_rm.checkpoint.files import FILES_NAME, describe_files, files_json
from modellink_rm.config.average import AverageConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.conversion.average import AveragePlan, plan_average
from modellink_rm.metrics.normalization import Normalization

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"


def edited(directory: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the checkpoint with other content of one of its JSON files, which may be a new one."""
    copy = shutil.copytree(CHECKPOINT, directory / "iter_0000002")
    path = copy / name
    path.parent.mkdir(exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content))
    files = [path for path in copy.rglob("*") if path.is_file() and path.name != FILES_NAME]
    (copy / FILES_NAME).write_bytes(files_json(describe_files(copy, files)))
    return copy


def plan(tmp_path: Path, *load: Path, **options: Any) -> AveragePlan:
    config = AverageConfig(load=tuple(map(str, load)), output=str(tmp_path / "mean"), **options)
    return plan_average(config, ParallelConfig())


def test_checkpoints_of_one_base_have_a_mean_used_as_they_are(tmp_path: Path) -> None:
    other = edited(tmp_path / "other", "run.json", lambda run: run.update(iteration=7))
    found = plan(tmp_path, CHECKPOINT, other)
    assert [checkpoint.run.iteration for checkpoint in found.checkpoints] == [2, 7]
    assert found.config.shares == (0.5, 0.5)
    contract = json.loads(found.info_files["inference_contract.json"])
    assert contract["tokenizer_fingerprint"] == read(CHECKPOINT)["tokenizer_fingerprint"]
    assert found.info_files["tokenizer/tokenizer.model"]


def read(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkpoint / "inference_contract.json").read_text())
    return content


def bf16(run: dict[str, Any]) -> None:
    run["config"]["precision"]["bf16"] = True


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "inference_contract.json",
            lambda contract: contract.update(placeholder_token="<step>"),
            "they have another token after each step",
        ),
        ("run.json", lambda run: run.update(padded_vocab_size=9999), "their models have other shapes"),
        ("run.json", bf16, "one has weights in bfloat16, the other in float32"),
        (
            "base_model/config.json",
            lambda config: config.update(a=1),
            "other base models, as base_model/config",
        ),
        (
            "inference_contract.json",
            lambda one: one.update(tokenizer_fingerprint="0"),
            "have another tokenizer",
        ),
        (
            "inference_contract.json",
            lambda one: one.update(template_fingerprint="0"),
            "have another template",
        ),
        (
            "inference_contract.json",
            lambda one: one.update(attributes=["b", "a"]),
            "have another list of attributes",
        ),
    ],
)
def test_checkpoint_that_differs_where_a_mean_means_nothing_is_refused(
    name: str, change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    other = edited(tmp_path / "other", name, change)
    with pytest.raises(UserError, match=message) as refused:
        plan(tmp_path, CHECKPOINT, other)
    assert str(other) in str(refused.value)


def test_normalization_is_left_out_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr("modellink_rm.conversion.average.warn_once", messages.append)
    other = Path(shutil.copytree(CHECKPOINT, tmp_path / "other"))
    write_normalization(other, Normalization(mean=1.5))
    found = plan(tmp_path, other, CHECKPOINT)
    assert "normalization" not in json.loads(found.info_files["inference_contract.json"])
    (message,) = messages
    assert message.startswith(f"the normalization of {other} is left out")


def test_checkpoint_given_twice_and_an_output_that_is_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="iter_0000002 is given twice"):
        plan(tmp_path, CHECKPOINT, CHECKPOINT.parent)
    (tmp_path / "mean").mkdir()
    with pytest.raises(UserError, match=r"--output .*mean is there already"):
        plan(tmp_path, CHECKPOINT, CHECKPOINT)


@pytest.mark.parametrize(
    ("load", "weights", "message"),
    [
        (("a",), (), "average takes two checkpoints or more, got a"),
        (("a", "b"), (1.0,), "--weights takes one for each of the 2 checkpoints, got 1"),
        (("a", "b"), (1.0, 0.0), "--weights must be above 0, got 0"),
        (("a", "b"), (1e308, 1e308), "--weights must have a share of their sum above 0"),
        (("a", "b"), (1e-308, 1e308), "--weights must have a share of their sum above 0"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    load: tuple[str, ...], weights: tuple[float, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        AverageConfig(load=load, output="mean", weights=weights)


def test_an_average_is_not_written_into_a_checkpoint_that_it_reads(tmp_path: Path) -> None:
    other = edited(tmp_path / "other", "run.json", lambda run: run.update(iteration=7))
    config = AverageConfig(load=(str(CHECKPOINT), str(other)), output=str(other / "mean"))
    with pytest.raises(UserError, match=r"--output: .*mean lies in the checkpoint .*iter_0000002"):
        plan_average(config, ParallelConfig())


def test_runs_that_started_from_other_directories_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("modellink_rm.conversion.average.warn_once", told.append)

    def started_from(name: str, load: str) -> Path:
        return edited(tmp_path / name, "run.json", lambda run: run["config"]["checkpoint"].update(load=load))

    one, other, third = started_from("1", "base"), started_from("2", "base"), started_from("3", "else")
    plan(tmp_path, one, other, CHECKPOINT)
    assert told == []
    plan(tmp_path, one, third)
    assert len(told) == 1
    assert told[0].startswith("the runs started from base and else: only what was trained from the same")
