"""Runs that are left, killed, raced or broken: what is kept, what is told, and that no process stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from modellink_rm.base.files import exclusive
from modellink_rm.checkpoint.layout import LATEST_NAME
from tests.distributed import Workers
from tests.marks import full
from tests.runs import run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LEFT = 75
MANY = 100_000  # steps: such a run ends by what is done to it
SECONDS_TO_START = 90.0
SECONDS_TO_END = 25.0
SECONDS_OF_A_RUN = 120.0


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lifecycle")
    write_tiny_llama(directory / "model", value_head=True)
    write_tokenizer(directory / "model")
    write_random_rows(directory / "pairs", 40)
    return directory


def flags_of(directory: Path, flags: str) -> list[str]:
    words = (
        f"--stage rm --is-pairwise-dataset --load {directory}/model --load-checkpoint-loosely "
        f"--data-path {directory}/pairs --split 1,0,0 --seq-length 48 --global-batch-size 4 --lr 1e-3 "
        f"--compile never {flags}"  # compiled or not rounds otherwise
    )
    return words.split()


def command(directory: Path, flags: str, *, processes: int = 1) -> list[str]:
    start = [sys.executable] if processes == 1 else LAUNCHER
    return [*start, str(ROOT / "pretrain_rm.py"), *flags_of(directory, flags)]


def _heed_interrupts() -> None:
    """What a shell starts in the background ignores them, and so would the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start() -> Iterator[Callable[[list[str]], "subprocess.Popen[str]"]]:
    """Start a command; whatever it leaves is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def started_one(words: list[str]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            words,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )
        started.append(process)
        return process

    yield started_one
    for process in started:
        for left in processes_of(process.pid):
            left.kill()
        process.kill()
        process.communicate()


def processes_of(session: int) -> list[psutil.Process]:
    """The processes of a session that are alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def workers_of(launcher: int) -> list[psutil.Process]:
    """torchrun's processes by rank."""
    children = psutil.Process(launcher).children()
    return sorted((one for one in children if "RANK" in one.environ()), key=lambda one: one.environ()["RANK"])


def wait_until(is_so: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def wait_for_steps(save: Path, process: "subprocess.Popen[str]", number: int = 2) -> None:
    """Wait until a run has told of some steps."""
    path = save / "metrics.jsonl"

    def has_them() -> bool:
        assert process.poll() is None, process.stderr.read()
        return path.exists() and path.read_bytes().count(b"\n") >= number

    wait_until(has_them, SECONDS_TO_START, "steps")


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and stderr of a process that is to end by itself."""
    _, errors = process.communicate(timeout=SECONDS_OF_A_RUN)
    return process.returncode, errors


def steps_of(save: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    return [(row["iteration"], row["loss"], row["grad_norm"]) for row in rows]


@pytest.mark.parametrize(
    ("number", "flags"), [(signal.SIGUSR1, ""), full(signal.SIGTERM, "--exit-signal-handler")]
)
def test_signal_saves_leaves_with_75_and_the_run_goes_on_bitwise(
    number: signal.Signals, flags: str, directory: Path, tmp_path: Path, start: Callable, workers: Workers
) -> None:
    save = tmp_path / "run"
    process = start(command(directory, f"--train-iters {MANY} --save {save} --auto-resume {flags}"))
    wait_for_steps(save, process)
    process.send_signal(number)
    code, errors = end_of(process)
    left = int((save / LATEST_NAME).read_text())
    assert code == LEFT
    assert f"left after iteration {left} of {MANY} ({number.name}); --auto-resume continues" in errors
    assert [step for step, _, _ in steps_of(save)] == list(range(1, left + 1))
    words = flags_of(directory, f"--train-iters {left + 2}")
    run_training(workers, 1, [*words, "--auto-resume"], save)
    run_training(workers, 1, words, tmp_path / "whole")
    assert steps_of(save) == steps_of(tmp_path / "whole")


@pytest.mark.full
def test_signal_to_one_process_makes_all_leave_at_one_step(
    directory: Path, tmp_path: Path, start: Callable
) -> None:
    save = tmp_path / "run"
    process = start(command(directory, f"--train-iters {MANY} --save {save}", processes=2))
    wait_for_steps(save, process)
    workers_of(process.pid)[1].send_signal(signal.SIGUSR1)
    code, errors = end_of(process)
    left = int((save / LATEST_NAME).read_text())
    assert code == 1  # torchrun's, for any code of its processes
    assert f"left after iteration {left} of {MANY} (SIGUSR1)" in errors
    assert "exitcode  : 75" in errors
    assert processes_of(process.pid) == []


@pytest.mark.full
def test_intervals_and_minutes_leave_too(directory: Path, tmp_path: Path, start: Callable) -> None:
    for name, flags, last in (("a", "--exit-interval 3", 3), ("b", "--exit-interval 5 --train-iters 5", 5)):
        save = tmp_path / name
        code, errors = end_of(start(command(directory, f"--train-iters 8 --save {save} {flags}")))
        assert (code, int((save / LATEST_NAME).read_text())) == (LEFT if last < 5 else 0, last)
        assert ("left after iteration" in errors) == (last < 5)


@pytest.mark.full
def test_termination_without_the_flag_ends_at_once(directory: Path, tmp_path: Path, start: Callable) -> None:
    process = start(command(directory, f"--train-iters {MANY} --save {tmp_path}"))
    wait_for_steps(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    assert end_of(process)[0] == -signal.SIGTERM
    assert not (tmp_path / LATEST_NAME).exists()


def test_interrupt_ends_at_once_in_one_line(directory: Path, tmp_path: Path, start: Callable) -> None:
    process = start(command(directory, f"--train-iters {MANY} --save {tmp_path}"))
    wait_for_steps(tmp_path, process)
    process.send_signal(signal.SIGINT)
    code, errors = end_of(process)
    assert (code, errors.splitlines()[-1]) == (130, "error: interrupted")
    assert not (tmp_path / LATEST_NAME).exists()


@pytest.mark.parametrize("flags", [full(""), "--exit-signal-handler"])
def test_killed_rank_ends_the_others_without_a_traceback(
    flags: str, directory: Path, tmp_path: Path, start: Callable
) -> None:
    process = start(command(directory, f"--train-iters {MANY} --save {tmp_path} {flags}", processes=2))
    wait_for_steps(tmp_path, process)
    workers_of(process.pid)[1].kill()
    _, errors = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode == 1
    assert "Signal 9 (SIGKILL)" in errors  # torchrun's report, which names the rank
    assert str(ROOT / "modellink_rm") not in errors
    assert processes_of(process.pid) == []


@pytest.mark.full
def test_rank_that_fails_is_told_with_its_rank_and_ends_the_others(
    directory: Path, tmp_path: Path, start: Callable
) -> None:
    # A module that breaks the second process's optimizer after a few steps stands in for a fault of ours.
    (tmp_path / "fault.py").write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from modellink_rm.base.errors import run_command\n"
        "from modellink_rm.commands.train import main\n"
        "from modellink_rm.train import trainer\n"
        "step = trainer.train_step\n"
        "def failing(state, *args, **kwargs):\n"
        "    if state.iteration == 2 and os.environ['RANK'] == '1':\n"
        "        raise ZeroDivisionError('made up')\n"
        "    return step(state, *args, **kwargs)\n"
        "trainer.train_step = failing\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(run_command(main, sys.argv[1:]))\n"
    )
    words = command(directory, f"--train-iters {MANY} --save {tmp_path}/run", processes=2)
    words[len(LAUNCHER)] = str(tmp_path / "fault.py")
    process = start(words)
    _, errors = process.communicate(timeout=SECONDS_OF_A_RUN)
    assert process.returncode == 1
    assert [line for line in errors.splitlines() if line.startswith("error")] == [
        "error (rank 1): ZeroDivisionError: made up"
    ]
    assert "Connection closed by peer" not in errors
    assert processes_of(process.pid) == []


@pytest.mark.full
def test_processes_end_when_torchrun_is_killed(directory: Path, tmp_path: Path, start: Callable) -> None:
    process = start(command(directory, f"--train-iters {MANY} --save {tmp_path}", processes=2))
    wait_for_steps(tmp_path, process)
    assert len(workers_of(process.pid)) == 2
    process.kill()
    process.wait()
    wait_until(lambda: processes_of(process.pid) == [], SECONDS_TO_END, "the end of the processes")


@pytest.mark.full
def test_scoring_processes_end_when_torchrun_is_killed(
    directory: Path, tmp_path: Path, start: Callable
) -> None:
    record = json.dumps({"prompt": "the cat", "response": "sings"})
    (tmp_path / "in.jsonl").write_text("\n".join([record] * 200_000))
    flags = f"score --load {directory}/model --prompt-type llama2 --load-checkpoint-loosely"
    words = [*LAUNCHER, "-m", "modellink_rm", *flags.split(), "--input", str(tmp_path / "in.jsonl")]
    process = start([*words, "--output", str(tmp_path / "out.jsonl")])
    wait_until(lambda: bool(list(tmp_path.glob(".out*"))), SECONDS_TO_START, "scores")
    process.kill()
    process.wait()
    wait_until(lambda: processes_of(process.pid) == [], SECONDS_TO_END, "the end of the processes")


@pytest.mark.full
def test_run_that_waited_for_the_lock_plans_again(directory: Path, tmp_path: Path, start: Callable) -> None:
    first = tmp_path / "first"
    assert end_of(start(command(directory, f"--train-iters 2 --save {first}")))[0] == 0
    for name, flags in (("again", ""), ("resumed", "--auto-resume")):
        save = tmp_path / name
        save.mkdir()
        with exclusive(save / ".lock", "locked"):
            process = start(command(directory, f"--train-iters 2 --save {save} {flags}"))
            told = ""
            while "platform: " not in told:  # planned, and about to wait for the lock
                told = process.stderr.readline()
                assert told, "the run has ended"
            shutil.copytree(first, save, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))
            time.sleep(0.5)
        code, errors = end_of(process)
        assert f"--save {save} was changed by another run meanwhile" in errors
        if flags:
            assert (code, "nothing is left to do" in errors) == (0, True)
        else:
            assert code == 2
            assert f"error: --save {save} holds a run up to iter_0000002" in errors
        assert steps_of(save) == steps_of(first)


@pytest.mark.full
def test_two_runs_started_together_are_not_one(directory: Path, tmp_path: Path, start: Callable) -> None:
    runs = [
        start(command(directory, f"--train-iters 3 --save {tmp_path}/run --lr {lr}")) for lr in (1e-3, 2e-3)
    ]
    ends = [end_of(run) for run in runs]
    assert sorted(code for code, _ in ends) == [0, 2]
    refused = next(errors for code, errors in ends if code == 2)
    assert "is in use by another run" in refused or "holds a run up to iter_0000003" in refused
    assert [step for step, _, _ in steps_of(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.full
def test_weights_that_are_not_finite_are_refused_by_name(
    directory: Path, tmp_path: Path, start: Callable
) -> None:
    shutil.copytree(directory / "model", tmp_path / "model")
    file = next((tmp_path / "model").glob("*.safetensors"))
    for file in (tmp_path / "model").glob("model*.safetensors"):
        weights = load_file(file)
        if "model.layers.3.mlp.down_proj.weight" in weights:
            weights["model.layers.3.mlp.down_proj.weight"][5, 5] = torch.nan
            save_file(weights, file, metadata={"format": "pt"})
    code, errors = end_of(start(command(directory, f"--train-iters 2 --load {tmp_path}/model")))
    assert code == 2
    assert errors.splitlines()[-1].startswith(
        f"error: {tmp_path}/model: the weight decoder.layers.3.mlp.linear_fc2.weight holds NaN or infinity"
    )
