"""A Hugging Face directory read into a model and written again is the same, wherever its parts lie."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.hf.contents import config_of_run
from modellink_rm.checkpoint.hf.form import LLAMA_FACTORY
from modellink_rm.checkpoint.model_plan import plan_model
from modellink_rm.checkpoint.source import open_source
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.families.registry import shape_from_config
from tests.distributed import Workers
from tests.marks import full
from tests.tiny_models import (
    write_tiny_chatglm,
    write_tiny_glm,
    write_tiny_llama,
    write_tiny_mistral,
    write_tiny_mixtral,
    write_tiny_qwen2,
    write_tiny_qwen2_moe,
)

FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": write_tiny_llama,
    "mistral": write_tiny_mistral,
    "qwen2": write_tiny_qwen2,
    "glm": write_tiny_glm,
    "chatglm": write_tiny_chatglm,
    "mixtral": write_tiny_mixtral,
    "qwen2_moe": write_tiny_qwen2_moe,
}
INTERLEAVED = "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"
SHARD_BYTES = 100_000


def read_and_write(source: str, target: str, flags: list[str], options: dict[str, Any]) -> None:
    """On each rank: the directory `source` into a model, and this into `target`."""
    from modellink_rm.base.flags import parse_flags
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.checkpoint.hf.contents import Contents
    from modellink_rm.checkpoint.hf.write import finish, write_unfinished
    from modellink_rm.checkpoint.load import load_model_weights
    from modellink_rm.config.precision import PrecisionConfig
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels
    from modellink_rm.parallel.groups import process_groups

    groups = (ParallelConfig, PrecisionConfig)
    parsed = parse_flags(flags, groups, prog="", description="")
    parallel = parsed[ParallelConfig]
    with process_groups(parallel, detect_platform(), seed=1) as ranks:
        model = ModelConfig()
        plan = plan_model(open_source(source), model, parallel, loosely=True)
        built = build_model(
            plan.spec,
            model=model,
            parallel=parallel,
            precision=parsed[PrecisionConfig],
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),
            seed=1,
            initialize=False,
        )
        load_model_weights(built, plan.source, ranks)
        config = json.loads((Path(source) / "config.json").read_text())
        dtype = parsed[PrecisionConfig].dtype
        contents = Contents(**{"base_config": config, "dtype": dtype, **options})
        finish(write_unfinished(Path(target), built, contents, ranks), Path(target), ranks)


def tensors_in(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every file."""
    return {
        name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()
    }


def assert_same_tensors(directory: Path, expected: Path) -> None:
    got = tensors_in(directory)
    wanted = {name: tensor for name, tensor in tensors_in(expected).items() if not name.endswith("inv_freq")}
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize(
    ("family", "flags"),
    [
        (family, flags) if family == "llama" or not flags else full(family, flags)
        for family in FAMILIES
        for flags in (
            "",
            "--tensor-model-parallel-size 2",
            "--pipeline-model-parallel-size 2",
            INTERLEAVED,
        )
    ],
)
def test_every_tensor_comes_back_bitwise(family: str, flags: str, workers: Workers, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path / "read", kind="score")
    workers.run(
        read_and_write,
        2 if flags else 1,
        str(tmp_path / "read"),
        str(tmp_path / "written"),
        flags.split(),
        {},
    )
    assert_same_tensors(tmp_path / "written", tmp_path / "read")
    # A directory like another: it is read as one, and by name into transformers' own class.
    plan = plan_model(open_source(str(tmp_path / "written")), ModelConfig(), ParallelConfig(), loosely=False)
    assert plan.shape.family == family
    assert sorted(path.name for path in tmp_path.iterdir()) == ["read", "written"]


@pytest.mark.full
def test_ranks_that_share_a_key_head_write_it_once(workers: Workers, tmp_path: Path) -> None:
    write_tiny_glm(tmp_path / "read", kind="score")  # two key heads
    flags = ["--tensor-model-parallel-size", "4"]
    workers.run(read_and_write, 4, str(tmp_path / "read"), str(tmp_path / "written"), flags, {})
    assert_same_tensors(tmp_path / "written", tmp_path / "read")


@pytest.mark.parametrize(
    ("world_size", "flags"),
    [
        (2, "--expert-model-parallel-size 2"),
        full(2, "--expert-tensor-parallel-size 2"),
        full(4, "--expert-model-parallel-size 2 --expert-tensor-parallel-size 2"),
        full(4, "--expert-model-parallel-size 2 --tensor-model-parallel-size 2"),
        full(4, "--expert-model-parallel-size 2 --pipeline-model-parallel-size 2"),
    ],
)
def test_divided_experts_come_back_bitwise(
    world_size: int, flags: str, workers: Workers, tmp_path: Path
) -> None:
    write_tiny_qwen2_moe(tmp_path / "read", kind="score")
    arguments = (str(tmp_path / "read"), str(tmp_path / "written"), flags.split(), {})
    workers.run(read_and_write, world_size, *arguments)
    assert_same_tensors(tmp_path / "written", tmp_path / "read")


def test_replicas_write_one_directory(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", kind="score")
    workers.run(read_and_write, 2, str(tmp_path / "read"), str(tmp_path / "written"), [], {})
    assert_same_tensors(tmp_path / "written", tmp_path / "read")


def test_bf16_weights_are_restored_with_their_head(workers: Workers, tmp_path: Path) -> None:
    write_tiny_qwen2(tmp_path / "read", kind="score", dtype=torch.bfloat16)
    workers.run(read_and_write, 1, str(tmp_path / "read"), str(tmp_path / "written"), ["--bf16"], {})
    got, wanted = tensors_in(tmp_path / "written"), tensors_in(tmp_path / "read")
    assert got.keys() == wanted.keys()
    assert all(
        torch.equal(got[name], tensor) and got[name].dtype == tensor.dtype for name, tensor in wanted.items()
    )
    assert json.loads((tmp_path / "written" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("flags", ["--tensor-model-parallel-size 2", INTERLEAVED])
def test_files_are_no_larger_than_asked_and_listed_in_the_index(
    flags: str, workers: Workers, tmp_path: Path
) -> None:
    write_tiny_llama(tmp_path / "read", kind="score")
    options = {"max_shard_bytes": SHARD_BYTES, "files": {"tokenizer_config.json": b"{}"}}
    workers.run(read_and_write, 2, str(tmp_path / "read"), str(tmp_path / "written"), flags.split(), options)
    assert_same_tensors(tmp_path / "written", tmp_path / "read")
    index = json.loads((tmp_path / "written" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "written").glob("*.safetensors"))
    assert len(files) > 3
    assert sorted(set(index["weight_map"].values())) == files
    for name in files:
        tensors = load_file(tmp_path / "written" / name)
        assert set(tensors) == {tensor for tensor, file in index["weight_map"].items() if file == name}
        assert sum(tensor.nbytes for tensor in tensors.values()) <= SHARD_BYTES
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors_in(tmp_path / "written").values())
    assert (tmp_path / "written" / "tokenizer_config.json").read_text() == "{}"


def test_transformers_scores_with_what_is_written(workers: Workers, tmp_path: Path) -> None:
    reference = write_tiny_llama(tmp_path / "read", kind="score")
    workers.run(read_and_write, 1, str(tmp_path / "read"), str(tmp_path / "written"), [], {})
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "written").eval()
    ids = torch.randint(3, 320, (1, 21), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, reference(ids).logits)


def test_config_is_copied_but_for_label_class_and_dtype(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", value_head=False)
    workers.run(read_and_write, 1, str(tmp_path / "read"), str(tmp_path / "written"), [], {})
    before, after = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("read", "written")
    )
    assert after.pop("architectures") == ["LlamaForSequenceClassification"]
    assert after.pop("id2label") == {"0": "LABEL_0"}
    assert after.pop("label2id") == {"LABEL_0": 0}
    assert (after.pop("num_labels"), after.pop("problem_type")) == (1, "regression")
    del before["architectures"]
    assert after == before


def test_head_with_a_bias_comes_back_as_a_value_head(workers: Workers, tmp_path: Path) -> None:
    write_tiny_chatglm(tmp_path / "read", value_head=True)
    workers.run(
        read_and_write,
        2,
        str(tmp_path / "read"),
        str(tmp_path / "written"),
        ["--pipeline-model-parallel-size", "2"],
        {"form": LLAMA_FACTORY},
    )
    heads = [load_file(tmp_path / name / "value_head.safetensors") for name in ("read", "written")]
    assert heads[0].keys() == heads[1].keys()
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert "score.weight" not in tensors_in(tmp_path / "written")


def test_existing_directory_is_not_overwritten(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", kind="score")
    (tmp_path / "written").mkdir()
    with pytest.raises(
        AssertionError, match=r"AgreedError: .*written is there already; give a name that is not"
    ):
        workers.run(read_and_write, 1, str(tmp_path / "read"), str(tmp_path / "written"), [], {})
    assert not list((tmp_path / "written").iterdir())


def test_model_that_scores_before_the_norm_is_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score")
    model = ModelConfig(post_layer_norm=False)
    plan = plan_model(open_source(str(tmp_path)), model, ParallelConfig(), loosely=False)
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(UserError, match="--no-post-layer-norm cannot be written"):
        config_of_run(plan.spec, config)


# It starts where the model's positions end.
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
GIVEN: dict[str, Any] = {"rotary_base": 5e5, "norm_epsilon": 0.25, "max_position_embeddings": 77}


@pytest.mark.parametrize("write", [write_tiny_llama, write_tiny_chatglm])
@pytest.mark.parametrize("name", GIVEN)
def test_config_has_the_numbers_of_the_run(name: str, write: Callable[..., Any], tmp_path: Path) -> None:
    write(tmp_path, kind="score")
    model = ModelConfig(**{name: GIVEN[name]})
    plan = plan_model(open_source(str(tmp_path)), model, ParallelConfig(), loosely=False)
    config = json.loads((tmp_path / "config.json").read_text())
    if (name, config["model_type"]) == ("rotary_base", "chatglm"):  # it has a ratio instead
        with pytest.raises(UserError, match=r"rotary_base 500000\.0 .* would describe another model"):
            config_of_run(plan.spec, config)
        return
    written = config_of_run(plan.spec, config)
    assert getattr(shape_from_config(written), name) == GIVEN[name]
    changed = {field for field in written if written[field] != config[field]}
    assert len(changed) == 1
    assert config_of_run(dataclasses.replace(plan.spec, shape=shape_from_config(config)), config) == config


def test_config_of_another_rope_scaling_is_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score", rope_parameters=DYNAMIC)
    model = ModelConfig(max_position_embeddings=1024)
    plan = plan_model(open_source(str(tmp_path)), model, ParallelConfig(), loosely=False)
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(UserError, match=r"rope_scaling .* would describe another model"):
        config_of_run(plan.spec, config)


def test_flipped_bit_of_what_this_package_exported_is_refused(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", kind="score")
    workers.run(read_and_write, 1, str(tmp_path / "read"), str(tmp_path / "written"), [], {})
    weights = tmp_path / "written" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 4  # of a weight: its header does not tell
    weights.write_bytes(content)
    with pytest.raises(AssertionError, match=r"model\.safetensors has changed since it was written"):
        workers.run(read_and_write, 1, str(tmp_path / "written"), str(tmp_path / "again"), [], {})
