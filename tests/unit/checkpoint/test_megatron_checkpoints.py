"""Checkpoints of ModelLink 1.0 and Megatron-LM: their tensors are read, and no code of theirs is run."""

import argparse
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.hf.directory import check_names
from modellink_rm.checkpoint.hf.mappings import engine_names, tensor_plan
from modellink_rm.checkpoint.megatron.files import find_megatron_checkpoint
from modellink_rm.checkpoint.megatron.pickles import check_shards, read_shard
from modellink_rm.checkpoint.megatron.weights import MegatronWeights
from modellink_rm.checkpoint.source import open_source
from modellink_rm.model.spec import ModelSpec
from tests.engine_tensors import engine_tensors_of
from tests.megatron_files import SavedOnNpu, torch_npu_modules, write_megatron_checkpoint
from tests.tiny_models import write_tiny_chatglm, write_tiny_llama, write_tiny_mixtral, write_tiny_qwen2

MAKERS: dict[str, Callable[..., Any]] = {
    "llama": write_tiny_llama,
    "chatglm": write_tiny_chatglm,
    "qwen2": write_tiny_qwen2,
}


def written(tmp_path: Path, family: str = "llama", **options: Any) -> MegatronWeights:
    """The weights of a tiny model's checkpoint at tmp_path/old, whose base model is at tmp_path/base."""
    model = MAKERS[family](tmp_path / "base", value_head=True)
    write_megatron_checkpoint(tmp_path / "old", model, base_model=tmp_path / "base", **options)
    return opened(tmp_path)


def opened(tmp_path: Path) -> MegatronWeights:
    weights = open_source(str(tmp_path / "old"), base_model=str(tmp_path / "base")).hugging_face
    assert isinstance(weights, MegatronWeights)
    return weights


def shard(tmp_path: Path, name: str = "mp_rank_00") -> Path:
    return tmp_path / "old" / "iter_0000005" / name / "model_optim_rng.pt"


@pytest.mark.parametrize("legacy_names", [False, True])
@pytest.mark.parametrize(("tp", "pp", "vpp"), [(1, 1, 1), (2, 1, 1), (1, 2, 1), (4, 2, 2)])
@pytest.mark.parametrize("family", MAKERS)
def test_tensors_are_those_of_the_transformers_model(
    family: str, tp: int, pp: int, vpp: int, legacy_names: bool, tmp_path: Path
) -> None:
    model = MAKERS[family](tmp_path / "base", value_head=True)
    write_megatron_checkpoint(
        tmp_path / "old",
        model,
        base_model=tmp_path / "base",
        legacy_names=legacy_names,
        tp=tp if family != "chatglm" else min(tp, 2),
        pp=pp,
        vpp=vpp,
    )
    weights = opened(tmp_path)
    report = check_names(weights, loosely=False)
    assert report.missing == ()
    assert "output_layer.weight" in report.unexpected
    spec = ModelSpec(shape=weights.shape, padded_vocab_size=384)
    for read_tp in (1, 2):
        for name in engine_names(weights.shape, weights.tensors):
            expected = parts_of(engine_tensors_of(model)[name], name, read_tp)
            for rank in range(read_tp):
                plan = tensor_plan(name, spec, weights.tensors, tp_rank=rank, tp_size=read_tp)
                got = weights.read(plan, torch.float32)
                assert torch.equal(got, expected[rank]), (name, read_tp, rank)
    weight, bias = weights.head() or (None, None)
    stored = torch.Generator().manual_seed(1234)
    assert weight is not None
    assert bias is not None
    assert torch.equal(weight, torch.randn(1, weights.shape.hidden_size, generator=stored) * 0.05)
    assert bias.tolist() == [0.25]


def parts_of(tensor: torch.Tensor, name: str, tp: int) -> list[torch.Tensor]:
    """The engine's parts of its whole tensor."""
    if "layernorm" in name:
        return [tensor] * tp
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return list(tensor.chunk(tp, dim=1))
    if name.endswith("linear_fc1.weight"):
        gate, up = (half.chunk(tp) for half in tensor.chunk(2))
        return [torch.cat(pair) for pair in zip(gate, up, strict=True)]
    return list(tensor.chunk(tp))


def test_tensors_of_an_npu_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in torch_npu_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    tensor = torch.arange(6.0).reshape(2, 3).T
    torch.save({"model": {"x": SavedOnNpu(tensor)}}, tmp_path / "shard.pt")
    (chunk,) = read_shard(tmp_path / "shard.pt").chunks
    assert torch.equal(chunk["x"], tensor)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("place", ["model", "args", "optimizer"])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path)
    content = torch.load(shard(tmp_path), weights_only=False)
    content[place] = Evil()
    torch.save(content, shard(tmp_path))
    with pytest.raises(UserError, match=r"names posix.mkdir, which is not run"):
        opened(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_functions_of_the_programs_that_wrote_it_are_not_called(tmp_path: Path) -> None:
    import numpy as np

    class Opens:
        def __reduce__(self) -> tuple[Any, ...]:
            return np.memmap, (str(tmp_path / "evil"), "float32", "w+", 0, (4,))

    torch.save({"model": {}, "args": argparse.Namespace(x=Opens())}, tmp_path / "shard.pt")
    arguments = read_shard(tmp_path / "shard.pt").arguments
    assert arguments == {}
    assert not (tmp_path / "evil").exists()


def test_classes_of_this_process_are_not_changed(tmp_path: Path) -> None:
    # GLOBAL argparse Namespace, then BUILD with a slot to set, on the class itself
    pickled = b"\x80\x02cargparse\nNamespace\n(N}X\x06\x00\x00\x00markedK\x01stb."
    with zipfile.ZipFile(tmp_path / "shard.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(UserError, match=r"is damaged, or not written by torch"):
        read_shard(tmp_path / "shard.pt")
    assert not hasattr(argparse.Namespace, "marked")


@pytest.mark.parametrize("name", ["_rebuild_tensor_v2", "_rebuild_parameter"])
def test_functions_that_make_tensors_are_not_changed(name: str, tmp_path: Path) -> None:
    from modellink_rm.checkpoint.megatron import pickles

    # GLOBAL, then BUILD with a slot to set: what a later file's tensors would be made with
    pickled = f"\x80\x02ctorch._utils\n{name}\n(N}}X\x0c\x00\x00\x00__defaults__)stb.".encode()
    with zipfile.ZipFile(tmp_path / "shard.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(UserError, match=r"is damaged, or not written by torch"):
        read_shard(tmp_path / "shard.pt")
    assert not hasattr(pickles._MEANINGS[f"torch._utils.{name}"], "__defaults__")


def test_pickles_of_other_kinds_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    path = shard(tmp_path)
    path.write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(UserError, match=r"is damaged, or not written by torch 1.6 or later"):
        opened(tmp_path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds no 'model'"):
        opened(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged"):
        opened(tmp_path)


def test_a_flipped_bit_of_a_tensor_is_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path)
    path = shard(tmp_path)
    check_shards([path])
    content = bytearray(path.read_bytes())
    tensor = torch.load(path, weights_only=False)["model"]["rm_head.weight"]
    content[content.index(tensor.numpy().tobytes()) + 5] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} has changed since it was written"):
        check_shards([path])
    path.write_bytes(content[:-9])
    with pytest.raises(UserError, match=f"{re.escape(str(path))} cannot be read"):
        check_shards([path])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1.0])
def test_numbers_that_no_run_has_are_damage(value: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"says that it was trained with rotary_base .*: it is damaged"):
        written(tmp_path, arguments={"rotary_base": value})


def test_run_computed_with_its_own_numbers(tmp_path: Path) -> None:
    weights = written(
        tmp_path,
        "chatglm",
        arguments={"norm_epsilon": 1e-6, "no_post_layer_norm": True, "prompt_type": "chatglm3"},
    )
    assert weights.shape.norm_epsilon == 1e-6
    assert not weights.post_layer_norm
    assert weights.prompt_type == "chatglm3"
    check_names(weights, loosely=False)  # nothing is missing, although no file has a final norm


def test_flags_that_are_no_words_or_numbers_are_passed_over(tmp_path: Path) -> None:
    odd: dict[str, Any] = {"norm_epsilon": 10**400, "kv_channels": torch.ones(2), "prompt_type": ["llama2"]}
    weights = written(tmp_path, arguments={**odd, "no_post_layer_norm": torch.ones(2)})
    assert weights.shape.norm_epsilon == 1e-5
    assert (weights.post_layer_norm, weights.prompt_type) == (True, None)


def test_base_model_has_the_numbers_of_its_config(tmp_path: Path) -> None:
    weights = written(tmp_path, head=False, arguments={"norm_epsilon": 1e-3, "rotary_base": 7})
    assert (weights.shape.norm_epsilon, weights.shape.rotary_base) == (1e-5, 10000)
    lacking = r"base model without a reward head .*missing rm_head.weight.*loosely starts with a random one"
    with pytest.raises(UserError, match=lacking):
        check_names(weights, loosely=False)
    check_names(weights, loosely=True)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"num_layers": 5}, "has num_layers 5 instead of 4 of --base-model's config.json"),
        ({"num_query_groups": 2}, "has num_query_groups 2 instead of 4"),
        ({"group_query_attention": False}, "has num_query_groups 8 instead of 4"),
        ({"num_query_groups": None}, "has num_query_groups None instead of 4"),
        ({"num_experts": 8}, "checkpoints of mixtures of experts are not read"),
        ({"tensor_model_parallel_size": 2}, "--tensor-model-parallel-size 2 and has files of 1 ranks"),
        ({"rope_scaling_type": "yarn"}, "was trained with rope_scaling_type yarn, which --base-model's"),
        ({"apply_layernorm_1p": True}, "was trained with apply_layernorm_1p True"),
        ({"position_embedding_type": "alibi"}, "was trained with position_embedding_type alibi"),
        ({"rotary_percent": 0.5}, "was trained with rotary_percent 0.5"),
        ({"query_pre_attn_scalar": 256}, "was trained with query_pre_attn_scalar 256"),
    ],
)
def test_another_model_is_refused(arguments: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        written(tmp_path, arguments=arguments)


def test_flags_that_say_what_config_says_are_taken(tmp_path: Path) -> None:
    plain = {"position_embedding_type": "rope", "rotary_percent": 1.0, "rope_scaling_type": None}
    written(tmp_path / "llama", arguments={**plain, "geglu": False, "scale_emb": None})
    written(tmp_path / "chatglm", "chatglm", arguments={"rotary_percent": 0.5, "use_glm_rope": True})


@pytest.mark.parametrize("version", [0, 1.0])
def test_old_order_of_queries_keys_and_values_is_refused(version: float, tmp_path: Path) -> None:
    torch.save({"model": {}, "checkpoint_version": version}, tmp_path / "shard.pt")
    with pytest.raises(
        UserError, match=rf"is of checkpoint_version {version}, with queries, keys and values"
    ):
        read_shard(tmp_path / "shard.pt")


def test_missing_ranks_and_those_of_experts_are_refused(tmp_path: Path) -> None:
    written(tmp_path, tp=2, pp=2)
    directory = tmp_path / "old" / "iter_0000005"
    (directory / "mp_rank_01_001").rename(tmp_path / "kept")
    with pytest.raises(UserError, match=r"lacks model_optim_rng\.pt of stage 1 rank 1"):
        opened(tmp_path)
    (tmp_path / "kept").rename(directory / "mp_rank_01_001_000")
    with pytest.raises(UserError, match="mp_rank_01_001_000 is not of a tensor-parallel and a pipeline"):
        opened(tmp_path)


def test_ranks_of_other_iterations_are_refused(tmp_path: Path) -> None:
    written(tmp_path, tp=2)
    path = shard(tmp_path, "mp_rank_01")
    content = torch.load(path, weights_only=False)
    torch.save({**content, "iteration": 10}, path)
    with pytest.raises(UserError, match="has files of iterations 5 and 10; copy every mp_rank_ directory"):
        opened(tmp_path)


def test_tensors_that_the_family_has_not_are_named(tmp_path: Path) -> None:
    written(tmp_path)
    content = torch.load(shard(tmp_path), weights_only=False)
    content["model"]["decoder.layers.0.self_attention.linear_proj.bias"] = torch.zeros(64)
    torch.save(content, shard(tmp_path))
    with pytest.raises(UserError, match=r"unexpected decoder.layers.0.self_attention.linear_proj.bias"):
        check_names(opened(tmp_path), loosely=True)


def test_damaged_content_is_one_line(tmp_path: Path) -> None:
    written(tmp_path, tp=2, arguments={"norm_epsilon": "1e-5", "kv_channels": None})
    path = shard(tmp_path, "mp_rank_01")
    content = torch.load(path, weights_only=False)
    content["model"]["itself"] = content["model"]
    torch.save(content, path)
    assert opened(tmp_path).shape.norm_epsilon == 1e-5
    content["model"]["decoder.layers.1.self_attention.linear_proj.weight"] = torch.zeros(3)
    torch.save(content, path)
    with pytest.raises(UserError, match=r"linear_proj.weight has the shapes \(64, 32\), \(3,\) on its ranks"):
        opened(tmp_path)


def test_norms_inside_of_transformer_engines_layers_are_found(tmp_path: Path) -> None:
    written(tmp_path)
    content = torch.load(shard(tmp_path), weights_only=False)
    layer, model = "decoder.layers.{}.", content["model"]
    for number in range(4):
        for norm, linear in (
            ("input_layernorm", "self_attention.linear_qkv"),
            ("pre_mlp_layernorm", "mlp.linear_fc1"),
        ):
            name = layer.format(number)
            model[f"{name}{linear}.layer_norm_weight"] = model.pop(f"{name}{norm}.weight")
    torch.save(content, shard(tmp_path))
    assert check_names(opened(tmp_path), loosely=False).missing == ()


def test_families_with_other_parts_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    write_tiny_mixtral(tmp_path / "moe")
    with pytest.raises(UserError, match="are not read for model_type mixtral"):
        open_source(str(tmp_path / "old"), base_model=str(tmp_path / "moe"))


@pytest.mark.parametrize("word", ["5", "release", None])
def test_tracker_names_the_checkpoint(word: str | None, tmp_path: Path) -> None:
    written(tmp_path)
    root = tmp_path / "old"
    (root / "iter_0000005").rename(root / "release") if word == "release" else None
    tracker = root / "latest_checkpointed_iteration.txt"
    tracker.unlink() if word is None else tracker.write_text(f"{word}\n")
    expected = root / ("release" if word == "release" else "iter_0000005")
    assert find_megatron_checkpoint(root) == find_megatron_checkpoint(expected) == expected


def test_line_says_how_to_convert_it(tmp_path: Path) -> None:
    written(tmp_path)
    line = rf"import --load {re.escape(str(tmp_path / 'old'))} --base-model DIR --output CHECKPOINT"
    with pytest.raises(UserError, match=line):
        open_source(str(tmp_path / "old"))
    with pytest.raises(UserError, match="--base-model is for checkpoints of ModelLink"):
        open_source(str(tmp_path / "base"), base_model=str(tmp_path / "base"))
