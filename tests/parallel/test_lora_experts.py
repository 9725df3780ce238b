"""Adapters of experts: checkpoints, resuming, other parallel sizes, PEFT's form, merging, 4 bits."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from modellink_rm.adapters.nf4 import dequantized, quantized
from tests.distributed import Workers
from tests.lora_reference import EXPERTS, apply_adapter
from tests.parallel.test_lora import (
    SIZES,
    check_resumes_bitwise,
    export_on_rank,
    half_of,
    last,
    run_lora,
    scores,
    transformers_scores,
)
from tests.runs import RunResult
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_mixtral, write_tiny_qwen2_moe

pytestmark = pytest.mark.full

LORA = "--lora-r 4 --lora-alpha 16 --lora-target-modules linear_qkv linear_fc1 linear_fc2"
EXPORT_SIZES: dict[str, dict[str, int]] = {
    "one": {},
    "ep2": {"expert_model_parallel_size": 2},
    "etp2": {"expert_tensor_parallel_size": 2},
    "tp2": {"tensor_model_parallel_size": 2},
    "pp2": {"pipeline_model_parallel_size": 2},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a reward model of experts and pairs."""
    directory = tmp_path_factory.mktemp("experts")
    # Rows of 64 numbers or 128, also in halves: what 4 bits need.
    write_tiny_mixtral(directory / "model", kind="score", hidden_size=128, intermediate_size=128, head_dim=16)
    write_tokenizer(directory / "model")
    write_random_rows(directory / "pairs", 40)
    return directory


def opened(directory: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)


def check_close(run: RunResult, reference: RunResult) -> None:
    """Equal weights: the updates of four steps are some hundredths.

    Adam turns rounding noise in a gradient near 0 into a part of a step, of a few numbers.
    """
    for name, weight in run.weights.items():
        assert (weight - reference.weights[name]).abs().mean() < 1e-4, name


def test_checkpoint_holds_what_is_trained_alone(base: Path, workers: Workers, tmp_path: Path) -> None:
    run = run_lora(workers, base, tmp_path / "run", more=LORA)
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    names = FileSystemReader(last(tmp_path / "run")).read_metadata().state_dict_metadata
    assert all(".adapter." in name or "rm_head." in name for name in names if "decoder" in name)
    assert any("mlp.experts.fc1.adapter.a" in name for name in names)
    frozen = load_file(base / "model" / "model.safetensors")
    for ours, theirs in (("router", "gate"), ("experts.2.fc2", "experts.2.w2")):
        name = f"model.layers.1.block_sparse_moe.{theirs}.weight"
        assert torch.equal(run.weights[f"decoder.layers.1.mlp.{ours}.weight"], frozen[name])
    trained = [name for name in run.weights if ".experts." in name and ".adapter.b" in name]
    assert len(trained) == 4 * 4 * 2
    assert all(run.weights[name].abs().max() > 1e-4 for name in trained)


@pytest.mark.parametrize(
    ("size", "flags"),
    [
        ("ep2_distributed", LORA),
        ("etp2", LORA),
        ("tp2_ep2_distributed", f"{LORA} --bf16"),
        ("one", f"{LORA} --load-in-4bit"),
    ],
)
def test_resumed_run_equals_the_uninterrupted_one_bitwise(
    size: str, flags: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    check_resumes_bitwise(workers, base, tmp_path, size, flags)


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("ep2", "one"),
        ("one", "etp2"),
        ("etp2", "ep2"),
        ("tp2_ep2_distributed", "one_distributed"),
        ("one_distributed", "ep2_overlapped"),
    ],
)
def test_run_continues_at_another_parallel_size(
    writer: str, reader: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    whole = run_lora(workers, base, tmp_path / "whole", writer, LORA)
    half_of(tmp_path / "whole", tmp_path / "half")
    resumed = run_lora(workers, base, tmp_path / "half", reader, f"{LORA} --auto-resume")
    assert resumed.column("loss") == pytest.approx(whole.column("loss"), abs=2e-5)
    assert resumed.column("grad_norm") == pytest.approx(whole.column("grad_norm"), rel=1e-3)
    check_close(resumed, whole)


@pytest.mark.parametrize("size", ["one", "ep2", "etp2", "tp2", "pp2"])
def test_directory_in_pefts_form_gives_the_scores_of_the_checkpoint(
    size: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    run_lora(workers, base, tmp_path / "run", size, LORA)
    written = tmp_path / "adapter"
    workers.run(export_on_rank, SIZES[size][0], str(tmp_path / "run"), str(written), {}, EXPORT_SIZES[size])
    expected = scores(workers, tmp_path / "run")
    model = opened(base / "model")
    apply_adapter(model, written)
    assert transformers_scores(model) == pytest.approx(expected, abs=1e-5)
    assert scores(workers, base / "model", written) == expected
    config = json.loads((written / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["k_proj", "q_proj", "v_proj"]
    assert config["target_parameters"] == [f"mlp.experts.{name}" for name in EXPERTS]


@pytest.mark.parametrize("names", ["linear_fc1 linear_fc2", "q_proj experts.down_proj", "gate_up_proj"])
def test_peft_opens_the_directory_to_equal_scores(
    names: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    run_lora(workers, base, tmp_path / "run", more=f"--lora-r 4 --lora-target-modules {names}")
    workers.run(export_on_rank, 1, str(tmp_path / "run"), str(tmp_path / "adapter"), {}, {})
    wrapped = peft.PeftModel.from_pretrained(opened(base / "model"), tmp_path / "adapter").eval()
    assert transformers_scores(wrapped) == pytest.approx(scores(workers, tmp_path / "run"), abs=1e-5)


@pytest.mark.parametrize("names", ["", "--lora-target-modules linear_fc1 linear_fc2 --lora-use-rslora"])
def test_peft_opens_adapters_of_shared_experts_and_dense_layers(
    names: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    """By their names alone, peft 0.21 would take these for experts."""
    peft = pytest.importorskip("peft")
    write_tiny_qwen2_moe(tmp_path / "model", kind="score")
    write_tokenizer(tmp_path / "model")
    for file in base.glob("pairs*"):
        shutil.copy(file, tmp_path)
    run_lora(workers, tmp_path, tmp_path / "run", more=f"--lora-r 4 {names}")
    workers.run(export_on_rank, 1, str(tmp_path / "run"), str(tmp_path / "adapter"), {}, {})
    expected = scores(workers, tmp_path / "run")
    wrapped = peft.PeftModel.from_pretrained(opened(tmp_path / "model"), tmp_path / "adapter").eval()
    assert transformers_scores(wrapped) == pytest.approx(expected, abs=1e-5)
    assert scores(workers, tmp_path / "model", tmp_path / "adapter") == expected


@pytest.mark.parametrize(
    ("size", "flags"),
    [("one", LORA), ("ep2", f"{LORA} --bf16"), ("etp2", LORA), ("one", f"{LORA} --load-in-4bit")],
)
def test_merged_model_gives_the_scores_of_the_checkpoint(
    size: str, flags: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    run_lora(workers, base, tmp_path / "run", size, flags)
    arguments = (str(tmp_path / "run"), str(tmp_path / "merged"), {"merge": True}, EXPORT_SIZES[size])
    workers.run(export_on_rank, SIZES[size][0], *arguments)
    expected = scores(workers, tmp_path / "run")
    tolerance = 2e-2 if "bf16" in flags else 1e-5
    assert transformers_scores(opened(tmp_path / "merged")) == pytest.approx(expected, abs=tolerance)
    assert scores(workers, tmp_path / "merged") == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("size", ["ep2", "etp2"])
@pytest.mark.parametrize("lora", [LORA, "--lora-r 4"])
def test_experts_in_4_bits_are_trained_above_as_their_dense_form(
    size: str, lora: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    """A model whose files hold the numbers that 4 bits can, trained without them, is the reference.

    With an epsilon that no rounding noise in a gradient near 0 reaches, which Adam makes a part of a step.
    """
    lora = f"{lora} --adam-eps 1e-4"
    run = run_lora(workers, base, tmp_path / "run", size, f"{lora} --load-in-4bit")
    shutil.copytree(base, tmp_path / "dense")
    tensors = load_file(base / "model" / "model.safetensors")
    rounded = {
        name: dequantized(*quantized(tensor), torch.float32)
        if "_proj." in name or ".experts." in name
        else tensor
        for name, tensor in tensors.items()
    }
    assert any(".experts." in name and not torch.equal(rounded[name], tensors[name]) for name in tensors)
    save_file(rounded, tmp_path / "dense" / "model" / "model.safetensors", metadata={"format": "pt"})
    reference = run_lora(workers, tmp_path / "dense", tmp_path / "reference", more=lora)
    assert run.column("loss") == pytest.approx(reference.column("loss"), abs=1e-6)
    assert "decoder.layers.0.mlp.experts.0.fc1.weight" not in run.weights
    check_close(run, reference)
