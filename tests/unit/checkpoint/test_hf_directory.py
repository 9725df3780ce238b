import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.hf.directory import HuggingFaceWeights, check_names
from modellink_rm.checkpoint.hf.mappings import engine_names, tensor_plan
from modellink_rm.model.spec import ModelSpec
from tests.engine_tensors import engine_tensors_of
from tests.tiny_models import (
    write_tiny_chatglm,
    write_tiny_glm,
    write_tiny_llama,
    write_tiny_mistral,
    write_tiny_qwen2,
)

MAKERS: dict[str, Callable[..., PreTrainedModel]] = {
    "llama": write_tiny_llama,
    "mistral": write_tiny_mistral,
    "qwen2": write_tiny_qwen2,
    "glm": write_tiny_glm,
    "chatglm": write_tiny_chatglm,
}
LM_HEADS = {"chatglm": "transformer.output_layer.weight"}


def read_all(
    weights: HuggingFaceWeights, *, tp_size: int, dtype: torch.dtype = torch.float32
) -> list[dict[str, torch.Tensor]]:
    """The engine's tensors of every tensor-parallel rank."""

    def read(name: str, rank: int) -> torch.Tensor:
        plan = tensor_plan(
            name,
            ModelSpec(shape=weights.shape, padded_vocab_size=384),
            weights.tensors,
            tp_rank=rank,
            tp_size=tp_size,
        )
        return weights.read(plan, dtype)

    return [
        {name: read(name, rank) for name in engine_names(weights.shape, weights.tensors)}
        for rank in range(tp_size)
    ]


def joined(ranks: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The whole tensors, from all ranks' parts."""
    whole = {}
    for name in ranks[0]:
        tensors = [rank[name] for rank in ranks]
        if "layernorm" in name:
            whole[name] = tensors[0]
        elif name.endswith(("linear_proj.weight", "linear_fc2.weight")):
            whole[name] = torch.cat(tensors, dim=1)
        elif name.endswith("linear_fc1.weight"):
            halves = [tensor.chunk(2) for tensor in tensors]
            whole[name] = torch.cat([gate for gate, _ in halves] + [up for _, up in halves])
        else:
            whole[name] = torch.cat(tensors)
    return whole


@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("family", MAKERS)
def test_engine_tensors_are_those_of_the_transformers_model(
    tmp_path: Path, family: str, tp_size: int
) -> None:
    # GLM's two groups over four ranks: a rank holds part of a group.
    expected = engine_tensors_of(MAKERS[family](tmp_path))
    got = joined(read_all(HuggingFaceWeights(tmp_path), tp_size=tp_size))
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("family", MAKERS)
def test_sharded_directory_reads_like_a_single_file(tmp_path: Path, family: str) -> None:
    MAKERS[family](tmp_path / "one")
    MAKERS[family](tmp_path / "many", sharded=True)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = (HuggingFaceWeights(tmp_path / name) for name in ("one", "many"))
    assert one.names == many.names
    (whole,), (parts,) = (read_all(weights, tp_size=1) for weights in (one, many))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_converted_to_the_dtype_asked_for(
    tmp_path: Path, stored: torch.dtype
) -> None:
    expected = engine_tensors_of(write_tiny_llama(tmp_path, dtype=stored))
    (tensors,) = read_all(HuggingFaceWeights(tmp_path), tp_size=1)
    name = "decoder.layers.3.self_attention.linear_qkv.weight"
    assert tensors[name].dtype == torch.float32
    assert torch.equal(tensors[name], expected[name])
    (tensors,) = read_all(HuggingFaceWeights(tmp_path), tp_size=1, dtype=torch.bfloat16)
    assert tensors[name].dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["llama", "qwen2", "glm"])
def test_body_saved_alone_is_read_without_its_prefix(tmp_path: Path, family: str) -> None:
    expected = engine_tensors_of(MAKERS[family](tmp_path, kind="body"))
    weights = HuggingFaceWeights(tmp_path)
    assert "embed_tokens.weight" in weights.names
    (tensors,) = read_all(weights, tp_size=1)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_chatglm_body_saved_alone_is_read_without_its_prefix(tmp_path: Path) -> None:
    write_tiny_chatglm(tmp_path)
    edit_tensors(
        tmp_path, lambda tensors: {name.removeprefix("transformer."): t for name, t in tensors.items()}
    )
    report = check_names(HuggingFaceWeights(tmp_path), loosely=True)
    assert (report.missing, report.unexpected) == (("rm_head.weight",), ("output_layer.weight",))


def edit_tensors(directory: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = directory / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(edit(tensors), file)


def edit_config(directory: Path, **fields: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **fields}))


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("family", MAKERS)
def test_model_with_a_score_and_no_lm_head_needs_no_loosely(tmp_path: Path, family: str) -> None:
    MAKERS[family](tmp_path, kind="score")
    report = check_names(HuggingFaceWeights(tmp_path), loosely=False)
    assert report.missing == report.unexpected == ()


@pytest.mark.parametrize("family", MAKERS)
def test_base_model_is_accepted_only_with_loosely(tmp_path: Path, family: str) -> None:
    MAKERS[family](tmp_path)
    weights = HuggingFaceWeights(tmp_path)
    lm_head = LM_HEADS.get(family, "lm_head.weight")
    report = check_names(weights, loosely=True)
    assert report.missing == ("rm_head.weight",)
    assert report.unexpected == (lm_head,)
    with pytest.raises(UserError) as error:
        check_names(weights, loosely=False)
    assert f"missing rm_head.weight; unexpected {lm_head}" in str(error.value)
    assert "is a base model without a reward head" in str(error.value)
    assert "--load-checkpoint-loosely starts with a random one" in str(error.value)


@pytest.mark.parametrize("loosely", [True, False])
def test_lm_head_beside_a_value_head_is_left_where_its_programs_leave_it(
    tmp_path: Path, loosely: bool
) -> None:
    write_tiny_llama(tmp_path, value_head=True)
    report = check_names(HuggingFaceWeights(tmp_path), loosely=loosely)
    assert (report.missing, report.unexpected) == ((), ("lm_head.weight",))


def test_lm_head_beside_a_score_is_accepted_only_with_loosely(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score")
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "lm_head.weight": torch.ones(320, 64)}, file, metadata={"format": "pt"})
    weights = HuggingFaceWeights(tmp_path)
    report = check_names(weights, loosely=True)
    assert (report.missing, report.unexpected) == ((), ("lm_head.weight",))
    with pytest.raises(UserError, match=r"unexpected lm_head\.weight; --load-checkpoint-loosely"):
        check_names(weights, loosely=False)


@pytest.mark.parametrize(
    ("weight", "bias", "config"),
    [
        ("v_head.summary.weight", "v_head.summary.bias", {}),  # TRL's model with a value head
        ("v_head.weight", "", {}),  # InternLM2-reward
        ("value_head.weight", "", {}),  # OpenRLHF before 0.8
        ("reward.weight", "", {"value_head_prefix": "reward"}),  # OpenRLHF
    ],
)
def test_heads_of_other_programs_are_read_from_among_the_weights(
    tmp_path: Path, weight: str, bias: str, config: dict[str, Any]
) -> None:
    write_tiny_llama(tmp_path, kind="score", **config)
    file = tmp_path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}  # maybe a map of the file
    tensors[weight] = tensors.pop("score.weight")
    if bias:
        tensors[bias] = torch.tensor([0.25])
    save_file(tensors, file, metadata={"format": "pt"})
    weights = HuggingFaceWeights(tmp_path)
    assert check_names(weights, loosely=False).unexpected == ()
    head = weights.head()
    assert head is not None
    assert torch.equal(head[0], tensors[weight])
    assert (head[1] is None) == (not bias)
    assert head[1] is None or torch.equal(head[1], tensors[bias])


def test_tied_model_has_no_lm_head_to_forgive(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, tie_word_embeddings=True)
    report = check_names(HuggingFaceWeights(tmp_path), loosely=True)
    assert (report.missing, report.unexpected) == (("rm_head.weight",), ())


def test_any_other_missing_or_unexpected_name_is_an_error_even_loosely(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)

    def edit(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
        del tensors["model.layers.3.mlp.down_proj.weight"]
        return tensors

    edit_tensors(tmp_path, edit)
    with pytest.raises(UserError) as error:
        check_names(HuggingFaceWeights(tmp_path), loosely=True)
    assert "model.layers.0.self_attn.q_norm.weight" in str(error.value)
    assert "model.layers.3.mlp.down_proj.weight" in str(error.value)


def test_layers_beyond_those_of_the_config_are_an_error(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score")
    edit_config(tmp_path, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"unexpected model\.layers\.3\.input_layernorm.* and 1 more"):
        check_names(HuggingFaceWeights(tmp_path), loosely=True)


def test_buffers_are_passed_over(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(tmp_path, lambda tensors: {**tensors, name: torch.ones(4)})
    check_names(HuggingFaceWeights(tmp_path), loosely=False)


# ------------------------------------------------------------------------------------------ heads


def test_score_head_is_read_without_a_bias(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path, kind="score", dtype=torch.bfloat16)
    head = HuggingFaceWeights(tmp_path).head()
    assert head is not None
    assert head[0].dtype == torch.float32
    assert torch.equal(head[0], model.score.weight)
    assert head[1] is None


def test_value_head_is_read_with_its_bias(tmp_path: Path) -> None:
    write_tiny_chatglm(tmp_path, value_head=True)
    stored = load_file(tmp_path / "value_head.safetensors")
    head = HuggingFaceWeights(tmp_path).head()
    assert head is not None
    assert torch.equal(head[0], stored["v_head.summary.weight"])
    assert head[1] is not None
    assert torch.equal(head[1], stored["v_head.summary.bias"])


def test_base_model_has_no_head(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    assert HuggingFaceWeights(tmp_path).head() is None


def test_score_for_several_labels_is_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score")
    edit_tensors(tmp_path, lambda tensors: {**tensors, "score.weight": torch.ones(2, 64)})
    with pytest.raises(
        UserError, match=r"score.weight has shape \(2, 64\), expected \(1, 64\).*num_labels 1"
    ):
        check_names(HuggingFaceWeights(tmp_path), loosely=True)


def test_two_heads_are_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score", value_head=True)
    with pytest.raises(UserError, match="two reward heads"):
        check_names(HuggingFaceWeights(tmp_path), loosely=True)


def test_value_head_of_other_names_or_pickled_is_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "value_head.bin").write_bytes(b"pickled")
    with pytest.raises(UserError, match=r"pickled value_head\.bin"):
        HuggingFaceWeights(tmp_path)
    save_file({"head.weight": torch.ones(1, 64)}, tmp_path / "value_head.safetensors")
    with pytest.raises(UserError, match=r"holds head\.weight; a head is v_head\.summary\.weight"):
        HuggingFaceWeights(tmp_path)


# ------------------------------------------------------------------------------------------ files


def test_truncated_file_is_one_line_saying_what_to_do(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors is damaged or cut short .* download it again"):
        HuggingFaceWeights(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="damaged or cut short"):
        HuggingFaceWeights(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, sharded=True)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=f"lacks {shard.name}, listed in model.safetensors.index.json"):
        HuggingFaceWeights(tmp_path)


def test_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, sharded=True)
    index_file = tmp_path / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    shards = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.norm.weight"] = next(
        shard for shard in shards if shard != index["weight_map"]["model.norm.weight"]
    )
    index_file.write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"lacks model\.norm\.weight, which .* puts there"):
        HuggingFaceWeights(tmp_path)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/hostname", "..\\elsewhere.safetensors"])
def test_weight_map_that_leaves_its_directory_is_refused(name: str, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model", sharded=True)
    index_file = tmp_path / "model" / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    for shard in set(index["weight_map"].values()):
        (tmp_path / "elsewhere.safetensors").write_bytes((tmp_path / "model" / shard).read_bytes())
    index["weight_map"] = dict.fromkeys(index["weight_map"], name)
    index_file.write_text(json.dumps(index))
    with pytest.raises(UserError, match="is no file's name but a path"):
        HuggingFaceWeights(tmp_path / "model")


def test_pickled_weights_alone_are_refused_and_not_opened(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(UserError, match=r"pickled weights only \(pytorch_model.bin\)"):
        HuggingFaceWeights(tmp_path)


def test_directory_without_weights_or_config_is_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        HuggingFaceWeights(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config.json must hold a JSON object, got list"):
        HuggingFaceWeights(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json cannot be read"):
        HuggingFaceWeights(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match=r"config.json is missing"):
        HuggingFaceWeights(tmp_path)


def test_unsupported_config_names_its_file(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    edit_config(tmp_path, mlp_bias=True)
    with pytest.raises(UserError, match=f"^{tmp_path}/config.json: mlp_bias True"):
        HuggingFaceWeights(tmp_path)


def test_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score")
    edit_config(tmp_path, intermediate_size=128)
    weights = HuggingFaceWeights(tmp_path)
    message = r"model\.layers\.0\.mlp\.down_proj\.weight has shape \(64, 96\), .* \(64, 128\)"
    with pytest.raises(UserError, match=message):
        check_names(weights, loosely=False)
    plan = tensor_plan(
        "decoder.layers.0.mlp.linear_fc2.weight",
        ModelSpec(shape=weights.shape, padded_vocab_size=320),
        weights.tensors,
        tp_rank=0,
        tp_size=1,
    )
    with pytest.raises(UserError, match=message):
        weights.read(plan, torch.float32)


def test_quantised_tensor_is_refused_by_type(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score")
    name = "model.layers.0.mlp.down_proj.weight"
    edit_tensors(tmp_path, lambda tensors: {**tensors, name: tensors[name].to(torch.int8)})
    with pytest.raises(UserError, match=f"{name} is stored as I8; quantised"):
        check_names(HuggingFaceWeights(tmp_path), loosely=False)


def test_weights_are_unmapped_when_released_and_read_again_after(tmp_path: Path) -> None:
    def is_mapped() -> bool:
        return str(tmp_path / "model.safetensors") in Path("/proc/self/maps").read_text()

    write_tiny_llama(tmp_path)
    weights = HuggingFaceWeights(tmp_path)
    (before,) = read_all(weights, tp_size=1)
    assert is_mapped()
    weights.release()
    assert not is_mapped()
    (after,) = read_all(weights, tp_size=1)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
