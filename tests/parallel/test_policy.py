"""--stage dpo over several processes, resumed, and exported: the numbers of one process, without a break."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.indexed import IndexedReader
from modellink_rm.dataset.reference import ReferenceColumn, reference_parts
from tests.distributed import Workers
from tests.marks import full
from tests.runs import RunResult, run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

NUM_STEPS = 4
NUM_IDS = 320  # of the tiny models
INTERLEAVED = "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"
CASES = {
    "tp2_sp": (2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2": (2, "--pipeline-model-parallel-size 2"),
    "cp2": (2, "--context-parallel-size 2"),
    "dp2": (2, ""),
    "tp2": (2, "--tensor-model-parallel-size 2"),
    "dp2_distributed_optimizer": (
        2,
        "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather",
    ),
    "pp2_dp2_distributed_optimizer": (4, "--pipeline-model-parallel-size 2 --use-distributed-optimizer"),
    "cp2_tp2_sp": (4, "--context-parallel-size 2 --tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2_vpp2": (2, INTERLEAVED),
    "prompts_apart": (1, "--no-prefix-sharing"),
    "one_example_a_micro_batch": (1, "--max-tokens-per-micro-batch 1"),
    "recompute_full": (1, "--recompute-granularity full"),
}
QUICK = {"tp2_sp", "cp2"}
QUICK_TIED = {"pp2"}
LOSSES = {
    "hinge": "--dpo-loss-type hinge",
    "ipo": "--dpo-loss-type ipo",
    "robust": "--dpo-loss-type robust --dpo-label-smoothing 0.1",
    "smoothed": "--dpo-label-smoothing 0.1",
    "simpo": "--dpo-loss-type simpo",
    "orpo": "--dpo-loss-type orpo",
    "pref_ftx": "--pref-ftx 0.1",
}
# Of four processes: together every way to divide a run, and none of the packing.
DIVIDED = {
    "tp2_sp_pp2": "--tensor-model-parallel-size 2 --sequence-parallel --pipeline-model-parallel-size 2",
    "cp2_dp2_unpacked": "--context-parallel-size 2 --max-tokens-per-micro-batch 1 --no-prefix-sharing",
}
MODELS: dict[str, Callable[[Path], Any]] = {
    "untied": lambda directory: write_tiny_llama(directory),
    "tied": lambda directory: write_tiny_llama(directory, tie_word_embeddings=True),
}


def words(directory: Path, kind: str, *more: str) -> list[str]:
    flags = (
        f"--stage dpo --load {directory}/{kind} --data-path {directory}/data/pairs --split 30,10,0 "
        f"--seq-length 48 --lr 1e-3 --max-tokens-per-micro-batch 100 --global-batch-size 6 --dpo-beta 0.5 "
        f"--train-iters {NUM_STEPS} --eval-interval 2 --eval-iters 1 --make-vocab-size-divisible-by 128"
    )
    return [*flags.split(), *more]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and pairs."""
    path = tmp_path_factory.mktemp("policy")
    for kind, write in MODELS.items():
        write(path / kind)
        write_tokenizer(path / kind)
    write_random_rows(path / "data" / "pairs", 40)
    return path


@pytest.fixture(scope="module")
def singles(directory: Path, workers: Workers) -> Callable[[str], RunResult]:
    """The run in one process, by the kind of model."""
    found: dict[str, RunResult] = {}

    def single(kind: str) -> RunResult:
        if kind not in found:
            save = directory / f"single_{kind}"
            found[kind] = run_training(workers, 1, words(directory, kind), save, saves=False)
        return found[kind]

    return single


def check_same(run: RunResult, single: RunResult) -> None:
    # Sums in another order: float32 rounding, grown by four Adam steps at a large learning rate.
    for name in ("loss", "chosen_reward", "rejected_reward"):
        assert run.column(name) == pytest.approx(single.column(name), abs=5e-5), name
    assert run.column("grad_norm") == pytest.approx(single.column("grad_norm"), rel=1e-4)
    assert run.steps[0]["grad_norm"] == pytest.approx(single.steps[0]["grad_norm"], rel=1e-5)
    evaluations = [[row for row in result.rows if "valid/loss" in row] for result in (run, single)]
    assert len(evaluations[0]) == len(evaluations[1]) == 3
    for ours, theirs in zip(*evaluations, strict=True):
        assert ours.keys() == theirs.keys()
        names = {"valid/loss", "valid/margin", "valid/chosen_reward", "valid/entropy", "valid/log_ratio"}
        for name in names & theirs.keys():  # without a reference there is no ratio
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4), name
    assert evaluations[0][-1]["valid/entropy"] > 0
    assert not {"entropy", "log_ratio"} & run.steps[0].keys()  # training computes no entropies
    copy = "lm_head.weight"  # of a tied embedding, on the last of several stages
    assert run.weights.keys() - {copy} == single.weights.keys() - {copy}
    for name, weight in single.weights.items():
        msg, rows = f"{name} differs", slice(None)
        if name in ("lm_head.weight", "embedding.word_embeddings.weight"):
            rows = slice(NUM_IDS)  # as many rows pad it as tensor parallelism wants
            assert not run.weights[name][NUM_IDS:].any()
        torch.testing.assert_close(run.weights[name][rows], weight[rows], atol=2e-4, rtol=1e-3, msg=msg)


@pytest.mark.parametrize("case", [case if case in QUICK else full(case) for case in CASES])
def test_run_matches_one_process(
    case: str, directory: Path, singles: Callable[[str], RunResult], workers: Workers, tmp_path: Path
) -> None:
    world_size, flags = CASES[case]
    run = run_training(workers, world_size, words(directory, "untied", *flags.split()), tmp_path, saves=False)
    check_same(run, singles("untied"))


@pytest.mark.parametrize("case", [case if case in QUICK_TIED else full(case) for case in CASES])
def test_run_of_a_tied_model_matches_one_process(
    case: str, directory: Path, singles: Callable[[str], RunResult], workers: Workers, tmp_path: Path
) -> None:
    world_size, flags = CASES[case]
    run = run_training(workers, world_size, words(directory, "tied", *flags.split()), tmp_path, saves=False)
    check_same(run, singles("tied"))
    if "lm_head.weight" in run.weights:
        assert torch.equal(run.weights["lm_head.weight"], run.weights["embedding.word_embeddings.weight"])


NUM_LEFT = 20  # values of ten pairs


def values_of(described: Path) -> NDArray[np.float64]:
    """The values of a reference column."""
    reader = IndexedReader(described.with_suffix(""), "float64")
    return np.concatenate([reader[row] for row in range(len(reader))])


def column_of(data: Path) -> tuple[NDArray[np.float64], str]:
    """The values of the one reference column beside a data set, and its name."""
    (described,) = data.glob("pairs_packed_reference_*.json")
    return values_of(described), described.name


def leave_part(prefix: Path, known: Path) -> None:
    """What a killed run leaves of a column: ten pairs, with values that are 1 above those of a known one."""
    column = ReferenceColumn(prefix=prefix, identity=json.loads(known.read_bytes())["identity"])
    with reference_parts(column) as parts:
        parts.finished(column.identity_json)
        parts.add(values_of(known)[:NUM_LEFT] + 1)


@pytest.mark.parametrize(
    ("world_size", "flags"),
    [
        (2, "--tensor-model-parallel-size 2"),
        full(2, ""),
        full(4, "--context-parallel-size 2 --pipeline-model-parallel-size 2"),
    ],
)
def test_reference_column_is_the_same_however_it_is_computed_and_keeps_the_rows_of_a_killed_run(
    world_size: int,
    flags: str,
    directory: Path,
    singles: Callable[[str], RunResult],
    workers: Workers,
    tmp_path: Path,
) -> None:
    single = singles("untied")
    assert single.steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    write_random_rows(tmp_path / "data" / "pairs", 40)
    for known in (directory / "data").glob("pairs_packed_reference_*.json"):
        leave_part(tmp_path / "data" / "pairs", known)
    argv = [*words(directory, "untied", *flags.split()), "--data-path", str(tmp_path / "data" / "pairs")]
    run_training(workers, world_size, [*argv, "--train-iters", "1"], tmp_path / "run", saves=False)
    values, name = column_of(tmp_path / "data")
    expected = values_of(directory / "data" / name)
    expected[:NUM_LEFT] += 1
    assert values.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("kind", ["untied", full("tied")])
def test_run_that_is_resumed_at_another_size_goes_on(
    kind: str, directory: Path, singles: Callable[[str], RunResult], workers: Workers, tmp_path: Path
) -> None:
    flags = words(directory, kind, "--save-interval", "2")
    sizes = ["--pipeline-model-parallel-size", "2"]
    run_training(workers, 2, [*flags, *sizes, "--exit-interval", "2"], tmp_path)
    run = run_training(workers, 1, [*flags, "--auto-resume"], tmp_path)
    check_same(run, singles(kind))


@pytest.mark.full
def test_resumed_run_is_bitwise_the_uninterrupted_one(
    directory: Path, workers: Workers, tmp_path: Path
) -> None:
    write_random_rows(tmp_path / "data" / "pairs", 40)
    flags = [*words(directory, "tied", "--save-interval", "2"), "--data-path", f"{tmp_path}/data/pairs"]
    whole = run_training(workers, 1, flags, tmp_path / "whole")
    run_training(workers, 1, [*flags, "--exit-interval", "2"], tmp_path / "parts")
    # The reference is known by the checkpoint alone: neither the column nor --load is as it was.
    for path in (tmp_path / "data").glob("pairs_packed_reference_*"):
        path.unlink()
    resumed = [*flags, "--load", str(tmp_path / "parts")]
    parts = run_training(workers, 1, resumed, tmp_path / "parts")
    assert parts.column("loss") == whole.column("loss")
    assert all(torch.equal(weight, whole.weights[name]) for name, weight in parts.weights.items())


def test_reference_of_another_model_changes_the_first_loss(
    directory: Path, singles: Callable[[str], RunResult], workers: Workers, tmp_path: Path
) -> None:
    write_tiny_llama(tmp_path / "other", seed=99)
    flags = words(directory, "untied", "--reference-load", str(tmp_path / "other"), "--train-iters", "1")
    run = run_training(workers, 1, flags, tmp_path / "run", saves=False)
    assert abs(run.steps[0]["loss"] - np.log(2)) > 1e-3
    # The policy's own weights are in the model again.
    own = singles("untied").column("chosen_log_prob")[0]
    assert run.column("chosen_log_prob")[0] == pytest.approx(own, rel=1e-6)


@pytest.mark.full
def test_rankings_are_trained_on_at_any_size(directory: Path, workers: Workers, tmp_path: Path) -> None:
    write_random_rows(tmp_path / "ranked", 40, most_responses=4)
    flags = [*words(directory, "untied"), "--data-path", str(tmp_path / "ranked")]
    one = run_training(workers, 1, flags, tmp_path / "one", saves=False)
    two = run_training(
        workers,
        2,
        [*flags, "--tensor-model-parallel-size", "2", "--no-prefix-sharing"],
        tmp_path / "two",
        saves=False,
    )
    assert two.column("loss") == pytest.approx(one.column("loss"), abs=5e-5)
    assert two.column("grad_norm") == pytest.approx(one.column("grad_norm"), rel=1e-4)


@pytest.fixture(scope="module")
def singles_of_losses(directory: Path, workers: Workers) -> Callable[[str], RunResult]:
    """The run in one process, by the loss."""

    @functools.cache
    def single(loss: str) -> RunResult:
        flags = words(directory, "untied", *LOSSES[loss].split())
        return run_training(workers, 1, flags, directory / f"single_{loss}", saves=False)

    return single


@pytest.mark.full
@pytest.mark.parametrize("case", DIVIDED)
@pytest.mark.parametrize("loss", LOSSES)
def test_other_losses_match_one_process(
    loss: str,
    case: str,
    directory: Path,
    singles_of_losses: Callable[[str], RunResult],
    workers: Workers,
    tmp_path: Path,
) -> None:
    flags = words(directory, "untied", *LOSSES[loss].split(), *DIVIDED[case].split())
    check_same(run_training(workers, 4, flags, tmp_path, saves=False), singles_of_losses(loss))


@pytest.mark.full
def test_adapters_of_a_policy_are_trained_resumed_and_merged(
    directory: Path, workers: Workers, tmp_path: Path
) -> None:
    flags = [*words(directory, "tied", "--lora-r", "4", "--lora-alpha", "8"), "--save-interval", "2"]
    one = run_training(workers, 1, flags, tmp_path / "one")
    assert one.steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    pp2 = ["--pipeline-model-parallel-size", "2"]
    run_training(workers, 2, [*flags, *pp2, "--exit-interval", "2"], tmp_path / "two")
    two = run_training(workers, 1, [*flags, "--auto-resume"], tmp_path / "two")
    assert two.column("loss") == pytest.approx(one.column("loss"), abs=5e-5)
    assert two.column("grad_norm") == pytest.approx(one.column("grad_norm"), rel=1e-4)
    workers.run(export_on_rank, 1, str(tmp_path / "one"), str(tmp_path / "merged"), {}, True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(directory / "tied", dtype=torch.float32)
    assert torch.equal(merged.lm_head.weight, base.lm_head.weight)
    assert not torch.equal(
        merged.model.layers[0].self_attn.q_proj.weight, base.model.layers[0].self_attn.q_proj.weight
    )


def export_on_rank(load: str, output: str, sizes: dict[str, Any], merge: bool = False) -> None:
    from modellink_rm.config.export import ExportConfig
    from modellink_rm.config.parallel import ParallelConfig
    from modellink_rm.conversion.export import export_checkpoint
    from modellink_rm.conversion.plan import plan_export

    config = ExportConfig(load=load, output=output, merge=merge)
    export_checkpoint(plan_export(config, ParallelConfig(**sizes)))


@pytest.mark.parametrize("kind", ["tied", full("untied")])
def test_export_is_the_policy_for_transformers(
    kind: str, directory: Path, workers: Workers, tmp_path: Path
) -> None:
    """The exported weights give the held-out figures of the run's last evaluation."""
    flags = [*words(directory, kind), "--split", "36,4,0", "--eval-iters", "100"]
    pp2 = ["--pipeline-model-parallel-size", "2"]
    run = run_training(workers, 2, [*flags, *pp2], tmp_path / "run")
    output = tmp_path / "exported"
    sizes = {"pipeline_model_parallel_size": 2}
    workers.run(export_on_rank, 2, str(tmp_path / "run"), str(output), sizes)
    config = json.loads((output / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    answers = held_out_answers(directory / "data" / "pairs", range(36, 40))
    policy, reference = (answer_figures(model, answers) for model in (output, directory / kind))
    last = [row for row in run.rows if "valid/chosen_log_prob" in row][-1]
    assert last["valid/chosen_log_prob"] == pytest.approx(policy.chosen_log_prob, rel=1e-5)
    assert last["valid/entropy"] == pytest.approx(policy.entropy, rel=1e-5)
    assert last["valid/log_ratio"] == pytest.approx(policy.log_prob - reference.log_prob, abs=1e-5)


Answers = list[tuple[str, torch.Tensor, torch.Tensor]]


def held_out_answers(prefix: Path, rows: range) -> Answers:
    """Of each answer its side, its tokens with the prompt, and which of them but the first are predicted."""
    found = []
    for side in ("chosen", "rejected"):
        data = IndexedReader(Path(f"{prefix}_packed_{side}_input_ids_document"))
        labels = IndexedReader(Path(f"{prefix}_packed_{side}_labels_document"))
        for row in rows:
            assert len(data[row]) <= 48  # a longer row is cut in training
            ids, is_answer = data[row].astype(np.int64), labels[row] != -100
            found.append((side, torch.from_numpy(ids), torch.from_numpy(is_answer[1:])))
    return found


@dataclass(frozen=True, kw_only=True)
class AnswerFigures:
    """Means over the answers: a chosen one's log-probability, and those over all tokens."""

    chosen_log_prob: float
    log_prob: float
    entropy: float


@torch.no_grad()
def answer_figures(load: Path, answers: Answers) -> AnswerFigures:
    """What transformers makes of the answers."""
    model = AutoModelForCausalLM.from_pretrained(load, dtype=torch.float32).eval()
    log_probs, entropies = [], []
    for _, ids, is_answer in answers:
        of_all = model(ids[None]).logits[0, :-1].log_softmax(-1)[is_answer]
        log_probs.append(of_all.gather(1, ids[1:, None][is_answer])[:, 0])
        entropies.append(torch.distributions.Categorical(logits=of_all).entropy())
    chosen = [values.sum() for (side, *_), values in zip(answers, log_probs, strict=True) if side == "chosen"]
    return AnswerFigures(
        chosen_log_prob=float(torch.stack(chosen).mean()),
        log_prob=float(torch.cat(log_probs).mean()),
        entropy=float(torch.cat(entropies).mean()),
    )


def test_checkpoint_of_a_policy_gives_no_scores(directory: Path, workers: Workers, tmp_path: Path) -> None:
    from modellink_rm.checkpoint.model_plan import plan_model
    from modellink_rm.checkpoint.source import open_source
    from modellink_rm.config.model import ModelConfig
    from modellink_rm.config.parallel import ParallelConfig

    run_training(workers, 1, words(directory, "untied", "--train-iters", "1"), tmp_path)
    with pytest.raises(UserError, match="a language model that --stage dpo trained, which gives no scores"):
        plan_model(open_source(str(tmp_path)), ModelConfig(), ParallelConfig(), loosely=True)
