"""What is chosen for GPUs of a given memory, and what is said where nothing fits."""

import dataclasses
import re
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.estimate import EstimateConfig
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.estimate.choose import Choice, Question, best_choice
from modellink_rm.estimate.gpus import parse_gpus
from modellink_rm.estimate.report import report_json, report_lines
from modellink_rm.model.shape import ModelShape
from tests.unit.estimate.shapes import LLAMA_8B, LLAMA_70B, published_shape


def question(gpus: str, shape: ModelShape = LLAMA_8B, **fields: Any) -> Question:
    return Question(
        shape=shape,
        model=ModelConfig(),
        config=EstimateConfig(gpus=gpus, **{"seq_length": 4096, **fields}),
        cluster=parse_gpus(gpus, host_memory=2**36),
    )


def choose(gpus: str, shape: ModelShape = LLAMA_8B, **fields: Any) -> Choice:
    return best_choice(question(gpus, shape, **fields))


@pytest.mark.parametrize(
    ("gpus", "shape"), [("8x80G", LLAMA_8B), ("64x80G", LLAMA_70B), ("2xH200", LLAMA_8B)]
)
def test_what_is_chosen_fits_and_divides(gpus: str, shape: ModelShape) -> None:
    asked = question(gpus, shape)
    choice = best_choice(asked)
    parallel = choice.run.parallel
    assert choice.memory.peak <= asked.usable
    assert shape.num_layers % parallel.pipeline_model_parallel_size == 0
    assert parallel.tensor_model_parallel_size <= asked.cluster.per_node
    assert 128 % parallel.data_parallel_size(asked.cluster.world_size) == 0


def test_sizes_that_are_given_are_kept() -> None:
    choice = choose(
        "8x80G",
        tensor_model_parallel_size=4,
        context_parallel_size=1,
        pipeline_model_parallel_size=1,
        recompute_granularity="full",
        max_tokens_per_micro_batch=9000,
    )
    assert choice.flags() == [
        "--bf16",
        "--tensor-model-parallel-size 4",
        "--sequence-parallel",
        "--use-distributed-optimizer",
        "--recompute-granularity full",
        "--max-tokens-per-micro-batch 9000",
    ]


def test_nothing_is_divided_or_recomputed_where_one_gpu_is_enough() -> None:
    choice = choose("1xH200", published_shape("llama-3.2-3b-instruct"), seq_length=1024)
    assert choice.flags() == ["--bf16", "--max-tokens-per-micro-batch 16384"]


def test_experts_are_divided_where_they_do_not_fit() -> None:
    choice = choose("16x80G", published_shape("mixtral-8x7b"))
    assert choice.run.parallel.expert_model_parallel_size > 1


def test_every_pair_of_a_small_batch_gets_its_replica() -> None:
    choice = choose("8xH200", global_batch_size=2, seq_length=1024)
    assert choice.run.parallel.data_parallel_size(8) <= 2


def test_a_refusal_names_what_would_fit() -> None:
    with pytest.raises(UserError) as refusal:
        choose("1x80G")
    line = str(refusal.value)
    assert "the model does not fit --gpus 1x80G: at least 1" in line
    assert "it would fit with --gpus 2x80G" in line
    assert choose("2x80G").memory.peak <= question("2x80G").usable


def test_a_refusal_of_given_sizes_names_others() -> None:
    with pytest.raises(UserError, match=r"it would fit with --bf16 .*or with --seq-length") as refusal:
        choose("8x80G", recompute_granularity="none", tensor_model_parallel_size=1, seq_length=65536)
    words = re.search(r"it would fit with (--bf16[^,]*)", str(refusal.value))
    assert words is not None
    assert choose("8x80G", seq_length=65536).flags() == re.findall(r"--[a-z0-9-]+(?: \w+)?", words[1])


def test_a_shorter_sequence_is_named_where_it_fits() -> None:
    with pytest.raises(UserError, match="--seq-length 16384"):
        choose(
            "1x80G",
            published_shape("llama-3.2-3b-instruct"),
            seq_length=65536,
            global_batch_size=1,
        )


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"tensor_model_parallel_size": 3}, "--tensor-model-parallel-size 3 does not divide"),
        ({"pipeline_model_parallel_size": 5}, "--pipeline-model-parallel-size 5 does not divide"),
        ({"pipeline_model_parallel_size": 16}, "does not divide the number of processes, 8"),
        ({"expert_model_parallel_size": 2}, "needs a model with experts"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_the_trainers_rules(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=re.escape(rule)):
        choose("8x80G", **fields)


def test_a_batch_below_the_replicas_is_refused() -> None:
    sizes: dict[str, Any] = {
        f"{kind}_parallel_size": 1 for kind in ("tensor_model", "pipeline_model", "context", "expert_model")
    }
    with pytest.raises(UserError, match="--global-batch-size 4 is below the 8 replicas"):
        choose("8xH200", global_batch_size=4, **sizes)


def test_the_report_adds_up_and_the_file_says_the_same() -> None:
    import json

    asked = question("8xH100")
    choice = best_choice(asked)
    lines = report_lines(asked, choice)
    sizes = [float(line.split()[-1]) for line in lines if re.fullmatch(r"  [a-z ]+ +[\d.]+", line)]
    assert sum(sizes[:-1]) == pytest.approx(sizes[-1], abs=0.03)
    assert any("8.0" not in line and "7.50 B parameters" in line for line in lines)
    assert any("of 989 TFLOP/s" in line for line in lines)
    values = json.loads(report_json(asked, choice))
    assert values["memory_bytes"]["at most"] == choice.memory.peak
    assert values["flags"] == choice.flags()


def test_the_speed_of_a_gpu_that_is_not_named_is_said_to_be_taken() -> None:
    asked = question("8x80G")
    assert any("taken from A100-80G" in line for line in report_lines(asked, best_choice(asked)))


@pytest.mark.parametrize("rate", [1e-6, 3.5, 1e6])
def test_lines_of_any_speed_are_short(rate: float) -> None:
    asked = question("1xH200", published_shape("llama-3.2-3b-instruct"), peak_tflops=rate)
    gpu = dataclasses.replace(asked.cluster.gpu, tflops=rate)
    asked = dataclasses.replace(asked, cluster=dataclasses.replace(asked.cluster, gpu=gpu))
    (line,) = (line for line in report_lines(asked, best_choice(asked)) if "TFLOP/s" in line)
    assert f"of {rate:.4g} TFLOP/s" in line
    assert len(line) < 150


@pytest.mark.parametrize("rate", [1e-300, 1e-7, 1e7, 1e300])
def test_a_speed_that_no_device_has_is_refused(rate: float) -> None:
    told = f"--peak-tflops must lie between 1e-06 and 1e+06, got {rate:g}"
    with pytest.raises(UserError, match=re.escape(told)):
        question("1xH200", peak_tflops=rate)


def test_a_cpu_has_no_time_and_float32() -> None:
    asked = question("2xcpu", published_shape("llama-3.2-3b-instruct"), seq_length=256)
    choice = best_choice(asked)
    assert "--bf16" not in choice.flags()
    assert any("--peak-tflops gives its time" in line for line in report_lines(asked, choice))


def test_frozen_layers_fit_fewer_gpus_and_are_in_the_flags() -> None:
    with pytest.raises(UserError, match="the model does not fit"):
        choose("1x24G", seq_length=1024)
    choice = choose("1x24G", seq_length=1024, freeze_base=True)
    assert "--freeze-base" in choice.flags()
    last = choose("1x40G", seq_length=1024, train_last_n_layers=2)
    assert "--train-last-n-layers 2" in last.flags()
    assert choice.time.flops < last.time.flops


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze_base": True, "train_last_n_layers": 2}, "exclude each other"),
        ({"train_last_n_layers": 33}, "is above the model's 32 layers"),
    ],
)
def test_layers_that_cannot_be_trained_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose("1x80G", **fields)


def test_adapters_of_frozen_layers_are_refused() -> None:
    asked = dataclasses.replace(question("1x80G", freeze_base=True), lora=LoraConfig(lora_r=2))
    with pytest.raises(UserError, match="adapters freeze all of them"):
        best_choice(asked)


def test_sizes_at_which_the_trainer_holds_no_4_bits_are_not_chosen() -> None:
    """A row of 11,008 numbers divided by 8 has no whole blocks of 64, which the trainer refuses."""
    shape = published_shape("llama-2-7b")
    asked = question("8x80G", shape, tensor_model_parallel_size=8)
    whole = dataclasses.replace(asked, lora=LoraConfig(lora_r=8))
    assert best_choice(whole).run.parallel.tensor_model_parallel_size == 8
    held = dataclasses.replace(asked, lora=LoraConfig(lora_r=8, load_in_4bit=True))
    with pytest.raises(UserError, match=r"--load-in-4bit: a row .* has 1376 numbers in a process"):
        best_choice(held)
    halves = dataclasses.replace(held, config=dataclasses.replace(held.config, tensor_model_parallel_size=4))
    assert best_choice(halves).run.parallel.tensor_model_parallel_size == 4
