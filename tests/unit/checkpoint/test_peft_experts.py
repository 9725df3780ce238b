"""PEFT's tensors of experts' updates and the processes' parts of them: each gives the other."""

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.peft.experts import AdaptedExperts, adapted_experts
from modellink_rm.checkpoint.peft.names import adapted, peft_targets
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.experts.adapter import ExpertsAdapter
from modellink_rm.experts.dispatch import ExpertProcesses
from modellink_rm.model.adapter_targets import check_quantized_sizes, new_adapters, targets_of
from modellink_rm.model.families.registry import shape_from_config
from modellink_rm.model.families.tensors import EXPERT_FC1
from modellink_rm.model.spec import ModelSpec
from tests.parity.family_cases import CASES

FAMILIES = ("mixtral", "qwen2-moe", "qwen3-moe", "deepseek-v2", "gpt-oss")


def spec_of(family: str, *names: str, **flags: object) -> ModelSpec:
    shape = shape_from_config(CASES[family].tiny_config())
    config = LoraConfig(lora_r=2, lora_target_modules=names, **flags)  # type: ignore[arg-type]
    return ModelSpec(shape=shape, padded_vocab_size=320, lora=new_adapters(config, shape))


def first(spec: ModelSpec, engine: str) -> AdaptedExperts:
    return next(one for one in adapted_experts(spec) if one.entry.engine == engine)


def adapter_of(
    one: AdaptedExperts, spec: ModelSpec, ranks: tuple[int, int], sizes: tuple[int, int]
) -> ExpertsAdapter:
    """That of the process of ranks (expert parallel, expert tensor parallel)."""
    assert spec.lora is not None
    (ep, etp), (ep_size, etp_size) = ranks, sizes
    experts, inputs = one.num_experts // ep_size, one.order.columns or 0
    rows = one.order.sizes[0] // (2 if one.order.is_interleaved else 1)
    shape: tuple[int, ...] = (experts, 2, rows // etp_size, inputs)
    if one.entry.engine != EXPERT_FC1:
        shape = (experts, rows, inputs // etp_size)
    where = ExpertProcesses(group=None, ep_size=ep_size, ep_rank=ep, etp_size=etp_size, etp_rank=etp)
    return ExpertsAdapter(
        spec.lora,
        shape,
        divides_inputs=one.entry.engine != EXPERT_FC1,
        dtype=torch.float32,
        device=torch.device("cpu"),
        processes=where,
    )


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_the_processes_give_the_tensors_that_they_were_made_of(
    family: str, sizes: tuple[int, int]
) -> None:
    spec = spec_of(family, "experts.gate_up_proj", "experts.down_proj")
    assert spec.lora is not None
    for one in adapted_experts(spec)[:2]:
        shapes = one.expected_shapes(spec.lora)
        tensors = {name: torch.randn(size) for name, size in shapes.items()}
        parts = {}
        for ep in range(sizes[0]):
            for etp in range(sizes[1]):
                adapter = adapter_of(one, spec, (ep, etp), sizes)
                with torch.no_grad():
                    one.load(adapter, tensors)
                parts[ep, etp] = adapter.a.detach(), adapter.b.detach()
        found = one.stored_tensors(parts)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_updates_are_those_of_pefts_formula() -> None:
    spec = spec_of("mixtral", "experts.down_proj")
    assert spec.lora is not None
    one = adapted_experts(spec)[0]
    shapes = one.expected_shapes(spec.lora)
    a, b = (torch.randn(size) for size in shapes.values())
    adapter = adapter_of(one, spec, (0, 0), (1, 1))
    with torch.no_grad():
        one.load(adapter, dict(zip(shapes, (a, b), strict=True)))
    # peft 0.21, tuners/lora/layer.py, ParamWrapper.get_delta_weight.
    weight_a = a.reshape(one.num_experts, -1, a.shape[-1])
    weight_b = b.reshape(b.shape[0], -1, one.num_experts)
    delta = 2 * torch.einsum("o r e, e r i -> e o i", weight_b, weight_a)
    for number in range(one.num_experts):
        torch.testing.assert_close(adapter.delta(number), delta[number])


@pytest.mark.parametrize(
    ("names", "wrappers"),
    [
        (("experts.gate_up_proj",), ["mlp.experts"]),
        (("experts.down_proj",), ["mlp.experts"]),
        (("linear_fc1", "linear_fc2"), ["mlp.experts.base_layer", "mlp.experts"]),
    ],
)
def test_the_wrapper_of_one_parameter_is_within_that_of_the_other(
    names: tuple[str, ...], wrappers: list[str]
) -> None:
    found = adapted_experts(spec_of("mixtral", *names))
    assert [one.wrapper for one in found[: len(wrappers)]] == [f"model.layers.0.{name}" for name in wrappers]


@pytest.mark.parametrize(
    ("family", "names", "expected"),
    [
        ("mixtral", ["linear_fc1"], "mlp.experts.gate_up_proj"),
        ("mixtral", ["gate_up_proj", "down_proj"], "mlp.experts.down_proj mlp.experts.gate_up_proj"),
        ("qwen3-moe", ["mlp.experts.down_proj"], "mlp.experts.down_proj"),
        ("qwen2-moe", ["down_proj"], "mlp.down_proj mlp.experts.down_proj mlp.shared_expert.down_proj"),
        (
            "qwen2-moe",
            ["linear_fc1"],
            "mlp.experts.gate_up_proj mlp.gate_proj mlp.shared_expert.gate_proj mlp.shared_expert.up_proj "
            "mlp.up_proj",
        ),
    ],
)
def test_experts_have_the_names_of_the_engine_or_of_transformers(
    family: str, names: list[str], expected: str
) -> None:
    assert " ".join(targets_of(names, spec_of(family).shape)) == expected


@pytest.mark.parametrize(
    ("family", "name"), [("mixtral", "w1"), ("qwen3-moe", "gate_proj"), ("qwen2-moe", "up_proj")]
)
def test_one_of_an_experts_projections_has_no_update_of_its_own(family: str, name: str) -> None:
    with pytest.raises(
        UserError, match=f"--lora-target-modules {name}: experts have updates of the matrices"
    ):
        targets_of([name], spec_of(family).shape)


def test_experts_have_adapters_only_where_they_are_named() -> None:
    spec = spec_of("qwen2-moe")
    assert not adapted_experts(spec)
    assert adapted(spec)
    assert not adapted(spec_of("qwen3-moe", "linear_fc1"))


def test_dropout_of_experts_updates_is_refused_as_by_peft() -> None:
    with pytest.raises(UserError, match=r"--lora-dropout 0.1: the updates of experts have no dropout"):
        spec_of("mixtral", "linear_fc1", lora_dropout=0.1)
    assert spec_of("mixtral", lora_dropout=0.1).lora is not None


def test_linears_that_peft_takes_for_experts_are_named_as_parameters() -> None:
    spec = spec_of("qwen2-moe", "q_proj", "down_proj", "shared_expert.up_proj")
    assert spec.lora is not None
    modules, parameters = peft_targets(spec.lora, spec.shape)
    assert modules == ["q_proj"]
    assert parameters == [
        "mlp.experts.down_proj",
        "mlp.down_proj.weight",
        "mlp.shared_expert.down_proj.weight",
        "mlp.shared_expert.up_proj.weight",
    ]
    dense = spec_of("llama-2", "q_proj", "down_proj")
    assert dense.lora is not None
    assert peft_targets(dense.lora, dense.shape) == (["down_proj", "q_proj"], [])


def test_rows_of_experts_in_4_bits_are_made_of_whole_blocks() -> None:
    spec = spec_of("mixtral", load_in_4bit=True)
    width = spec.shape.experts.ffn_hidden_size if spec.shape.experts is not None else 0
    assert width % 64
    with pytest.raises(
        UserError, match=f"has {width} numbers in a process, .* another --expert-tensor-parallel"
    ):
        check_quantized_sizes(spec, ParallelConfig())
