"""Adapters in PEFT's form are read, or refused in a line that says what is not supported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.base_reference import directory_reference
from modellink_rm.checkpoint.contract import CONTRACT_NAME
from modellink_rm.checkpoint.model_plan import plan_model, with_attributes
from modellink_rm.checkpoint.peft.directory import BASE_FINGERPRINT, BASE_QUANTIZATION, PeftDirectory
from modellink_rm.checkpoint.source import open_source
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.spec import REWARD_HEAD, ModelSpec
from tests.lora_reference import WRAPPED, write_adapter
from tests.tiny_models import write_tiny_llama

Tensors = dict[str, torch.Tensor]
SCORE = f"{WRAPPED}score.weight"
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
    notes: dict[str, str] | None = None,
) -> Path:
    """The adapter with fields of its config or tensors changed."""
    fields = json.loads((model / "adapter" / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(fields | (config or {})))
    tensors = load_file(model / "adapter" / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, directory / "adapter_model.safetensors", metadata=notes)
    return directory


def test_a_model_without_a_head_takes_the_adapters(model: Path) -> None:
    lora = planned(model, model / "adapter").lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.use_rslora) == (4, 8, True)
    assert lora.targets == ("mlp.down_proj", "self_attn.q_proj")


def test_dropout_of_an_adapter_is_that_of_the_run_that_goes_on(model: Path, tmp_path: Path) -> None:
    lora = planned(model, copied(model, tmp_path, config={"lora_dropout": 0.1})).lora
    assert lora is not None
    assert lora.dropout == 0.1


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
        ({"lora_alpha": 10**400}, "is damaged"),
        ({"lora_alpha": 1e308}, "have the scaling 5e.307, which float32 does not hold"),
        ({"lora_alpha": 1e-310}, "which float32 does not hold"),
        ({"r": 10**400}, "adapters need a rank from 1"),
        # PEFT takes 1 for True; read as no more than "not True", it scaled the updates otherwise.
        ({"use_rslora": 1}, "use_rslora 1 is not supported"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora .* is not supported"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config .* is not supported"),
        ({"monteclora_config": {"num_samples": 3}}, "monteclora_config .* is not supported"),
        ({"target_modules": ["q_proj"]}, r"target_modules \['q_proj'\] leaves out model.layers.0.mlp.down"),
        ({"exclude_modules": ["q_proj"]}, "exclude_modules .* leaves out model.layers.0.self_attn.q_proj"),
        ({"layers_to_transform": [0, 2, 3]}, "layers_to_transform .* leaves out model.layers.1.mlp"),
        ({"layers_to_transform": 0}, "layers_to_transform 0 leaves out model.layers.1.mlp.down_proj"),
        ({"r": 3}, r"q_proj.lora_A.weight has shape \(4, 64\), and \(3, 64\) in the model|lora_A.weight has"),
    ],
)
def test_other_adapters_are_refused(
    config: dict[str, Any], message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        planned(model, copied(model, tmp_path, config=config))


@pytest.mark.parametrize(
    "change",
    [
        lambda head, tensors: tensors.update({f"{WRAPPED}score.modules_to_save.weight": head}),
        lambda head, tensors: tensors.update({f"{WRAPPED}score.bias": torch.ones(2)}) or tensors.pop(SCORE),
    ],
    ids=["twice", "bias alone"],
)
def test_a_head_in_parts_or_twice_is_damage(
    change: Callable[[torch.Tensor, Tensors], object], model: Path, tmp_path: Path
) -> None:
    adapter = copied(model, tmp_path, change=lambda tensors: change(tensors[SCORE].clone(), tensors))
    with pytest.raises(
        UserError, match=r"is damaged: of the head it has .*each of its tensors is there once"
    ):
        planned(model, adapter)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["self_attn.q_proj", "down_proj"]},
        {"exclude_modules": ["lm_head"]},
        {"layers_to_transform": [0, 1, 2, 3]},
        {"layers_to_transform": []},
        {"eva_config": {"rho": 2.0}},
    ],
)
def test_fields_that_say_the_same_as_the_tensors_are_taken(
    config: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    assert planned(model, copied(model, tmp_path, config=config)) == planned(model, model / "adapter")


def test_a_field_that_is_not_known_is_told_of(model: Path, tmp_path: Path, told: list[str]) -> None:
    planned(model, copied(model, tmp_path, config={"new_scaling": 2, "new_switch": False}))
    assert [line.split(": ", 1)[1] for line in told if line.endswith("ignored")] == [
        "new_scaling 2 is not known, and ignored"
    ]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    for module in ("source", "peft.directory"):
        monkeypatch.setattr(f"modellink_rm.checkpoint.{module}.warn_once", lines.append)
    return lines


def test_an_adapter_that_names_another_model_is_told_of(model: Path, tmp_path: Path, told: list[str]) -> None:
    planned(model, copied(model, tmp_path, config={"base_model_name_or_path": "hub/MODEL"}))
    assert told == []
    planned(model, copied(model, tmp_path, config={"base_model_name_or_path": "hub/other-model-7b"}))
    (line,) = told
    assert "was trained on hub/other-model-7b, which" in line


def test_an_exported_adapter_knows_its_model_by_more_than_its_name(
    model: Path, tmp_path: Path, told: list[str]
) -> None:
    own = directory_reference(model / "model").fingerprint
    adapter = copied(model, tmp_path, notes={BASE_FINGERPRINT: own})
    planned(model, adapter)
    assert told == []
    copied(model, tmp_path, notes={BASE_FINGERPRINT: own[::-1]})
    planned(model, adapter)
    assert len(told) == 1


def test_an_exported_adapter_knows_that_its_model_was_held_in_4_bits(tmp_path: Path) -> None:
    """Scored over weights that are not rounded, it gave other scores without a word."""
    llama = write_tiny_llama(tmp_path / "model", intermediate_size=128)
    write_adapter(llama, tmp_path / "adapter", targets=("q_proj",))
    (tmp_path / "noted").mkdir()
    adapter = copied(tmp_path, tmp_path / "noted", notes={BASE_QUANTIZATION: "nf4"})
    for flags in ({}, {"load_in_4bit": True}):
        lora = planned(tmp_path, adapter, **flags).lora
        assert lora is not None
        assert lora.quantization == "nf4"
    plain = planned(tmp_path, tmp_path / "adapter").lora
    assert plain is not None
    assert plain.quantization == ""
    copied(tmp_path, adapter, notes={BASE_QUANTIZATION: "int3"})
    with pytest.raises(UserError, match="trained over weights held as 'int3', which is not known"):
        planned(tmp_path, adapter)


def with_two_outputs(tensors: Tensors) -> None:
    tensors[f"{WRAPPED}score.weight"] = torch.ones(2, 64)


def test_a_head_of_attributes_comes_with_the_adapter(model: Path, tmp_path: Path) -> None:
    adapter = copied(model, tmp_path, change=with_two_outputs)
    assert planned(model, adapter).num_outputs == 2
    source = open_source(str(model / "model"), adapter=str(adapter))
    assert source.attributes == ("LABEL_0", "LABEL_1")
    contract: dict[str, object] = {
        "prompt_type": None,
        "template_fingerprint": None,
        "eos_rule": None,
        "truncation": "right",
    }
    contract |= {"tokenizer_fingerprint": "x", "tokenizer_not_use_fast": False, "seq_length": 8}
    (adapter / CONTRACT_NAME).write_text(json.dumps({**contract, "attributes": ["good", "long"]}))
    assert source.attributes == ("good", "long")


def test_data_of_other_outputs_than_the_head_of_an_adapter_are_refused(model: Path, tmp_path: Path) -> None:
    """A head of one output filled both rows of one for two attributes."""
    source = open_source(str(model / "model"), adapter=str(model / "adapter"))
    plan = plan_model(source, ModelConfig(), ParallelConfig(), loosely=False)
    with pytest.raises(UserError, match=r"--load-adapter .*adapter has a head of one score, and the data"):
        with_attributes(plan, ("good", "long"))
    assert with_attributes(plan, ()).spec.num_outputs == 1


def test_a_head_beside_another_one_of_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "scored", kind="score")
    (tmp_path / "adapter").mkdir()
    adapter = copied(model, tmp_path / "adapter", change=with_two_outputs)
    source = open_source(str(tmp_path / "scored"), adapter=str(adapter))
    with pytest.raises(UserError, match=r"brings a head with 2 output\(s\) .* and .*scored has another head"):
        plan_model(source, ModelConfig(), ParallelConfig(), loosely=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"{FIRST}.lora_A.weight"), f"misses {FIRST}.lora_A.weight"),
        (lambda tensors: tensors.update({f"{FIRST}.bias": torch.ones(2)}), f"has {FIRST}.bias"),
        (
            lambda tensors: tensors.update({f"{WRAPPED}score.weight": torch.ones(1, 63)}),
            r"score.weight has shape \(1, 63\), and \(1, 64\) in the model",
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


def test_an_adapter_with_a_head_of_steps_is_of_that_stage_alone(model: Path, tmp_path: Path) -> None:
    def with_steps(tensors: Tensors) -> None:
        tensors |= {f"{WRAPPED}score.weight": torch.ones(2, 64), f"{WRAPPED}score.bias": torch.ones(2)}

    source = open_source(str(model / "model"), adapter=str(copied(model, tmp_path, change=with_steps)))
    arguments = (source, ModelConfig(), ParallelConfig())
    spec = plan_model(*arguments, loosely=False).spec
    assert spec.scores_steps
    assert source.adapter is not None
    assert [tuple(one.shape) for one in source.adapter.head(spec)] == [(2, 64), (2,)]
    with pytest.raises(UserError, match=r"--load-adapter .* with a head for steps, which --stage prm"):
        plan_model(*arguments, loosely=False, head=REWARD_HEAD)


def test_parameters_that_are_not_of_experts_are_refused(model: Path, tmp_path: Path) -> None:
    def with_router(tensors: Tensors) -> None:
        for letter, size in (("A", (4, 64)), ("B", (8, 4))):
            name = f"{WRAPPED}model.layers.0.mlp.gate.lora_{letter}.weight"
            tensors[name] = torch.ones(size)

    adapter = copied(model, tmp_path, config={"target_parameters": ["mlp.gate.weight"]}, change=with_router)
    with pytest.raises(UserError, match=r"has .*mlp.gate.lora_A.weight"):
        planned(model, adapter)
    copied(model, tmp_path, config={"target_parameters": "gate"})
    with pytest.raises(UserError, match="is damaged: target_parameters 'gate'"):
        planned(model, tmp_path)
