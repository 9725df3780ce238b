"""What a run shows: short lines on a terminal, the full line in pipes and files."""

import io
import re

import pytest

from modellink_rm.objective.choice import choose_objective
from modellink_rm.train.console import FullConsole, TerminalConsole, make_console

ROW = {
    "iteration": 500,
    "consumed_samples": 8000,
    "epoch": 0.25,
    "loss": 0.6490463,
    "accuracy": 0.7,
    "chosen_score": 0.36,
    "rejected_score": 0.26,
    "margin": -10.1007,
    "grad_norm": 1.998,
    "learning_rate": 6.67e-4,
    "tokens_per_second": 12312.5,
    "computed_tokens_per_second": 8741.4,
    "pairs_per_second": 51.92,
    "model_flops_per_second": 9.76e9,
    "matmul_share": 0.061,
    "padding_tokens": 0,
    "truncated": 0,
}
METRICS = {name: ROW[name] for name in ("loss", "accuracy", "chosen_score", "rejected_score", "margin")}
EVALUATION = {**METRICS, "ties": 1, "chosen_std": 1.0, "rejected_std": 2.0}
LABELS = choose_objective("sigmoid").labels


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, *, columns: int, no_color: str) -> Terminal:
    """Standard output from now on."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", no_color)
    return terminal


def shown(terminal: Terminal) -> list[str]:
    console = make_console(train_iters=20_000, batch_size=16, first_iteration=0, labels=LABELS)
    assert isinstance(console, TerminalConsole)
    console.advance(500)
    console.step(ROW, METRICS, milliseconds=1.0)
    console.evaluation(EVALUATION, name="valid", iteration=500, num_examples=24)
    console.close()
    return terminal.getvalue().splitlines()


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_lines_on_a_terminal_fit_it(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(terminal(monkeypatch, columns=columns, no_color="1"))
    assert len(lines) == 2
    assert max(map(len, lines)) <= min(columns, 100)
    assert lines[0].startswith("  500/20000  loss 0.6490  acc 0.700")
    if columns >= 80:
        assert "margin -10.101  lr 6.7e-04  tok/s 12.3k" in lines[0]
        assert re.sub(" +", " ", lines[1]) == " valid loss 0.6490 acc 0.700 margin -10.101 pairs 24 ties 1"
    if columns >= 100:
        assert re.search(r"  left \d+:\d\d$", lines[0])


def test_data_sets_of_a_mixture_have_a_short_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    output = terminal(monkeypatch, columns=80, no_color="1")
    console = make_console(train_iters=20_000, batch_size=16, first_iteration=0, labels=LABELS)
    metrics = {"hh": {"loss": 0.5, "accuracy": 0.75, "examples": 6}, "math": {"loss": 0.25, "examples": 2}}
    console.data_sets(metrics, name="train", iteration=500)
    console.close()
    assert output.getvalue().splitlines()[0] == "      train  hh 0.500 0.750  math 0.250"


def test_colours_come_with_the_terminal_and_go_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = shown(terminal(monkeypatch, columns=100, no_color=""))
    assert "\x1b[2mloss\x1b[0m 0.6490" in coloured[0]
    plain = [re.sub(r"\x1b\[\d+m", "", line) for line in coloured]
    assert all(len(line) <= 100 for line in plain)
    assert "\x1b" not in "".join(shown(terminal(monkeypatch, columns=100, no_color="1")))


def test_time_left_counts_the_steps_of_this_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    output = terminal(monkeypatch, columns=100, no_color="1")
    now = iter([0.0, 100.0])
    with monkeypatch.context() as clock:
        clock.setattr("time.monotonic", lambda: next(now))
        console = TerminalConsole(
            train_iters=600, first_iteration=400, labels=LABELS
        )  # 100 steps took 100 seconds
        console.step(ROW, METRICS, milliseconds=1000.0)
    console.close()
    assert output.getvalue().endswith("left 1:40\n")


def test_pipes_and_files_get_megatrons_full_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console(train_iters=20_000, batch_size=16, first_iteration=0, labels=LABELS)
    assert isinstance(console, FullConsole)
    console.step({**ROW, "padding_tokens": 3, "truncated": 2}, METRICS, milliseconds=308.14)
    console.evaluation(EVALUATION, name="valid", iteration=500, num_examples=24)
    console.close()
    assert capsys.readouterr().out.splitlines() == [
        " iteration      500/   20000 | consumed samples:         8000 | "
        "elapsed time per iteration (ms): 308.1 | learning rate: 6.670000E-04 | "
        "global batch size:    16 | lm loss: 6.490463E-01 | acc: 0.7000 | "
        "chosen score: 0.3600 | rejected score: 0.2600 | margin: -10.1007 | grad norm: 1.998 | "
        "tokens/s: 12312.5 | computed tokens/s: 8741.4 | pairs/s: 51.92 | TFLOP/s: 0.00976 | of peak: 6.1% | "
        "epoch: 0.25 | padding tokens: 3 | truncated: 2 |",
        " validation after iteration 500 | pairs: 24 | loss: 6.490463E-01 | acc: 0.7000 | ties: 1 | "
        "chosen score: 0.3600 (std 1.0000) | rejected score: 0.2600 (std 2.0000) | margin: -10.1007 |",
    ]
