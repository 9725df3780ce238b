"""Import and export: every tensor comes back bitwise, and transformers scores as the checkpoint does."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma2Config,
    Olmo2Config,
    Phi3Config,
    Qwen3Config,
)

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.contract import CONTRACT_NAME
from modellink_rm.checkpoint.files import CHECKSUMS_FILE, read_files
from modellink_rm.config.export import ExportConfig, ImportConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from tests.distributed import Workers
from tests.marks import full
from tests.runs import run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import (
    SHAPE,
    write_model,
    write_tiny_chatglm,
    write_tiny_glm,
    write_tiny_llama,
    write_tiny_mistral,
    write_tiny_qwen2,
)

FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": write_tiny_llama,
    "mistral": write_tiny_mistral,
    "qwen2": write_tiny_qwen2,
    "glm": write_tiny_glm,
    "qwen3": partial(write_model, config_class=Qwen3Config, shape={**SHAPE, "head_dim": 16}),
    "gemma2": partial(
        write_model, config_class=Gemma2Config, shape={**SHAPE, "head_dim": 16, "sliding_window": 16}
    ),
    "olmo2": partial(write_model, config_class=Olmo2Config, shape=SHAPE),
    "phi3": partial(write_model, config_class=Phi3Config, shape=SHAPE),
}
SIZES: dict[str, dict[str, Any]] = {
    "one": {},
    "tp2": {"tensor_model_parallel_size": 2},
    "pp2": {"pipeline_model_parallel_size": 2},
}


def import_on_rank(load: str, output: str, options: dict[str, Any], sizes: dict[str, Any]) -> None:
    from modellink_rm.conversion.import_model import import_directory, plan_import

    config = ImportConfig(load=load, output=output, **{"prompt_type": "llama2", **options})
    import_directory(plan_import(config, TokenizerConfig(), ParallelConfig(**sizes)))


def export_on_rank(load: str, output: str, options: dict[str, Any], sizes: dict[str, Any]) -> None:
    from modellink_rm.conversion.export import export_checkpoint
    from modellink_rm.conversion.plan import plan_export

    config = ExportConfig(load=load, output=output, **options)
    export_checkpoint(plan_export(config, ParallelConfig(**sizes)))


def there_and_back(
    workers: Workers,
    directory: Path,
    *,
    export: dict[str, Any] | None = None,
    sizes: str = "one",
    **options: Any,
) -> None:
    """`directory`/read imported as `directory`/checkpoint, and this exported as `directory`/written."""
    read, checkpoint, written = (str(directory / name) for name in ("read", "checkpoint", "written"))
    number = 1 if sizes == "one" else 2
    workers.run(import_on_rank, number, read, checkpoint, options, SIZES[sizes])
    workers.run(export_on_rank, number, checkpoint, written, export or {}, SIZES[sizes])


def tensors_in(directory: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()
    }


def assert_same_tensors(directory: Path, expected: Path) -> None:
    got, wanted = tensors_in(directory), tensors_in(expected)
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize(
    ("family", "sizes"),
    [("llama", "tp2"), *(full(family, sizes) for family in FAMILIES for sizes in SIZES)],
)
def test_reward_model_comes_back_bitwise_and_is_scored_by_transformers(
    family: str, sizes: str, workers: Workers, tmp_path: Path
) -> None:
    FAMILIES[family](tmp_path / "read", kind="score")
    write_tokenizer(tmp_path / "read")
    there_and_back(workers, tmp_path, sizes=sizes)
    assert_same_tensors(tmp_path / "written", tmp_path / "read")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "read", "written"]
    assert CONTRACT_NAME in read_files(tmp_path / "written" / CHECKSUMS_FILE)


def test_any_program_opens_what_is_written(workers: Workers, tmp_path: Path) -> None:
    reference = write_tiny_llama(tmp_path / "read", kind="score", pad_token_id=None)
    write_tokenizer(tmp_path / "read")
    there_and_back(workers, tmp_path)
    written = tmp_path / "written"
    config = json.loads((written / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert (config["num_labels"], config["problem_type"]) == (1, "regression")
    tokenizer = AutoTokenizer.from_pretrained(written)
    model = AutoModelForSequenceClassification.from_pretrained(written).eval()
    assert tokenizer.pad_token_id == config["pad_token_id"] == model.config.pad_token_id
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, None)
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sings"}]
    ids = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")["input_ids"]
    assert ids[0].tolist().count(tokenizer.bos_token_id) == 1
    padded = torch.nn.functional.pad(ids, (0, 5), value=tokenizer.pad_token_id)
    with torch.no_grad():
        scores = [model(one).logits.item() for one in (ids, padded)]
        expected = reference(ids).logits.item()
    assert scores == pytest.approx([expected, expected], abs=1e-6)
    # verl takes BOS off the text and leaves it to the tokenizer
    text = tokenizer.apply_chat_template(messages, tokenize=False).removeprefix(tokenizer.bos_token)
    assert tokenizer(text)["input_ids"] == ids[0].tolist()
    card = (written / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "| template | llama2 |" in card


@pytest.mark.full
def test_vocabulary_without_a_free_row_gets_one_for_padding(workers: Workers, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "read")
    vocab_size = AutoTokenizer.from_pretrained(tmp_path / "read").vocab_size
    write_tiny_llama(tmp_path / "read", kind="score", pad_token_id=None, vocab_size=vocab_size)
    there_and_back(workers, tmp_path, sizes="tp2")
    config = json.loads((tmp_path / "written" / "config.json").read_text())
    assert (config["vocab_size"], config["pad_token_id"]) == (vocab_size + 1, vocab_size)
    rows, before = (tensors_in(tmp_path / name)["model.embed_tokens.weight"] for name in ("written", "read"))
    assert torch.equal(rows[:-1], before)
    assert not rows[-1].any()


@pytest.mark.full
def test_bf16_comes_back_bitwise(workers: Workers, tmp_path: Path) -> None:
    write_tiny_qwen2(tmp_path / "read", kind="score", dtype=torch.bfloat16)
    write_tokenizer(tmp_path / "read")
    there_and_back(workers, tmp_path)
    assert_same_tensors(tmp_path / "written", tmp_path / "read")


def test_dtype_and_shard_size_are_those_asked_for(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", kind="score")
    write_tokenizer(tmp_path / "read")
    there_and_back(workers, tmp_path, export={"dtype": "bfloat16", "max_shard_size": "60KB"})
    assert json.loads((tmp_path / "written" / "config.json").read_text())["dtype"] == "bfloat16"
    assert len(list((tmp_path / "written").glob("model-*.safetensors"))) > 3
    got, wanted = tensors_in(tmp_path / "written"), tensors_in(tmp_path / "read")
    for name in wanted.keys() - {"score.weight"}:
        assert torch.equal(got[name], wanted[name].bfloat16())
    assert torch.equal(got["score.weight"], wanted["score.weight"])  # float32, which nothing rounds


@pytest.mark.full
def test_float16_that_would_make_a_weight_infinite_is_refused(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", kind="score", num_hidden_layers=1)
    write_tokenizer(tmp_path / "read")
    file = tmp_path / "read" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][300, 1] = -65520.0  # of a token that no sample has
    save_file(tensors, file, metadata={"format": "pt"})
    line = r"--dtype float16: the weight embedding\.word_embeddings\.weight holds numbers beyond 65504"
    with pytest.raises(AssertionError, match=line):
        there_and_back(workers, tmp_path, export={"dtype": "float16", "check_scores": False})
    assert not (tmp_path / "written").exists()


@pytest.mark.full
@pytest.mark.parametrize("family", ["chatglm", "llama"])
def test_value_head_of_llama_factory_comes_back(family: str, workers: Workers, tmp_path: Path) -> None:
    write = {"chatglm": write_tiny_chatglm, "llama": write_tiny_llama}[family]
    write(tmp_path / "read", value_head=True)
    write_tokenizer(tmp_path / "read")
    there_and_back(workers, tmp_path, export={"form": "llamafactory"}, sizes="pp2")
    got, wanted = tensors_in(tmp_path / "written"), tensors_in(tmp_path / "read")
    lacks = {name for name in wanted if "lm_head" in name or "output_layer" in name or "inv_freq" in name}
    assert got.keys() == wanted.keys() - lacks
    assert all(torch.equal(got[name], wanted[name]) for name in got)


def import_without_final_norm(load: str, output: str) -> None:
    """A checkpoint whose score is read before the norm, as ModelLink trains ChatGLM3."""
    from modellink_rm.conversion.import_model import import_directory, plan_import

    config = ImportConfig(load=load, output=output, prompt_type="llama2")
    plan = plan_import(config, TokenizerConfig(), ParallelConfig())
    spec = dataclasses.replace(plan.model.spec, post_layer_norm=False)
    import_directory(dataclasses.replace(plan, model=dataclasses.replace(plan.model, spec=spec)))


@pytest.mark.full
def test_chatglm_that_scores_before_the_norm_is_written_as_its_publisher_reads_it(
    workers: Workers, tmp_path: Path
) -> None:
    write_tiny_chatglm(tmp_path / "read", value_head=True)
    write_tokenizer(tmp_path / "read")
    workers.run(import_without_final_norm, 1, str(tmp_path / "read"), str(tmp_path / "checkpoint"))
    # transformers checks the scores, without a norm of its own
    workers.run(export_on_rank, 1, str(tmp_path / "checkpoint"), str(tmp_path / "written"), {}, {})
    assert json.loads((tmp_path / "written" / "config.json").read_text())["post_layer_norm"] is False
    assert "transformer.encoder.final_layernorm.weight" not in tensors_in(tmp_path / "written")
    # It is read again as it was written.
    workers.run(import_on_rank, 1, str(tmp_path / "written"), str(tmp_path / "again"), {}, {})
    workers.run(export_on_rank, 1, str(tmp_path / "again"), str(tmp_path / "rewritten"), {}, {})
    assert_same_tensors(tmp_path / "rewritten", tmp_path / "written")


@pytest.mark.full
def test_openrlhf_finds_its_fields(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", kind="score", mean=0.5, std=2.0)
    write_tokenizer(tmp_path / "read")
    there_and_back(workers, tmp_path, export={"form": "openrlhf"})
    config = json.loads((tmp_path / "written" / "config.json").read_text())
    assert (config["value_head_prefix"], config["mean"], config["std"]) == ("score", 0.5, 2.0)
    assert "score.weight" in tensors_in(tmp_path / "written")


def test_head_with_a_bias_is_refused_with_the_form_that_has_one(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", value_head=True)
    write_tokenizer(tmp_path / "read")
    with pytest.raises(AssertionError, match=r"bias of this model's head; --form llamafactory writes it"):
        there_and_back(workers, tmp_path)
    assert not (tmp_path / "written").exists()


def test_scores_that_differ_leave_nothing(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modellink_rm.conversion import check
    from modellink_rm.conversion.samples import Sample
    from modellink_rm.conversion.transformers_scores import scores_with_transformers

    def in_this_process(directory: Path, request: str) -> dict[str, Any]:
        values = json.loads(request)
        found = scores_with_transformers(directory, values["samples"], rendered=values["rendered"])
        return dataclasses.asdict(found)

    write_tiny_llama(tmp_path / "read", kind="score")
    samples = [Sample((), (5, 6, 7)), Sample((), (8, 9))]
    monkeypatch.setattr(check, "_in_another_process", in_this_process)  # faster; the other tests start one
    request = json.dumps({"samples": [one.to_json() for one in samples], "rendered": []})
    right = in_this_process(tmp_path / "read", request)["alone"]
    check.check_scores(tmp_path / "read", samples, right, dtypes=[torch.float32], rendered=[])
    file = tmp_path / "read" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"differ by .* from the checkpoint's"):
        check.check_scores(tmp_path / "read", samples, right, dtypes=[torch.float32], rendered=[])
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"does not find the tensors .*norm\.weight"):
        check.check_scores(tmp_path / "read", samples, right, dtypes=[torch.float32], rendered=[])


def test_run_from_an_imported_checkpoint_starts_at_step_0(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "read", kind="score")
    write_tokenizer(tmp_path / "read")
    workers.run(import_on_rank, 1, str(tmp_path / "read"), str(tmp_path / "checkpoint"), {}, {})
    data = write_random_rows(tmp_path / "data", 8)
    flags = ["--stage", "rm", "--is-pairwise-dataset", "--data-path", str(data), "--split", "100,0,0"]
    flags += ["--train-iters", "2", "--global-batch-size", "2", "--lr", "1e-3", "--seq-length", "64"]
    flags += ["--prompt-type", "llama2"]
    runs = [
        run_training(
            workers, 1, [*flags, "--load", str(tmp_path / name)], tmp_path / f"run_{name}", saves=False
        )
        for name in ("read", "checkpoint")
    ]
    assert runs[0].column("iteration") == [1, 2]
    assert runs[0].column("loss") == runs[1].column("loss")
