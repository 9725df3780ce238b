"""The commands as a user runs them: mistakes, killed runs, bad numbers, and scores."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from modellink_rm.base.files import exclusive
from tests.marks import full
from tests.tiny_data import random_pairs, write_tokenizer
from tests.tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[2]
SPEED = (
    "tokens_per_second",
    "computed_tokens_per_second",
    "pairs_per_second",
    "model_flops_per_second",
    "matmul_share",
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run(command: list[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False, cwd=cwd
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with tokenizer, and preprocessed pairs."""
    directory = tmp_path_factory.mktemp("commands")
    write_tiny_llama(directory / "model")
    write_tokenizer(directory / "model")
    (directory / "pairs.json").write_text(json.dumps(random_pairs(40), ensure_ascii=False))
    done = run(
        [
            sys.executable,
            str(ROOT / "preprocess_data.py"),
            *f"--input {directory}/pairs.json --handler-name SharegptStylePairwiseHandler".split(),
            *f"--tokenizer-name-or-path {directory}/model --prompt-type llama2".split(),
            *f"--output-prefix {directory}/data/pairs".split(),
        ]
    )
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def trained(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The --save of a run of three steps, evaluated on the last ten pairs."""
    save = tmp_path_factory.mktemp("trained")
    flags = f"--train-iters 3 --split 30,10,0 --save {save} --tensorboard-dir {save}/tb"
    done = run(training(directory, flags))
    assert done.returncode == 0, done.stderr
    assert list((save / "tb").glob("events.*"))
    return save


def training(directory: Path, flags: str, *, processes: int = 1) -> list[str]:
    words = (
        f"--stage rm --is-pairwise-dataset --load {directory}/model --load-checkpoint-loosely "
        f"--data-path {directory}/data/pairs --seq-length 400 --micro-batch-size 2 --global-batch-size 4 "
        f"--lr 1e-3 --eval-iters 10 {flags}"
    )
    start = [sys.executable] if processes == 1 else TORCHRUN
    return [*start, str(ROOT / "pretrain_rm.py"), *words.split()]


def rows_of(save: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        for name in SPEED:
            row.pop(name, None)
    return rows


def test_mistake_is_one_line_and_exit_code_2(directory: Path) -> None:
    done = run(training(directory, "--train-iters 2 --sequence-lenght 3"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: unknown flag --sequence-lenght")


@pytest.mark.full
def test_mistake_under_torchrun_is_printed_once(directory: Path) -> None:
    done = run(training(directory, "--train-iters 2 --prompt-type lama2", processes=2))
    assert done.returncode != 0
    assert done.stderr.count("unknown --prompt-type 'lama2'; did you mean llama2?") == 1
    assert str(ROOT / "modellink_rm") not in done.stderr  # no traceback of ours


@pytest.mark.full
def test_killed_and_resumed_run_equals_an_uninterrupted_one(directory: Path, tmp_path: Path) -> None:
    flags = "--train-iters 30 --save-interval 3 --eval-interval 10 --split 80,20,0 --save"
    whole = run(training(directory, f"{flags} {tmp_path}/whole"))
    assert whole.returncode == 0, whole.stderr
    command = training(directory, f"{flags} {tmp_path}/killed --auto-resume")
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    latest = tmp_path / "killed" / "latest_checkpointed_iteration.txt"
    deadline = time.monotonic() + 90
    while not latest.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # somewhere in a step or a save
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert latest.exists()
    assert int(latest.read_text()) < 30
    resumed = run(command)
    assert resumed.returncode == 0, resumed.stderr
    assert "continuing after iteration" in resumed.stderr
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize("processes", [1, full(2)])
def test_loss_that_is_not_finite_stops_before_the_step(
    processes: int, directory: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    write_tiny_llama(model)
    write_tokenizer(model)
    weights = load_file(model / "model.safetensors")
    for part in ("up", "down"):  # finite, and what they compute is not
        weights[f"model.layers.3.mlp.{part}_proj.weight"] *= 1e30
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    flags = f"--train-iters 2 --load {model} --save {tmp_path}/run --split 1,0,0 --no-shuffle"
    if processes == 2:
        flags += " --tensor-model-parallel-size 2"
    done = run(training(directory, flags, processes=processes))
    assert done.returncode == 1
    assert done.stderr.count("error: iteration 1: the loss of rows 0, 1, 2, 3 of ") == 1
    assert f"{directory}/data/pairs is not finite" in done.stderr
    assert "rank 0" in done.stderr
    assert str(ROOT / "modellink_rm") not in done.stderr  # no traceback of ours
    assert not (tmp_path / "run" / "latest_checkpointed_iteration.txt").exists()


@pytest.mark.parametrize(
    "parallel",
    [
        "",
        full("--tensor-model-parallel-size 2 --sequence-parallel"),
        full("--context-parallel-size 2"),
        full("--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"),
    ],
)
def test_scores_are_those_of_the_trainers_evaluation(parallel: str, trained: Path, tmp_path: Path) -> None:
    held_out = random_pairs(40)[30:]
    (tmp_path / "held_out.jsonl").write_text("\n".join(json.dumps(record) for record in held_out))
    start = [*TORCHRUN, "-m", "modellink_rm"] if parallel else [sys.executable, "-m", "modellink_rm"]
    flags = f"score --load {trained} --input {tmp_path}/held_out.jsonl --output {tmp_path}/scores.jsonl"
    flags += " --keep none"
    done = run([*start, *flags.split(), *parallel.split()], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [list(row) for row in scores] == [["chosen_score", "rejected_score", "margin"]] * 10
    evaluation = rows_of(trained)[-1]
    for name in ("chosen_score", "rejected_score", "margin"):
        mean = sum(row[name] for row in scores) / 10
        assert mean == pytest.approx(evaluation[f"valid/{name}"], abs=1e-5)
    accuracy = sum(row["margin"] > 0 for row in scores) / 10
    assert accuracy == evaluation["valid/accuracy"]
    assert f"accuracy: {accuracy:.4f}" in done.stdout


@pytest.mark.full
def test_hugging_face_directory_and_its_checkpoint_score_alike(directory: Path, tmp_path: Path) -> None:
    trained = run(training(directory, f"--train-iters 1 --lr 0 --save {tmp_path}/run"))
    assert trained.returncode == 0, trained.stderr
    records = [{"prompt": "the cat", "response": "sings 你好"}, {"prompt": "a", "response": 3}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    common = f"--input {tmp_path}/in.jsonl --keep none --output"
    rows = []
    for name, source in (
        ("hf", f"--load {directory}/model --prompt-type llama2 --load-checkpoint-loosely"),
        ("checkpoint", f"--load {tmp_path}/run"),
    ):
        output = tmp_path / f"{name}.jsonl"
        done = run([sys.executable, "-m", "modellink_rm", "score", *f"{source} {common} {output}".split()])
        assert done.returncode == 1  # one of the two could not be scored
        assert "in.jsonl:2: field 'response' must be a text or a list of messages" in done.stderr
        rows.append([json.loads(line) for line in output.read_text().splitlines()])
    assert rows[0][0]["score"] == pytest.approx(rows[1][0]["score"], abs=1e-6)
    assert list(rows[0][1]) == ["error"]


@pytest.mark.full
def test_equal_answers_tie(directory: Path, tmp_path: Path) -> None:
    record = {"prompt": "the cat", "chosen": "sings", "rejected": "sings"}
    (tmp_path / "in.jsonl").write_text("\n".join([json.dumps(record)] * 3))
    flags = (
        f"score --load {directory}/model --prompt-type llama2 --load-checkpoint-loosely "
        f"--input {tmp_path}/in.jsonl --output {tmp_path}/out.jsonl"
    )
    done = run([sys.executable, "-m", "modellink_rm", *flags.split()])
    assert done.returncode == 0, done.stderr
    assert "accuracy: 0.5000 | mean margin: 0.0000 | ties: 3" in done.stdout


@pytest.mark.full
def test_every_kind_of_record_has_its_row(directory: Path, tmp_path: Path) -> None:
    """In the order of the record, by the handler of training where the record does not say otherwise."""
    trained = run(training(directory, f"--train-iters 1 --save {tmp_path}/run"))
    assert trained.returncode == 0, trained.stderr
    contract = json.loads((tmp_path / "run/iter_0000001/inference_contract.json").read_text())
    assert (contract["handler"], contract["map_keys"]) == ("SharegptStylePairwiseHandler", None)
    (pair,) = random_pairs(1)
    texts = ["sings", "sleeps", "the moon falls"]
    records: list[dict[str, object]] = [
        {"prompt": "the cat", "response": texts[0]},
        {"prompt": "the cat", "responses": texts},
        {"prompt": "the cat", "responses": texts[::-1]},
        pair,
    ]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, records[:2])))
    (tmp_path / "two.json").write_text(json.dumps(records[2:]))
    flags = f"score --load {tmp_path}/run --input {tmp_path}/one.jsonl {tmp_path}/two.json"
    done = run([sys.executable, "-m", "modellink_rm", *flags.split()])
    assert done.returncode == 0, done.stderr
    one, several, turned, preferred = map(json.loads, done.stdout.splitlines())
    assert list(one) == ["prompt", "response", "score"]
    assert several["scores"][0] == pytest.approx(one["score"], abs=1e-6)
    assert turned["scores"] == pytest.approx(several["scores"][::-1], abs=1e-6)
    assert list(preferred)[-3:] == ["chosen_score", "rejected_score", "margin"]
    assert "responses: 7 | mean score" in done.stderr

    ranked = {"prompt": "the cat", "responses": texts, "ranks": [3, 1, 2]}
    (tmp_path / "ranked.jsonl").write_text(json.dumps(ranked))
    flags = (
        f"score --load {tmp_path}/run --input {tmp_path}/ranked.jsonl --handler-name RankedResponsesHandler"
    )
    done = run([sys.executable, "-m", "modellink_rm", *flags.split()])
    assert json.loads(done.stdout)["scores"] == pytest.approx(several["scores"], abs=1e-6)


@pytest.mark.full
def test_second_run_with_the_same_save_is_refused(directory: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / ".lock", "locked"):
        done = run(training(directory, f"--train-iters 1 --save {tmp_path}"))
    assert done.returncode == 2
    assert f"--save {tmp_path} is in use by another run" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--output {tmp}", "--output {tmp}: {tmp} is not a regular file"),
        ("--output {tmp}/empty.jsonl/out.jsonl", "its directory cannot be made"),
        full("--input {tmp}/empty.jsonl --output {tmp}/out.jsonl", "holds no record"),
        ("--map-keys {{}} --output {tmp}/out.jsonl", "--map-keys needs --handler-name"),
    ],
)
def test_mistakes_in_scorer_options_are_found_before_loading(
    flags: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    words = f"score --load /nowhere --input {tmp_path}/in.jsonl {flags}".format(tmp=tmp_path)
    done = run([sys.executable, "-m", "modellink_rm", *words.split()])
    assert done.returncode == 2
    assert message.format(tmp=tmp_path) in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.full
def test_a_record_whose_handler_is_not_known_ends_the_command(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"instruction": "q", "chosen": "a", "rejected": "b"}))
    flags = (
        f"score --load {directory}/model --prompt-type llama2 --load-checkpoint-loosely "
        f"--input {tmp_path}/in.jsonl --output {tmp_path}/out.jsonl"
    )
    done = run([sys.executable, "-m", "modellink_rm", *flags.split()])
    assert done.returncode == 2
    assert "in.jsonl:1: field 'instruction' is not read by OpenAiMessagesPairwiseHandler" in done.stderr
    assert "give --handler-name AlpacaStylePairwiseHandler" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.full
def test_template_of_a_file_goes_from_preprocessing_to_scores(directory: Path, tmp_path: Path) -> None:
    own = {
        "name": "mine",
        "format_user": {"slots": ["Q: {{content}} A:"]},
        "format_assistant": {"slots": [" {{content}}", ["eos_token"]]},
    }
    (tmp_path / "templates.json").write_text(json.dumps([own]))
    (tmp_path / "pairs.json").write_text(json.dumps(random_pairs(8)))
    done = run(
        [
            sys.executable,
            str(ROOT / "preprocess_data.py"),
            *f"--input {tmp_path}/pairs.json --handler-name SharegptStylePairwiseHandler".split(),
            *f"--tokenizer-name-or-path {directory}/model --output-prefix {tmp_path}/own".split(),
            *f"--prompt-type mine --prompt-type-path {tmp_path}/templates.json".split(),
        ]
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "templates.json").unlink()
    flags = f"--data-path {tmp_path}/own --split 1,0,0 --train-iters 1 --save {tmp_path}/run"
    trained = run(training(directory, flags))
    assert trained.returncode == 0, trained.stderr
    score = f"score --load {tmp_path}/run --input {tmp_path}/pairs.json --output {tmp_path}/scores.jsonl"
    scored = run([sys.executable, "-m", "modellink_rm", *score.split()])
    assert scored.returncode == 0, scored.stderr
    assert "pairs: 8" in scored.stdout
