"""Named held-out sets, their sources and their written scores; the best checkpoint and the early end."""

import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.source import open_source
from modellink_rm.commands.preprocess import main as preprocess_main
from modellink_rm.commands.train import run_config
from modellink_rm.report.best import read_best
from modellink_rm.report.run_files import ScoredExample, read_run
from modellink_rm.train.plan import plan_run
from tests.distributed import Workers
from tests.marks import full
from tests.runs import run_training, train_part
from tests.tiny_data import random_pairs, write_tokenizer
from tests.tiny_models import write_tiny_llama

NUM_HELD_OUT = 11  # no multiple of the replicas or the batch
SOURCES = ("org/maths", "chat", "")


def write_data(path: Path, tokenizer: Path, records: list[dict[str, Any]]) -> Path:
    for number, record in enumerate(records):
        if SOURCES[number % 3]:
            record["set"] = SOURCES[number % 3]
    path.with_suffix(".jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    words = (
        f"--input {path}.jsonl --output-prefix {path} --tokenizer-name-or-path {tokenizer} "
        "--handler-name SharegptStylePairwiseHandler --prompt-type llama2 --map-keys"
    )
    assert preprocess_main([*words.split(), '{"source": "set"}']) == 0
    return path


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("held_out")
    write_tiny_llama(directory / "model", value_head=True)
    write_tokenizer(directory / "model")
    records = random_pairs(30 + NUM_HELD_OUT)
    pairs = write_data(directory / "pairs", directory / "model", records[:30])
    other = write_data(directory / "other", directory / "model", records[30:])
    return (
        f"--stage rm --is-pairwise-dataset --load {directory}/model --load-checkpoint-loosely "
        f"--seq-length 200 --data-path {pairs} --split 9,1,0 --valid-data-path {other} maths={other} "
        "--global-batch-size 5 --max-tokens-per-micro-batch 200 --train-iters 2 --lr 1e-3 --eval-interval 1 "
        "--make-vocab-size-divisible-by 1"
    ).split()


@pytest.fixture(scope="module")
def one_process(flags: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The --save of the run in one process."""
    save = tmp_path_factory.mktemp("one")
    run_training(workers, 1, flags, save, saves=False)
    return save


def evaluations(save: Path) -> list[dict[str, Any]]:
    return [row for row in read_run(save).rows if "loss" not in row]


def margin(one: ScoredExample) -> float:
    return one.scores[0] - one.scores[1]


@pytest.mark.parametrize(
    ("world_size", "parallel"),
    [
        (2, ""),
        full(4, "--tensor-model-parallel-size 2 --sequence-parallel"),
        full(4, "--pipeline-model-parallel-size 2"),
        full(4, "--context-parallel-size 2"),
    ],
)
def test_sets_sources_and_written_scores_are_those_of_one_process(
    world_size: int, parallel: str, flags: list[str], one_process: Path, workers: Workers, tmp_path: Path
) -> None:
    run_training(workers, world_size, [*flags, *parallel.split()], tmp_path, saves=False)
    for ours, theirs in zip(evaluations(tmp_path), evaluations(one_process), strict=True):
        # Without a drift of the head's bias, which both scores of a pair share.
        kept = [name for name in theirs if not name.endswith("_score")]
        assert {name: ours[name] for name in kept} == pytest.approx(
            {name: theirs[name] for name in kept}, abs=1e-4
        )
    for mine, other in zip(read_run(tmp_path).scores, read_run(one_process).scores, strict=True):
        assert (mine.set, mine.iteration, mine.row) == (other.set, other.iteration, other.row)
        assert margin(mine) == pytest.approx(margin(other), abs=1e-4)
        assert (mine.prompt, mine.responses) == (other.prompt, other.responses)


def test_every_set_is_evaluated_before_the_first_step_and_its_sources_beside_it(one_process: Path) -> None:
    rows = evaluations(one_process)
    places = [(row["iteration"], name) for row in rows for name in row if name.endswith("loss")]
    assert places == [
        (iteration, f"{name}/loss") for iteration in (0, 1, 2) for name in ("valid", "other", "maths")
    ]
    other = rows[1]
    assert other["other/examples"] == NUM_HELD_OUT
    assert (other["other/org/maths/examples"], other["other/chat/examples"]) == (4, 4)


def test_scores_are_written_before_and_after_and_give_the_metrics(one_process: Path) -> None:
    run = read_run(one_process)
    assert {one.iteration for one in run.scores} == {0, 2}
    assert {one.set for one in run.scores} == {"valid", "other", "maths", "train"}
    for row in (row for row in evaluations(one_process) if row["iteration"] != 1 and "other/loss" in row):
        scored = [one for one in run.scores if one.set == "other" and one.iteration == row["iteration"]]
        margins = [margin(one) for one in scored]
        assert len(scored) == NUM_HELD_OUT
        assert sum(margins) / len(margins) == pytest.approx(row["other/margin"], abs=1e-6)
        of_chat = [margin(one) > 0 for one in scored if one.source == "chat"]
        assert sum(of_chat) / len(of_chat) == row["other/chat/accuracy"]


def test_texts_of_examples_are_those_of_the_data(one_process: Path) -> None:
    last = [one for one in read_run(one_process).scores if one.set == "other" and one.iteration == 2]
    record: Any = random_pairs(30 + NUM_HELD_OUT)[30 + last[0].row]
    assert last[0].prompt is not None
    assert last[0].responses is not None
    assert record["chosen"]["value"] in last[0].responses[0]
    assert record["rejected"]["value"] in last[0].responses[1]
    assert record["conversations"][-1]["value"] in last[0].prompt
    before = [one for one in read_run(one_process).scores if one.iteration == 0]
    assert all(one.prompt is None for one in before)


@pytest.mark.full
def test_a_run_that_was_killed_before_its_last_scores_writes_them_when_it_is_run_again(
    flags: list[str], workers: Workers, tmp_path: Path
) -> None:
    """It was done, by its checkpoint, and the scores after training were never written."""
    words = [*flags, "--auto-resume", "--train-iters", "1"]
    run_training(workers, 1, words, tmp_path)
    scores, metrics = tmp_path / "scores.jsonl", tmp_path / "metrics.jsonl"
    whole, rows = scores.read_bytes(), metrics.read_bytes()
    before = [line for line in whole.splitlines(keepends=True) if json.loads(line)["iteration"] == 0]
    assert 0 < len(before) < len(whole.splitlines())
    scores.write_bytes(b"".join(before))
    run_training(workers, 1, words, tmp_path)
    assert scores.read_bytes() == whole
    assert metrics.read_bytes() == rows


def test_a_run_that_no_longer_improves_ends_and_its_best_checkpoint_loads(
    flags: list[str], workers: Workers, tmp_path: Path
) -> None:
    # At a learning rate of 0 the first evaluation stays the best.
    words = "--lr 0 --train-iters 9 --save-best maths/loss --early-stopping-patience 2 --auto-resume "
    words += "--save-interval 1 --keep-last 1"  # the best one is kept besides
    run = run_training(workers, 1, [*flags, *words.split()], tmp_path)
    assert run.steps[-1]["iteration"] == 3
    assert sorted(path.name for path in tmp_path.glob("iter_*")) == ["iter_0000001", "iter_0000003"]
    best = read_best(tmp_path)
    assert (best.iteration, best.metric) == (1, "maths/loss")
    assert open_source(str(tmp_path / "best")).checkpoint.path == tmp_path / "iter_0000001"
    with pytest.raises(UserError, match="there is no such directory"):
        open_source(str(tmp_path / "none" / "best"))
    assert {one.iteration for one in read_run(tmp_path).scores} == {0, 3}
    # Started again, nothing is left to do.
    workers.run(train_part, 1, [*flags, *words.split(), "--save", str(tmp_path)])
    assert len(evaluations(tmp_path)) == 3 * 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--save-best margins --save {0}", "did you mean margin?"),
        ("--save-best maths --save {0}", "for one held-out set give NAME/METRIC"),
        ("--save-best loss", "--save-best needs --save"),
        ("--save-best chat/loss --save {0}", "unknown held-out set of --save-best 'chat'"),
        ("--save-best loss --save {0} --eval-iters 0", "needs rows to evaluate"),
        ("--early-stopping-patience 2", "--early-stopping-patience needs --save-best"),
        ("--valid-data-path train={1}", "the name train is taken"),
        ("--valid-data-path a/b=c=", "the name of letters, digits"),
        ("--valid-data-path maths={1}", "the name maths is given twice"),
        ("--valid-data-path mine={0}/none", "none_packed"),
        ("--valid-data-path mine={2}", "which are trained on"),
        ("--wandb-project rm", "--wandb-project needs the package wandb"),
    ],
)
def test_mistake_is_one_line(
    more: str, message: str, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modellink_rm.train.trackers.find_spec", lambda name: None)
    pairs, other = (flags[flags.index(flag) + 1] for flag in ("--data-path", "--valid-data-path"))
    with pytest.raises(UserError) as refused:
        plan_run(run_config([*flags, *more.format(tmp_path, other, pairs).split()]), world_size=1)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
