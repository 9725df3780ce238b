"""Checkpoints of adapters: what they hold, resuming, other parallel sizes, scores, PEFT's form, merging."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.layout import read_checkpoint_info
from modellink_rm.config.export import ExportConfig
from modellink_rm.config.parallel import ParallelConfig
from tests.distributed import Workers
from tests.lora_reference import apply_adapter
from tests.marks import full
from tests.parity.comparison import examples
from tests.runs import RunResult, run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

NUM_STEPS = 4
TP = "--tensor-model-parallel-size 2 --sequence-parallel"
SIZES = {
    "one": (1, ""),
    "one_distributed": (1, "--use-distributed-optimizer"),
    "tp2": (2, TP),
    "tp2_distributed": (2, f"{TP} --use-distributed-optimizer"),
    "pp2": (2, "--pipeline-model-parallel-size 2"),
    "dp2_distributed": (2, "--use-distributed-optimizer"),
    "ep2": (2, "--expert-model-parallel-size 2"),
    "ep2_distributed": (2, "--expert-model-parallel-size 2 --use-distributed-optimizer"),
    "ep2_overlapped": (
        2,
        "--expert-model-parallel-size 2 --use-distributed-optimizer --overlap-grad-reduce "
        "--overlap-param-gather",
    ),
    "etp2": (2, "--expert-tensor-parallel-size 2"),
    "tp2_ep2_distributed": (2, f"{TP} --expert-model-parallel-size 2 --use-distributed-optimizer"),
    "dp2_overlapped": (2, "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"),
}
LORA = "--lora-r 4 --lora-alpha 16"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a reward model and pairs."""
    directory = tmp_path_factory.mktemp("lora")
    # Rows of 64 numbers or 128, also in halves: what 4 bits need.
    write_tiny_llama(directory / "model", kind="score", hidden_size=128, intermediate_size=256, head_dim=16)
    write_tokenizer(directory / "model")
    write_random_rows(directory / "pairs", 40)
    return directory


def run_lora(workers: Workers, base: Path, save: Path, size: str = "one", more: str = LORA) -> RunResult:
    world_size, flags = SIZES[size]
    arguments = (
        f"--stage rm --is-pairwise-dataset --load {base}/model --data-path {base}/pairs --split 30,10,0 "
        f"--seq-length 48 --lr 1e-2 --global-batch-size 6 --train-iters {NUM_STEPS} --save-interval 2 "
        f"--make-vocab-size-divisible-by 1 {flags} {more}"
    )
    return run_training(workers, world_size, arguments.split(), save)


def scores_on_rank(load: str, adapter: str | None = None) -> list[tuple[float, ...]]:
    from modellink_rm.config.score import ScorerConfig
    from modellink_rm.config.scorer import ScorerOptions
    from modellink_rm.inference.plan import plan_scoring
    from modellink_rm.inference.scoring_model import ScoringModel

    scorer = ScorerConfig(load=load, load_adapter=adapter, prompt_type="llama2")
    model = ScoringModel(plan_scoring(ScorerOptions(scorer=scorer)))
    try:
        return model.score_examples(examples())
    finally:
        model.close()


def scores(workers: Workers, load: Path, adapter: Path | None = None) -> list[float]:
    (found,) = workers.run(scores_on_rank, 1, str(load), str(adapter) if adapter is not None else None)
    return [score for pair in found for score in pair]


def transformers_scores(model: Any) -> list[float]:
    with torch.no_grad():
        return [
            float(model(torch.from_numpy(response.input_ids).long()[None]).logits[0, 0])
            for example in examples()
            for response in example.responses
        ]


def export_on_rank(load: str, output: str, options: dict[str, Any], sizes: dict[str, Any]) -> None:
    from modellink_rm.conversion.adapter import export_adapter, is_of_adapters
    from modellink_rm.conversion.export import export_checkpoint
    from modellink_rm.conversion.plan import plan_export

    config, parallel = ExportConfig(load=load, output=output, **options), ParallelConfig(**sizes)
    if is_of_adapters(config):
        export_adapter(config, parallel)
    else:
        export_checkpoint(plan_export(config, parallel))


def half_of(directory: Path, save: Path) -> None:
    """What the run in `directory` leaves if it is stopped after half of its steps."""
    shutil.copytree(directory, save)
    shutil.rmtree(save / f"iter_{NUM_STEPS:07d}")
    (save / "latest_checkpointed_iteration.txt").write_text("2\n")


def check_resumes_bitwise(workers: Workers, base: Path, directory: Path, size: str, flags: str) -> None:
    """A run that goes on from its half equals the uninterrupted one, bit for bit."""
    whole = run_lora(workers, base, directory / "whole", size, flags)
    half_of(directory / "whole", directory / "half")
    resumed = run_lora(workers, base, directory / "half", size, f"{flags} --auto-resume")
    assert resumed.column("loss") == whole.column("loss")
    assert resumed.column("grad_norm") == whole.column("grad_norm")
    for name, weight in whole.weights.items():
        assert torch.equal(resumed.weights[name], weight), name


def last(directory: Path) -> Path:
    return directory / f"iter_{NUM_STEPS:07d}"


@pytest.mark.full
def test_checkpoint_holds_what_is_trained_alone(base: Path, workers: Workers, tmp_path: Path) -> None:
    run = run_lora(workers, base, tmp_path / "run")
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    names = FileSystemReader(last(tmp_path / "run")).read_metadata().state_dict_metadata
    assert all(".adapter." in name or "rm_head." in name for name in names if "decoder" in name)
    assert not any("embedding" in name or "layernorm" in name for name in names)
    info = read_checkpoint_info(last(tmp_path / "run")).run
    assert info.base is not None
    assert info.base.path == str(base / "model")
    assert info.spec.lora is not None
    assert (info.spec.lora.rank, info.spec.lora.alpha) == (4, 16)
    frozen = load_file(base / "model" / "model.safetensors")
    assert torch.equal(run.weights["embedding.word_embeddings.weight"], frozen["model.embed_tokens.weight"])
    assert torch.equal(
        run.weights["decoder.layers.1.mlp.linear_fc2.weight"], frozen["model.layers.1.mlp.down_proj.weight"]
    )
    trained = [name for name in run.weights if ".adapter.b" in name]
    assert all(run.weights[name].abs().max() > 1e-3 for name in trained)


@pytest.mark.parametrize(
    ("size", "flags"),
    [
        full("tp2_distributed", f"{LORA} --bf16"),
        full("one", f"{LORA} --lora-dropout 0.2"),
        full("tp2", f"{LORA} --lora-dropout 0.2"),
        full("pp2", LORA),
        full("one", f"{LORA} --load-in-4bit"),
        full("dp2_distributed", f"{LORA} --bf16 --load-in-4bit"),
    ],
)
def test_resumed_run_equals_the_uninterrupted_one_bitwise(
    size: str, flags: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    check_resumes_bitwise(workers, base, tmp_path, size, flags)


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("tp2", "one"),
        full("one", "tp2"),
        full("pp2", "tp2"),
        full("tp2_distributed", "dp2_distributed"),
        full("dp2_distributed", "one_distributed"),
        full("one_distributed", "dp2_overlapped"),
    ],
)
def test_run_continues_at_another_parallel_size(
    writer: str, reader: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    whole = run_lora(workers, base, tmp_path / "whole", writer)
    half_of(tmp_path / "whole", tmp_path / "half")
    resumed = run_lora(workers, base, tmp_path / "half", reader, f"{LORA} --auto-resume")
    assert resumed.column("loss") == pytest.approx(whole.column("loss"), abs=2e-5)
    for name, weight in whole.weights.items():
        # Adam turns rounding noise in a gradient near 0 into a part of a step.
        torch.testing.assert_close(resumed.weights[name], weight, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.full
def test_adapters_follow_their_model_and_refuse_another(base: Path, workers: Workers, tmp_path: Path) -> None:
    shutil.copytree(base / "model", tmp_path / "model")
    for file in base.glob("pairs*"):
        shutil.copy(file, tmp_path)
    run_lora(workers, tmp_path, tmp_path / "run")
    half_of(tmp_path / "run", tmp_path / "half")
    expected = scores(workers, tmp_path / "run")
    (tmp_path / "moved").mkdir()
    (tmp_path / "model").rename(tmp_path / "moved" / "model")
    with pytest.raises(UserError, match=r"holds adapters of .*/model, which is not there; give the model as"):
        scores_on_rank(str(tmp_path / "run"))
    assert scores(workers, tmp_path / "moved" / "model", tmp_path / "run") == expected
    for file in tmp_path.glob("pairs*"):
        shutil.copy(file, tmp_path / "moved")
    run_lora(workers, tmp_path / "moved", tmp_path / "half", more=f"{LORA} --auto-resume")
    assert scores(workers, tmp_path / "moved" / "model", tmp_path / "half") == expected
    write_tiny_llama(
        tmp_path / "other", kind="score", hidden_size=128, intermediate_size=256, head_dim=16, seed=5
    )
    write_tokenizer(tmp_path / "other")
    with pytest.raises(UserError, match="is not the model that the adapters in"):
        scores_on_rank(str(tmp_path / "other"), str(tmp_path / "run"))


@pytest.mark.parametrize("size", [full("tp2"), full("one"), full("pp2")])
def test_directory_in_pefts_form_gives_the_scores_of_the_checkpoint(
    size: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    run_lora(workers, base, tmp_path / "run", size)
    sizes = {"tp2": {"tensor_model_parallel_size": 2}, "pp2": {"pipeline_model_parallel_size": 2}}
    written = tmp_path / "adapter"
    arguments = (str(tmp_path / "run"), str(written), {}, sizes.get(size, {}))
    workers.run(export_on_rank, SIZES[size][0], *arguments)
    expected = scores(workers, tmp_path / "run")
    model = AutoModelForSequenceClassification.from_pretrained(base / "model", dtype=torch.float32)
    apply_adapter(model, written)
    assert transformers_scores(model) == pytest.approx(expected, abs=1e-5)
    assert scores(workers, base / "model", written) == expected
    config = json.loads((written / "adapter_config.json").read_text())
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert sorted(config["target_modules"]) == sorted(names)
    assert config["modules_to_save"] == ["score"]
    assert (written / "tokenizer_config.json").is_file()


@pytest.mark.full
def test_adapters_over_4_bits_keep_their_scores_in_pefts_form(
    base: Path, workers: Workers, tmp_path: Path
) -> None:
    """They were scored over weights that are not rounded, without a word."""
    run_lora(workers, base, tmp_path / "run", "tp2", f"{LORA} --load-in-4bit")
    workers.run(export_on_rank, 1, str(tmp_path / "run"), str(tmp_path / "adapter"), {}, {})
    assert scores(workers, base / "model", tmp_path / "adapter") == scores(workers, tmp_path / "run")
    assert "BitsAndBytesConfig(load_in_4bit=True" in (tmp_path / "adapter" / "README.md").read_text()


@pytest.mark.full
def test_peft_opens_the_directory_to_equal_scores(base: Path, workers: Workers, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    more = f"{LORA} --lora-use-rslora --lora-target-modules q_proj linear_fc2"
    run_lora(workers, base, tmp_path / "run", more=more)
    workers.run(export_on_rank, 1, str(tmp_path / "run"), str(tmp_path / "adapter"), {}, {})
    model = AutoModelForSequenceClassification.from_pretrained(base / "model", dtype=torch.float32)
    wrapped = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    assert transformers_scores(wrapped) == pytest.approx(scores(workers, tmp_path / "run"), abs=1e-5)


@pytest.mark.parametrize(
    ("size", "flags"),
    [
        full("tp2", LORA),
        full("one", f"{LORA} --load-in-4bit"),
        full("pp2", f"{LORA} --bf16"),
        full("one", f"{LORA} --lora-target-modules k_proj up_proj o_proj"),
    ],
)
def test_merged_model_gives_the_scores_of_the_checkpoint(
    size: str, flags: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    run_lora(workers, base, tmp_path / "run", size, flags)
    sizes = {"tp2": {"tensor_model_parallel_size": 2}, "pp2": {"pipeline_model_parallel_size": 2}}
    arguments = (str(tmp_path / "run"), str(tmp_path / "merged"), {"merge": True}, sizes.get(size, {}))
    workers.run(export_on_rank, SIZES[size][0], *arguments)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    expected = scores(workers, tmp_path / "run")
    tolerance = 2e-2 if "bf16" in flags else 1e-5
    assert transformers_scores(model) == pytest.approx(expected, abs=tolerance)
    assert scores(workers, tmp_path / "merged") == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("size", [full("tp2"), full("pp2")])
def test_weights_in_4_bits_are_trained_above_as_their_dense_form(
    size: str, base: Path, workers: Workers, tmp_path: Path
) -> None:
    """A model whose files hold the numbers that 4 bits can, trained without them, is the reference."""
    from safetensors.torch import save_file

    from modellink_rm.adapters.nf4 import dequantized, quantized

    run = run_lora(workers, base, tmp_path / "run", size, f"{LORA} --load-in-4bit")
    shutil.copytree(base, tmp_path / "dense")
    tensors = load_file(base / "model" / "model.safetensors")
    rounded = {
        name: dequantized(*quantized(tensor), torch.float32) if "_proj." in name else tensor
        for name, tensor in tensors.items()
    }
    assert any(not torch.equal(rounded[name], tensors[name]) for name in tensors)
    save_file(rounded, tmp_path / "dense" / "model" / "model.safetensors", metadata={"format": "pt"})
    reference = run_lora(workers, tmp_path / "dense", tmp_path / "reference")
    assert run.column("loss") == pytest.approx(reference.column("loss"), abs=1e-5)
    assert "decoder.layers.0.mlp.linear_fc1.weight" not in run.weights
    for name, weight in run.weights.items():
        torch.testing.assert_close(weight, reference.weights[name], atol=1e-3, rtol=1e-3, msg=name)


def test_bf16_base_has_neither_gradients_nor_main_weights(base: Path, workers: Workers) -> None:
    for bytes_of_base, bytes_of_state, trained in workers.run(state_on_rank, 1, str(base)):
        assert bytes_of_state < bytes_of_base
        assert all(".adapter." in name or name.startswith("rm_head") for name in trained)


def state_on_rank(base: str) -> tuple[int, int, list[str]]:
    """Bytes of the frozen weights, bytes of gradients and of the optimizer's state, and what is trained."""
    from modellink_rm.base.megatron_compat import single_optimizers
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.commands.train import run_config
    from modellink_rm.parallel.groups import process_groups
    from modellink_rm.train.plan import plan_run
    from modellink_rm.train.trainer import build_train_state, kernels_of

    arguments = (
        f"--stage rm --is-pairwise-dataset --load {base}/model --data-path {base}/pairs --split 30,10,0 "
        f"--seq-length 48 --lr 1e-2 --global-batch-size 6 --train-iters 2 --bf16 --lora-r 2"
    )
    config = run_config(arguments.split())
    plan, platform = plan_run(config, world_size=1), detect_platform()
    with process_groups(config.parallel, platform, seed=1) as ranks:
        state = build_train_state(plan, kernels_of(plan, platform), ranks)
        module = state.model[0].module
        frozen = [one for one in module.parameters() if not one.requires_grad]
        assert all(one.dtype == torch.bfloat16 and not hasattr(one, "main_grad") for one in frozen)
        trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
        numbers = sum(one.numel() for one in trained.values())
        held = sum(buffer.grad_data.numel() for buffer in state.model[0].buffers)
        assert numbers <= held < numbers + 1000  # padded
        groups = [group for one in single_optimizers(state.optimizer) for group in one.param_groups]
        assert sum(one.numel() for group in groups for one in group["params"]) <= numbers
        return sum(one.nbytes for one in frozen), 16 * held, list(trained)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lora-alpha 8", "--lora-alpha is about adapters; give --lora-r too"),
        ("--load-in-4bit", "--load-in-4bit is about adapters; give --lora-r too"),
        (
            "--lora-r 4 --lora-target-modules q_prj",
            "unknown --lora-target-modules 'q_prj'; did you mean q_proj",
        ),
        ("--lora-r 4 --lora-dropout 1", r"--lora-dropout must lie in \[0, 1\), got 1.0"),
        ("--lora-r 4 --load-adapter {base}/model", "is neither PEFT's directory"),
        ("--lora-r 4 --freeze-base", "--freeze-base and --train-last-n-layers are about the model's own"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_processes_start(
    flags: str, message: str, base: Path
) -> None:
    from modellink_rm.commands.train import run_config
    from modellink_rm.train.plan import plan_run

    arguments = (
        f"--stage rm --is-pairwise-dataset --load {base}/model --data-path {base}/pairs --train-iters 2"
    )
    with pytest.raises(UserError, match=message):
        plan_run(run_config(f"{arguments} {flags.format(base=base)}".split()), world_size=1)
