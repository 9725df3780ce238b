"""Adapters in PEFT's form are read, or refused in a line that says what is not supported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.model_plan import plan_model
from modellink_rm.checkpoint.peft.directory import PeftDirectory
from modellink_rm.checkpoint.source import open_source
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.spec import ModelSpec
from tests.lora_reference import WRAPPED, write_adapter
from tests.tiny_models import write_tiny_llama

Tensors = dict[str, torch.Tensor]
FIRST = f"{WRAPPED}model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("peft")
    llama = write_tiny_llama(directory / "model", kind="causal_lm")
    write_adapter(llama, directory / "adapter", targets=("q_proj", "down_proj"), use_rslora=True)
    return directory


def planned(model: Path, adapter: Path, **flags: Any) -> ModelSpec:
    source = open_source(str(model / "model"), adapter=str(adapter))
    lora = LoraConfig(**flags)
    return plan_model(source, ModelConfig(), ParallelConfig(), loosely=False, lora=lora).spec


def copied(
    model: Path,
    directory: Path,
    *,
    config: dict[str, Any] | None = None,
    change: Callable[[Tensors], object] = lambda tensors: None,
) -> Path:
    """The adapter with fields of its config or tensors changed."""
    fields = json.loads((model / "adapter" / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(fields | (config or {})))
    tensors = load_file(model / "adapter" / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def test_a_model_without_a_head_takes_the_adapters(model: Path) -> None:
    lora = planned(model, model / "adapter").lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.use_rslora) == (4, 8, True)
    assert lora.targets == ("mlp.down_proj", "self_attn.q_proj")


def test_flags_that_say_the_same_are_taken_and_others_refused(model: Path) -> None:
    modules = ("q_proj", "linear_fc2")
    spec = planned(model, model / "adapter", lora_r=4, lora_target_modules=modules, lora_use_rslora=True)
    assert spec == planned(model, model / "adapter")
    with pytest.raises(UserError, match=r"--lora-r 8 contradicts 4 of the adapters in .*adapter; leave the"):
        planned(model, model / "adapter", lora_r=8)
    with pytest.raises(UserError, match=r"--lora-target-modules self_attn.v_proj contradicts mlp"):
        planned(model, model / "adapter", lora_target_modules=("v_proj",))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"use_dora": True}, "use_dora True is not supported"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern .* is not supported"),
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"r": "4"}, "is damaged"),
        ({"lora_alpha": None}, "is damaged"),
        ({"lora_dropout": "none"}, "is damaged"),
        ({"lora_alpha": -1}, "adapters need an alpha above 0"),
        ({"r": 3}, r"q_proj.lora_A.weight has shape \(4, 64\), and \(3, 64\) in the model|lora_A.weight has"),
    ],
)
def test_other_adapters_are_refused(
    config: dict[str, Any], message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        planned(model, copied(model, tmp_path, config=config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"{FIRST}.lora_A.weight"), f"misses {FIRST}.lora_A.weight"),
        (lambda tensors: tensors.update({f"{FIRST}.bias": torch.ones(2)}), f"has {FIRST}.bias"),
        (
            lambda tensors: tensors.update({f"{WRAPPED}score.weight": torch.ones(3, 64)}),
            r"score.weight has shape \(3, 64\), and \(1, 64\) in the model",
        ),
        (
            lambda tensors: tensors.update({f"{FIRST}.lora_B.weight": torch.ones(64, 4, dtype=torch.int8)}),
            "is stored as I8",
        ),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if "lora" in name], "is damaged"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_refused(
    change: Callable[[Tensors], object], message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        planned(model, copied(model, tmp_path, change=change))


def test_pickled_and_missing_tensors_are_refused(model: Path, tmp_path: Path) -> None:
    copied(model, tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has no adapter_model.safetensors; save the adapter as safetensors"):
        PeftDirectory(tmp_path)


def test_an_adapter_alone_is_no_model(model: Path) -> None:
    with pytest.raises(UserError, match="is an adapter in PEFT's form; give its base model as --load"):
        open_source(str(model / "adapter"))
    with pytest.raises(UserError, match="needs the model that it updates as --load, which is missing"):
        open_source(None, adapter=str(model / "adapter"))
