"""TensorBoard, Weights & Biases and SwanLab get what a run reports."""

import errno
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.reporting import ReportingConfig
from modellink_rm.train.trackers import Tracker, check_trackers, open_trackers

SCORES = np.array([0.5, -1.5, 2.5, np.nan], dtype=np.float32)


def open_one(config: ReportingConfig, directory: Path) -> Tracker:
    (tracker,) = open_trackers(config, directory=directory, resumed_iteration=0, flags={"lr": 0.5})
    return tracker


def report(tracker: Tracker) -> None:
    for iteration in (0, 4):
        tracker.add({"train/loss": 0.25 * iteration, "valid/maths/accuracy": 0.5}, iteration)
        tracker.histogram("valid/chosen_scores", SCORES, iteration)
    tracker.close()


def test_tensorboard_has_scalars_and_histograms_of_finite_scores(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    report(open_one(ReportingConfig(tensorboard_dir=str(tmp_path)), tmp_path))
    events = accumulators.EventAccumulator(str(tmp_path), size_guidance={"histograms": 0})
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("train/loss")] == [(0, 0.0), (4, 1.0)]
    histograms = events.Histograms("valid/chosen_scores")
    assert [one.step for one in histograms] == [0, 4]
    assert (histograms[0].histogram_value.num, histograms[0].histogram_value.max) == (3, 2.5)


def test_a_full_disk_of_tensorboard_is_told_with_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's first event is written when it is opened; that was told as standard output's."""

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", full)
    with pytest.raises(OSError, match="No space left") as raised:
        open_one(ReportingConfig(tensorboard_dir=str(tmp_path / "events")), tmp_path)
    assert raised.value.filename == str(tmp_path / "events")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that answers nothing."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def test_weights_and_biases_writes_an_offline_run(tmp_path: Path, no_network: None) -> None:
    pytest.importorskip("wandb")
    config = ReportingConfig(wandb_project="rm", wandb_mode="offline")
    report(open_one(config, tmp_path))
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    names = (b"train/loss", b"valid/maths/accuracy", b"valid/chosen_scores", b"histogram")
    deadline = time.monotonic() + 20  # its process writes the file a moment after the run is finished
    while not all(name in record.read_bytes() for name in names):
        assert time.monotonic() < deadline, record.read_bytes()
        time.sleep(0.05)


def test_swanlab_writes_an_offline_run(tmp_path: Path, no_network: None) -> None:
    pytest.importorskip("swanlab")
    report(open_one(ReportingConfig(swanlab_project="rm", swanlab_mode="offline"), tmp_path))
    files = [path for path in tmp_path.rglob("swanlab/**/*") if path.is_file()]
    assert any(b"train/loss" in path.read_bytes() for path in files)


def test_a_program_that_fails_gets_no_further_rows_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BrokenPipeError would end the command as one whose reader has seen enough, with exit code 0."""
    calls: list[object] = []
    told: list[str] = []

    def log(values: Any, step: int) -> None:
        calls.append(step)
        if step == 4:
            raise BrokenPipeError(32, "Broken pipe")

    run = SimpleNamespace(log=log, finish=lambda: calls.append("finish"))
    program = SimpleNamespace(init=lambda **_: run, Settings=SimpleNamespace, Histogram=len)
    monkeypatch.setitem(sys.modules, "wandb", program)
    monkeypatch.setattr("modellink_rm.train.trackers.warn_once", told.append)
    report(open_one(ReportingConfig(wandb_project="rm"), tmp_path))
    assert calls == [0, 0, 4]
    (line,) = told
    assert line == "--wandb-project has failed, and gets no further rows of this run: [Errno 32] Broken pipe"


def test_events_that_cannot_be_written_end_their_rows_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr("modellink_rm.train.trackers.warn_once", told.append)
    directory = tmp_path / "events"
    tracker = open_one(ReportingConfig(tensorboard_dir=str(directory)), tmp_path)
    tracker.add({"train/loss": 0.5}, 1)
    shutil.rmtree(directory)
    report(tracker)
    (line,) = told
    assert line.startswith("--tensorboard-dir has failed, and gets no further rows of this run: ")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("package", ["wandb", "swanlab"])
def test_a_package_that_is_not_installed_is_one_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modellink_rm.train.trackers.find_spec", lambda name: None)
    projects: dict[str, Any] = {f"{package}_project": "rm"}
    config = ReportingConfig(**projects)
    with pytest.raises(UserError, match=rf"pip install 'modellink-rm\[{package}\]'") as refused:
        check_trackers(config)
    assert "\n" not in str(refused.value)
