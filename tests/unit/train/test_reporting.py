"""What a log step writes, and metrics.jsonl over resumes."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.objective import Labels
from modellink_rm.train.evaluate import Evaluation
from modellink_rm.train.metrics_files import keep_rows
from modellink_rm.train.reporting import Reporter
from modellink_rm.train.sums import Summary
from modellink_rm.train.trackers import Tracker


def test_rows_after_the_resumed_iteration_and_a_cut_off_row_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"iteration": iteration, "loss": 0.1}) for iteration in (1, 2, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"iteration": 5, "lo')
    keep_rows(path, last_iteration=2)
    assert path.read_text() == "\n".join(lines[:2]) + "\n"


def test_no_file_is_no_error(tmp_path: Path) -> None:
    keep_rows(tmp_path / "metrics.jsonl", last_iteration=2)
    assert not (tmp_path / "metrics.jsonl").exists()


METRICS = {
    "loss": 0.5,
    "accuracy": 0.75,
    "chosen_score": 1.5,
    "rejected_score": 1.0,
    "margin": 0.5,
    "chosen_std": 0.25,
    "rejected_std": 0.125,
    "ties": 2,
}
SUMMARY = Summary(
    metrics=METRICS,
    num_examples=8,
    num_tokens=6000,
    num_computed_tokens=4000,
    num_padding=0,
    num_truncated=1,
    flops=3e12,
)


def make_reporter(directory: Path, labels: Labels, *trackers: Tracker) -> Reporter:
    return Reporter(
        directory=directory,
        trackers=trackers,
        train_iters=10,
        batch_size=4,
        num_train_examples=16,
        resumed_iteration=0,
        details=("chosen_std", "rejected_std", "ties"),
        labels=labels,
    )


@pytest.fixture
def reporter(tmp_path: Path) -> Iterator[Reporter]:
    reporter = make_reporter(tmp_path, choose_objective("sigmoid").labels)
    yield reporter
    reporter.close()


def evaluation_of(summary: Summary, *, name: str = "valid", **values: Any) -> Evaluation:
    nothing: dict[str, Any] = {"examples": (), "scores": (), "by_source": {}}
    return Evaluation(set=name, summary=summary, **{**nothing, **values})


def log_steps(reporter: Reporter, summary: Summary, **more: Any) -> None:
    reporter.log_steps(
        summary,
        iteration=2,
        consumed_samples=8,
        learning_rate=1e-5,
        grad_norm=2.0,
        seconds=2.0,
        num_steps=2,
        matmul_peak=4e12,
        **more,
    )


def row_of(directory: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((directory / "metrics.jsonl").read_text())
    return row


def test_line_and_row_of_steps_have_metrics_and_speed(
    reporter: Reporter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_steps(reporter, SUMMARY)
    assert list(row_of(tmp_path).items()) == [
        ("iteration", 2),
        ("consumed_samples", 8),
        ("epoch", 0.5),
        ("loss", 0.5),
        ("accuracy", 0.75),
        ("chosen_score", 1.5),
        ("rejected_score", 1.0),
        ("margin", 0.5),
        ("grad_norm", 2.0),
        ("learning_rate", 1e-5),
        ("tokens_per_second", 3000.0),
        ("computed_tokens_per_second", 2000.0),
        ("pairs_per_second", 4.0),
        ("model_flops_per_second", 1.5e12),
        ("matmul_share", 0.375),
        ("padding_tokens", 0),
        ("truncated", 1),
    ]
    assert capsys.readouterr().out == (
        " iteration        2/      10 | consumed samples:            8 | "
        "elapsed time per iteration (ms): 1000.0 | learning rate: 1.000000E-05 | global batch size:     4 | "
        "lm loss: 5.000000E-01 | acc: 0.7500 | chosen score: 1.5000 | rejected score: 1.0000 | "
        "margin: 0.5000 | grad norm: 2.000 | tokens/s: 3000.0 | computed tokens/s: 2000.0 | "
        "pairs/s: 4.00 | TFLOP/s: 1.5 | of peak: 37.5% | epoch: 0.50 | truncated: 1 |\n"
    )


def test_line_and_row_of_an_evaluation_have_every_metric(
    reporter: Reporter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter.log_evaluation(evaluation_of(SUMMARY), iteration=2, consumed_samples=8)
    valid = {f"valid/{name}": value for name, value in METRICS.items()}
    expected = {"iteration": 2, "consumed_samples": 8, **valid, "valid/examples": 8, "valid/truncated": 1}
    assert list(row_of(tmp_path).items()) == list(expected.items())
    assert capsys.readouterr().out == (
        " validation after iteration 2 | pairs: 8 | loss: 5.000000E-01 | acc: 0.7500 | ties: 2 | "
        "chosen score: 1.5000 (std 0.2500) | rejected score: 1.0000 (std 0.1250) | margin: 0.5000 |\n"
    )


def test_a_named_set_has_its_name_in_line_and_row_and_each_source_has_its_metrics(
    reporter: Reporter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_source = {"accuracy": 0.25, "margin": -0.5, "examples": 4}
    evaluation = evaluation_of(SUMMARY, name="maths", by_source={"org/set": of_source})
    reporter.log_evaluation(evaluation, iteration=2, consumed_samples=8)
    row = row_of(tmp_path)
    assert row["maths/loss"] == 0.5
    assert {name: row[f"maths/org/set/{name}"] for name in of_source} == of_source
    assert capsys.readouterr().out.startswith(" validation after iteration 2 on maths | pairs: 8 | loss: ")


def test_several_data_sets_have_a_line_and_columns_in_training_and_evaluations(
    reporter: Reporter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_sets = {"hh": {"loss": 0.5, "accuracy": 0.75, "examples": 6}, "math": {"loss": 0.25, "examples": 2}}
    columns = {f"{name}/{metric}": value for name, one in of_sets.items() for metric, value in one.items()}
    log_steps(reporter, SUMMARY, by_data_set=of_sets)
    row = row_of(tmp_path)
    assert {name: row[f"train/{name}"] for name in columns} == columns
    cells = "hh: pairs: 6, loss: 5.000000E-01, acc: 0.7500 | math: pairs: 2, loss: 2.500000E-01 |"
    assert capsys.readouterr().out.splitlines()[1] == f" data sets of train after iteration 2 | {cells}"
    of_sources = {"org": {"accuracy": 1.0}, "math": {"accuracy": 0.5}}
    evaluation = evaluation_of(SUMMARY, by_data_set=of_sets, by_source=of_sources)
    reporter.log_evaluation(evaluation, iteration=2, consumed_samples=8)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])
    assert {name: row[f"valid/{name}"] for name in columns} == columns
    assert (row["valid/org/accuracy"], row["valid/math'/accuracy"]) == (1.0, 0.5)
    assert capsys.readouterr().out.splitlines()[1] == f" data sets of valid after iteration 2 | {cells}"


def test_trackers_get_every_row_and_the_scores_of_evaluations(tmp_path: Path) -> None:
    tracker = RecordingTracker()
    reporter = make_reporter(tmp_path, choose_objective("sigmoid").labels, tracker)
    log_steps(reporter, SUMMARY)
    scores = (np.array([2.0, 1.0], np.float32), np.array([4.0, 3.0], np.float32))
    reporter.log_evaluation(evaluation_of(SUMMARY, scores=scores), iteration=2, consumed_samples=8)
    reporter.close()
    steps, evaluation = tracker.rows
    assert steps[0] == evaluation[0] == 2
    assert (steps[1]["train/loss"], evaluation[1]["valid/loss"]) == (0.5, 0.5)
    assert tracker.histograms == [("valid/chosen_scores", [2.0, 4.0]), ("valid/rejected_scores", [1.0, 3.0])]
    assert tracker.is_closed


class RecordingTracker:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.histograms: list[tuple[str, list[float]]] = []
        self.is_closed = False

    def add(self, values: Mapping[str, float], iteration: int) -> None:
        self.rows.append((iteration, dict(values)))

    def histogram(self, name: str, values: Any, iteration: int) -> None:
        self.histograms.append((name, values.tolist()))

    def close(self) -> None:
        self.is_closed = True


def test_a_run_that_begins_anew_writes_its_first_rows_once(tmp_path: Path) -> None:
    for _ in range(2):
        with closing(make_reporter(tmp_path, choose_objective("sigmoid").labels)) as reporter:
            reporter.log_evaluation(evaluation_of(SUMMARY), iteration=0, consumed_samples=0)
    assert row_of(tmp_path)["iteration"] == 0


def test_metrics_of_another_objective_are_shown_with_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A chosen score without its deviation, as the pairwise objective never has it.
    summary = dataclasses.replace(SUMMARY, metrics={"loss": 0.5, "chosen_score": 2.0, "kl": 0.125})
    with closing(make_reporter(tmp_path, Labels(examples="prompts", names={"kl": "KL"}))) as reporter:
        log_steps(reporter, summary)
        reporter.log_evaluation(evaluation_of(summary), iteration=2, consumed_samples=8)
    steps, evaluation = capsys.readouterr().out.splitlines()
    assert "lm loss: 5.000000E-01 | chosen score: 2.0000 | KL: 0.1250 | grad norm" in steps
    assert "| prompts/s: 4.00 |" in steps
    assert evaluation == (
        " validation after iteration 2 | prompts: 8 | loss: 5.000000E-01 | chosen score: 2.0000 | "
        "KL: 0.1250 |"
    )
    assert '"prompts_per_second": 4.0' in (tmp_path / "metrics.jsonl").read_text()
