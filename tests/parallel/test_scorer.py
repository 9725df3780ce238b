"""The Scorer as Python calls it: alone, and under torchrun."""

import asyncio
import json
import math
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from modellink_rm.checkpoint.contract import read_contract
from modellink_rm.commands.preprocess import main as preprocess_main
from tests.distributed import Workers
from tests.marks import full
from tests.runs import RunResult, run_training
from tests.tiny_data import random_pairs, write_tokenizer
from tests.tiny_models import write_tiny_llama

RECORDS: list[dict[str, Any]] = [
    {"prompt": "the cat", "response": "sings"},
    {"prompt": "the cat", "responses": ["sings", "the moon falls", "sleeps"]},
    {"prompt": [{"role": "user", "content": "a dog"}], "chosen": "runs", "rejected": "the tree shines"},
]


def scores_of(model: str, records: list[dict[str, Any]], options: dict[str, Any]) -> list[Any]:
    from modellink_rm import Scorer

    with Scorer.open(model, prompt_type="llama2", load_checkpoint_loosely=True, **options) as scorer:
        return scorer.score(records)


def failures(model: str) -> list[str]:
    """What a Scorer says that is used wrongly, one after the other in one process."""
    from modellink_rm import Scorer

    told = []

    def refused(call: Any, *arguments: Any, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except ValueError as error:
            told.append(str(error))

    refused(Scorer.open, model, prompt_typ="llama2")
    refused(Scorer.open, model, prompt_type="llama2", load_checkpoint_loosely=True, truncation="left")
    refused(Scorer.open, model, prompt_type="llama2", load_checkpoint_loosely=True, seq_length=10**6)
    scorer = Scorer.open(model, prompt_type="llama2", load_checkpoint_loosely=True)
    refused(Scorer.open, model, prompt_type="llama2", load_checkpoint_loosely=True)
    refused(scorer.score, [RECORDS[0], {"prompt": "q", "response": 3}])
    refused(scorer.score, RECORDS[0])
    refused(scorer.rank, [RECORDS[0], None])
    refused(scorer.compare, None)
    assert scorer.score([]) == []
    scorer.close()
    scorer.close()
    refused(scorer.score, RECORDS)
    refused(lambda: asyncio.run(scorer.score_async(RECORDS)))
    return told


def told_in_a_forked_process(model: str) -> list[str]:
    """What a process says that was forked with an open Scorer, each way of calling it."""
    from modellink_rm import Scorer

    forking = multiprocessing.get_context("fork")
    lines = forking.SimpleQueue()

    def call(scorer: Any) -> None:
        for one in (scorer.score, lambda records: asyncio.run(scorer.score_async(records))):
            try:
                one(RECORDS)
            except ValueError as error:
                lines.put(str(error))

    with Scorer.open(model, prompt_type="llama2", load_checkpoint_loosely=True) as scorer:
        asyncio.run(scorer.score_async(RECORDS))
        child = forking.Process(target=call, args=(scorer,), daemon=True)
        child.start()
        child.join(20)
        child.kill()
    return [] if lines.empty() else [lines.get(), lines.get()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory: Path = tmp_path_factory.mktemp("scorer")
    write_tiny_llama(directory, value_head=True)
    write_tokenizer(directory)
    return str(directory)


@pytest.mark.parametrize(
    "options",
    [{"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}, {}],
    ids=["tp2", "pp2", "dp2"],
)
def test_two_processes_score_as_one(workers: Workers, model: str, options: dict[str, Any]) -> None:
    (expected,) = workers.run(scores_of, 1, model, RECORDS, {})
    one, several, pair = expected
    assert isinstance(one, float)
    assert (len(several), len(pair)) == (3, 2)
    assert several[0] == pytest.approx(one, abs=1e-6)
    for found in workers.run(scores_of, 2, model, RECORDS, options):
        assert found[0] == pytest.approx(one, abs=1e-5)
        assert found[1] == pytest.approx(several, abs=1e-5)
        assert found[2] == pytest.approx(pair, abs=1e-5)


def rankings_and_comparisons(model: str) -> tuple[Any, ...]:
    """What a Scorer says in each of its ways, in turn and from three tasks of an event loop at a time."""
    from modellink_rm import Scorer

    async def at_a_time(scorer: Scorer) -> list[Any]:
        calls = (
            scorer.score_async(RECORDS),
            scorer.rank_async(RECORDS[1:2]),
            scorer.compare_async(RECORDS[2:]),
        )
        return list(await asyncio.gather(*calls))

    with Scorer.open(model, prompt_type="llama2", load_checkpoint_loosely=True) as scorer:
        in_turn = [scorer.score(RECORDS), scorer.rank(RECORDS[1:2]), scorer.compare(RECORDS[2:])]
        try:
            scorer.compare(RECORDS[1:])
        except ValueError as error:
            return in_turn, asyncio.run(at_a_time(scorer)), str(error)
    return ()


def test_ranks_and_comparisons_follow_the_scores_in_turn_and_at_a_time(workers: Workers, model: str) -> None:
    ((in_turn, at_a_time, told),) = workers.run(rankings_and_comparisons, 1, model)
    assert at_a_time == in_turn
    (_, several, (chosen, rejected)), ranks, probabilities = in_turn
    assert [several[place] for place in ranks[0]] == sorted(several, reverse=True)
    assert probabilities == [pytest.approx(1 / (1 + math.exp(rejected - chosen)), abs=1e-6)]
    assert told == "records[0] has 3 responses: two are compared"


BUDGETS = (1, 64, 4096)


def budgets(model: str, records: list[dict[str, Any]]) -> list[Any]:
    """Of each budget, the tokens that every pass computes and the scores."""
    from modellink_rm import Scorer
    from modellink_rm.model.reward_model import RewardModel

    packed: list[int] = []
    forward = RewardModel.forward

    def counted(chunk: RewardModel, batch: Any) -> Any:
        packed.append(batch.num_computed_tokens)
        return forward(chunk, batch)

    RewardModel.forward = counted  # type: ignore[assignment, method-assign]
    try:
        results = []
        for budget in BUDGETS:
            options = {"prompt_type": "llama2", "load_checkpoint_loosely": True}
            with Scorer.open(model, max_tokens_per_micro_batch=budget, **options) as scorer:
                results.append((scorer.score(records), list(packed)))
            packed.clear()
        return results
    finally:
        RewardModel.forward = forward  # type: ignore[method-assign]


def test_a_prompt_is_computed_once_for_all_records_of_a_call_and_passes_keep_the_budget(
    workers: Workers, model: str
) -> None:
    again = [{"prompt": "the cat", "response": f"the bird sings {number}"} for number in range(40)]
    ((smallest, middle, largest),) = workers.run(budgets, 1, model, [*RECORDS, *again])
    for scores, _ in (smallest, middle):
        for ours, expected in zip(scores, largest[0], strict=True):
            assert ours == pytest.approx(expected, abs=1e-6)
    assert len(smallest[1]) >= len(middle[1]) > len(largest[1]) == 1
    (alone,) = workers.run(scores_of, 1, model, [again[7]], {})
    assert largest[0][3 + 7] == pytest.approx(alone[0], abs=1e-6)
    (apart,) = workers.run(budgets, 1, model, [again[0]])
    assert largest[1][0] < 0.8 * 40 * apart[2][1][0]


def scores_and_rows(model: str, records: list[dict[str, Any]], num_rows: int) -> tuple[list[Any], int]:
    """The scores on a machine whose products want some rows at once, and the most that an MLP then took."""
    from modellink_rm.model.layers.dense_mlp import DenseMLP

    seen: list[int] = []
    of_rows = DenseMLP._of_rows

    def counted(mlp: DenseMLP, states: Any) -> Any:
        seen.append(len(states))
        return of_rows(mlp, states)

    with (
        patch.object(DenseMLP, "_of_rows", counted),
        patch("modellink_rm.base.platform._ROWS_OF_A_PRODUCT", num_rows),
    ):
        scores = scores_of(model, records, {})
    return scores, max(seen)


def test_inner_states_of_a_pass_are_those_of_some_tokens_at_a_time(workers: Workers, model: str) -> None:
    records = [{"prompt": "the cat", "response": f"the bird sings {number}"} for number in range(20)]
    ((expected, whole),) = workers.run(scores_and_rows, 1, model, records, 512)
    ((found, divided),) = workers.run(scores_and_rows, 1, model, records, 32)
    assert found == pytest.approx(expected, abs=1e-6)
    assert divided == 32 < whole


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_model_parallel_size": 2},
        full({"pipeline_model_parallel_size": 2}),
        full({"context_parallel_size": 2}),
        full({}),
    ],
    ids=["tp2", "pp2", "cp2", "dp2"],
)
def test_200_pairs_have_equal_scores_and_ranks_at_every_parallel_size(
    options: dict[str, Any], workers: Workers, model: str
) -> None:
    records = random_pairs(200)
    handler = {"handler_name": "SharegptStylePairwiseHandler"}
    (one,) = workers.run(scores_of, 1, model, records, handler)
    two, others = workers.run(scores_of, 2, model, records, {**handler, **options})
    assert two == others
    expected, found = np.array(one), np.array(two)
    assert np.abs(found - expected).max() < 1e-6
    order = np.argsort(expected, axis=None)
    assert (np.diff(found.flatten()[order]) > -2e-6).all()  # but for scores that rounding cannot tell apart


def test_keys_of_a_handler_may_be_a_dict(workers: Workers, model: str) -> None:
    options = {"handler_name": "AlpacaStylePairwiseHandler", "map_keys": {"prompt": "question"}}
    record = {"question": "a dog", "chosen": "runs", "rejected": "the tree shines"}
    (found,) = workers.run(scores_of, 1, model, [record], options)
    (expected,) = workers.run(scores_of, 1, model, RECORDS[2:], {})
    assert found[0] == pytest.approx(expected[0], abs=1e-6)


def test_wrong_use_is_one_line(workers: Workers, model: str) -> None:
    (told,) = workers.run(failures, 1, model)
    expected = [
        "unknown option 'prompt_typ'; did you mean prompt_type?",
        "unknown --truncation 'left'",
        "--seq-length 1000000 is above the model's --max-position-embeddings",
        "torch.distributed runs in this process already, as of a Scorer that is open: close it first",
        "records[1]: field 'response' must be a text or a list of messages",
        "records must be a list of dicts, got a dict",
        "records[1] must be a dict of its fields, got a NoneType",
        "records must be a list of dicts, got a NoneType",
        "the Scorer is closed",
        "the Scorer is closed",
    ]
    assert [line[: len(begin)] for line, begin in zip(told, expected, strict=True)] == expected


def test_a_forked_process_is_told_to_open_its_own(workers: Workers, model: str) -> None:
    (told,) = workers.run(told_in_a_forked_process, 1, model)
    line = "a Scorer is of the process that opened it: open one in each, started by "
    assert told == [f"{line}multiprocessing.get_context('spawn')"] * 2


def test_the_first_score_imports_nothing(model: str) -> None:
    """A server may have no open file left for it: every connection is one."""
    code = (
        "import sys\n"
        "from modellink_rm import Scorer\n"
        "with Scorer.open(sys.argv[1], prompt_type='llama2', load_checkpoint_loosely=True) as scorer:\n"
        "    before = set(sys.modules)\n"
        "    scorer.score([{'prompt': 'the cat', 'responses': ['sings', 'sleeps']}])\n"
        "    sys.exit(' '.join(set(sys.modules) - before) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def refusal_of_nan(model: str) -> str:
    from modellink_rm import Scorer

    with Scorer.open(model, prompt_type="llama2", load_checkpoint_loosely=True) as scorer:
        try:
            scorer.score(RECORDS)
        except ValueError as error:
            return str(error)
    return "scored"


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_score_that_is_not_finite_is_an_error_on_every_rank(
    world_size: int, tmp_path: Path, workers: Workers
) -> None:
    write_tiny_llama(tmp_path, value_head=True)
    write_tokenizer(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][:] = 3e38  # finite, as weights must be
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    told = workers.run(refusal_of_nan, world_size, str(tmp_path))
    assert told == ["records[0]: a score is not finite"] * world_size


NUM_HELD_OUT = 10
SEQ_LENGTH = 40  # longer than some of the pairs below and shorter than others


def scored_results(checkpoint: str, records: list[dict[str, Any]]) -> tuple[bool, list[tuple[Any, bool]]]:
    """Whether a Scorer computes in bfloat16, and of each record its scores and whether it was truncated."""
    from modellink_rm import Scorer
    from modellink_rm.config.scorer import scorer_options
    from modellink_rm.inference.plan import plan_scoring
    from modellink_rm.inference.result import Scored
    from modellink_rm.records import Record

    plan = plan_scoring(scorer_options(checkpoint, {}))
    with Scorer(plan) as scorer:
        results = scorer.results([Record(f"line {i}", one) for i, one in enumerate(records)])
    assert all(isinstance(result, Scored) for result in results)
    return plan.bf16, [(one.scores, one.is_truncated) for one in results if isinstance(one, Scored)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and preprocessed pairs of which some are longer than SEQ_LENGTH."""
    directory = tmp_path_factory.mktemp("contract")
    write_tiny_llama(directory / "model", value_head=True)
    write_tokenizer(directory / "model")
    (directory / "pairs.json").write_text(json.dumps(random_pairs(40)))
    flags = (
        f"--input {directory}/pairs.json --handler-name SharegptStylePairwiseHandler --prompt-type llama2 "
        f"--tokenizer-name-or-path {directory}/model --output-prefix {directory}/pairs"
    )
    assert preprocess_main(flags.split()) == 0
    return directory


def trained_to_score(workers: Workers, pairs: Path, save: Path, flags: str) -> RunResult:
    common = (
        f"--stage rm --is-pairwise-dataset --load {pairs}/model --load-checkpoint-loosely "
        f"--data-path {pairs}/pairs --split 30,{NUM_HELD_OUT},0 --seq-length {SEQ_LENGTH} --lr 1e-3 "
        "--global-batch-size 5 --train-iters 2 --eval-interval 2 --eval-iters 2"
    )
    return run_training(workers, 1, [*common.split(), *flags.split()], save)


@pytest.mark.parametrize("truncation", ["keep-ends", full("right")])
def test_checkpoint_truncates_what_it_scores_as_its_training_did(
    truncation: str, pairs: Path, workers: Workers, tmp_path: Path
) -> None:
    run = trained_to_score(workers, pairs, tmp_path, f"--truncation {truncation}")
    held_out = random_pairs(40)[-NUM_HELD_OUT:]
    ((bf16, scored),) = workers.run(scored_results, 1, str(tmp_path), held_out)
    assert not bf16
    assert {is_truncated for _, is_truncated in scored} == {True, False}
    *_, evaluation = (row for row in run.rows if "valid/loss" in row)
    for place, name in enumerate(("chosen_score", "rejected_score")):
        mean = sum(scores[place] for scores, _ in scored) / NUM_HELD_OUT
        # Other micro-batches, so other float32 rounding; truncated otherwise the means are off by 0.1.
        assert mean == pytest.approx(evaluation[f"valid/{name}"], abs=1e-5)


def test_checkpoint_of_a_bf16_run_is_scored_in_bf16(pairs: Path, workers: Workers, tmp_path: Path) -> None:
    run = trained_to_score(workers, pairs, tmp_path, "--bf16")
    contract = read_contract(tmp_path / "iter_0000002")
    assert (contract.seq_length, contract.truncation) == (SEQ_LENGTH, "right")
    ((bf16, scored),) = workers.run(scored_results, 1, str(tmp_path), random_pairs(40)[-NUM_HELD_OUT:])
    assert bf16
    *_, evaluation = (row for row in run.rows if "valid/loss" in row)
    mean = sum(scores[0] for scores, _ in scored) / NUM_HELD_OUT
    # bfloat16 has 8 bits, about 0.4%, and scores here are below 1; its rounding depends on the micro-batches.
    assert mean == pytest.approx(evaluation["valid/chosen_score"], abs=0.01)
