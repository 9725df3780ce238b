"""What a log step writes, and metrics.jsonl over resumes."""

import json
from pathlib import Path

import pytest
import torch

from modellink_rm.objective.metrics import _FIELDS, metrics_from_sums
from modellink_rm.train.reporting import Reporter, keep_rows


def test_rows_after_the_resumed_iteration_and_a_cut_off_row_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"iteration": iteration, "loss": 0.1}) for iteration in (1, 2, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"iteration": 5, "lo')
    keep_rows(path, last_iteration=2)
    assert path.read_text() == "\n".join(lines[:2]) + "\n"


def test_no_file_is_no_error(tmp_path: Path) -> None:
    keep_rows(tmp_path / "metrics.jsonl", last_iteration=2)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_log_line_and_row_tell_the_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sums = dict.fromkeys(_FIELDS, 0.0) | {
        "examples": 8.0,
        "loss": 4.0,
        "tokens": 6000.0,
        "computed": 4000.0,
        "flops": 3e12,
    }
    reporter = Reporter(
        save=tmp_path, tensorboard_dir=None, train_iters=10, batch_size=4, resumed_iteration=0
    )
    reporter.log_steps(
        metrics_from_sums(torch.tensor([sums[name] for name in _FIELDS], dtype=torch.float64)),
        iteration=2,
        consumed_samples=8,
        learning_rate=1e-5,
        grad_norm=2.0,
        seconds=2.0,
        num_steps=2,
        matmul_peak=4e12,
    )
    reporter.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["loss"] == 0.5
    assert row["tokens_per_second"] == 3000.0
    assert row["computed_tokens_per_second"] == 2000.0
    assert row["pairs_per_second"] == 4.0
    assert row["model_flops_per_second"] == 1.5e12
    assert row["matmul_share"] == 0.375
    line = capsys.readouterr().out
    speed = "tokens/s: 3000.0 | computed tokens/s: 2000.0 | pairs/s: 4.00 | TFLOP/s: 1.5 | of peak: 37.5% |"
    assert speed in line
