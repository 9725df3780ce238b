"""The recipes in bfloat16, and the files of clusters that start them."""

import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from modellink_rm.commands.train import run_config
from modellink_rm.config.run import RunConfig
from modellink_rm.estimate.choose import USABLE_SHARE
from modellink_rm.estimate.gpus import GIB
from modellink_rm.estimate.memory import CUDA, Workload, largest_micro_batch, memory_of
from modellink_rm.model.adapter_targets import new_adapters
from modellink_rm.model.fits import check_parallel_fits_shape, check_seq_length
from modellink_rm.model.resolve import padded_vocab_size
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec
from modellink_rm.train.stages import STAGES
from tests.tiny_data import random_pairs, write_tokenizer
from tests.tiny_models import write_tiny_llama
from tests.unit.estimate.shapes import LLAMA_8B, LLAMA_70B, published_shape

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Recipe:
    """A script with the GPUs, of so many GB, and the model that it is for."""

    script: str
    world_size: int
    shape: ModelShape
    gpu_gb: int = 80


RECIPES = {
    "3B": Recipe("bf16_llama3_3B_1gpu.sh", 1, published_shape("llama-3.2-3b-instruct")),
    "8B": Recipe("bf16_llama3_8B_8gpus.sh", 8, LLAMA_8B),
    "8B in 4 bits": Recipe("qlora_llama3_8B_1gpu.sh", 1, LLAMA_8B, gpu_gb=24),
    "70B": Recipe("bf16_llama3_70B_64gpus.sh", 64, LLAMA_70B),
    "DPO of 8B": Recipe("dpo_llama3_8B.sh", 8, LLAMA_8B),
}


def stand_in(directory: Path, name: str, script: str) -> None:
    """A program of that name which does what the script says."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def environment(programs: Path, **variables: str) -> dict[str, str]:
    """Without variables of the caller that the scripts read."""
    path = f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin"
    return {"PATH": path, "MASTER_ADDR": "node0", "NODE_RANK": "0", **variables}


def launched_words(recipe: Recipe, directory: Path, *more: str) -> list[str]:
    """What a recipe starts: the words after `python`."""
    stand_in(directory / "bin", "python", 'printf "%s\\n" "$@"')
    done = subprocess.run(
        ["bash", str(EXAMPLES / recipe.script), *more],
        env=environment(directory / "bin"),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.splitlines()


def split_at_program(words: list[str]) -> tuple[list[str], list[str]]:
    """torchrun's words, and those of pretrain_rm.py."""
    (place,) = (number for number, word in enumerate(words) if word.endswith("pretrain_rm.py"))
    return words[:place], words[place + 1 :]


def config_of(recipe: Recipe, directory: Path) -> RunConfig:
    return run_config(split_at_program(launched_words(recipe, directory))[1])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_recipe_starts_a_process_for_each_of_its_gpus(recipe: Recipe, tmp_path: Path) -> None:
    words, _ = split_at_program(launched_words(recipe, tmp_path))
    nodes = int(words[words.index("--nnodes") + 1]) if "--nnodes" in words else 1
    assert nodes * int(words[words.index("--nproc_per_node") + 1]) == recipe.world_size


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_recipe_fits_its_model_and_processes(recipe: Recipe, tmp_path: Path) -> None:
    config = config_of(recipe, tmp_path)
    check_parallel_fits_shape(config.parallel, recipe.shape)
    check_seq_length(config.data.seq_length, recipe.shape)
    num_replicas = config.parallel.data_parallel_size(recipe.world_size)
    assert config.training.batch_size(num_replicas) % num_replicas == 0
    assert config.parallel.tensor_model_parallel_size <= 8
    assert config.precision.bf16
    assert config.checkpoint.auto_resume


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_recipe_is_estimated_to_fit_its_gpus(recipe: Recipe, tmp_path: Path) -> None:
    config = config_of(recipe, tmp_path)
    max_tokens = config.training.max_tokens_per_micro_batch
    assert max_tokens is not None
    rows = padded_vocab_size(config.model, recipe.shape, config.parallel.tensor_model_parallel_size)
    memory = memory_of(
        Workload(
            spec=ModelSpec(
                shape=recipe.shape,
                padded_vocab_size=rows,
                lora=new_adapters(config.lora, recipe.shape),
                head=STAGES[config.training.stage].head,
            ),
            parallel=config.parallel,
            precision=config.precision,
            optim=config.optim,
            world_size=recipe.world_size,
            num_tokens=largest_micro_batch(max_tokens, config.data.seq_length),
            num_micro_batches=128,
            device=CUDA,
            compiles_elementwise=True,
        )
    )
    assert 0.3 * recipe.gpu_gb * GIB < memory.peak < USABLE_SHARE * recipe.gpu_gb * GIB


def test_words_after_a_recipe_win(tmp_path: Path) -> None:
    words = launched_words(RECIPES["8B"], tmp_path, "--lr", "1e-4")
    assert run_config(split_at_program(words)[1]).optim.lr == 1e-4


def run_sbatch(directory: Path, *, trains_to: int, before: int = 0) -> subprocess.CompletedProcess[str]:
    """The Slurm script with stand-ins for Slurm, whose training gets to a step."""
    programs, save = directory / "bin", directory / "save"
    save.mkdir()
    newest = save / "latest_checkpointed_iteration.txt"
    if before:
        newest.write_text(str(before))
    saves = f"echo {trains_to} > {newest}" if trains_to else "true"
    # As Slurm starts the task of the second node.
    stand_in(programs, "srun", f'{saves}; shift; export SLURM_NODEID=1; "$@"; exit 1')
    stand_in(programs, "scontrol", 'if [[ $1 == show ]]; then printf "gpu1\\ngpu2\\n"; else echo "$@"; fi')
    stand_in(programs, "python", 'echo python "$@"')
    return subprocess.run(
        ["bash", str(EXAMPLES / "slurm" / "reward.sbatch"), "--lr", "1e-4"],
        env=environment(
            programs,
            SLURM_NNODES="8",
            SLURM_JOB_ID="30042",
            SLURM_JOB_NODELIST="gpu[1-2]",
            SLURM_SUBMIT_DIR=str(ROOT),
            SAVE=str(save),
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_slurm_script_starts_each_node_with_its_number(tmp_path: Path) -> None:
    done = run_sbatch(tmp_path, trains_to=2000)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("python "))
    nodes = "--nnodes 8 --node_rank 1 --master_addr gpu1 --master_port 30042 --nproc_per_node 8"
    assert nodes in line
    assert line.endswith("--exit-duration-in-mins 225 --lr 1e-4")
    run_config(split_at_program(line.split()[1:])[1])


def test_slurm_script_queues_an_unfinished_job_again(tmp_path: Path) -> None:
    done = run_sbatch(tmp_path, trains_to=1200, before=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "requeue 30042"


def test_slurm_script_ends_a_job_without_progress(tmp_path: Path) -> None:
    done = run_sbatch(tmp_path, trains_to=0, before=600)
    assert done.returncode == 1
    assert "requeue" not in done.stdout
    assert "no step was saved" in done.stderr


def test_slurm_script_leaves_before_its_time_is_up() -> None:
    text = (EXAMPLES / "slurm" / "reward.sbatch").read_text()
    hours = re.search(r"#SBATCH --time=(\d+):00:00", text)
    minutes = re.search(r"MINUTES:-(\d+)", text)
    assert hours is not None
    assert minutes is not None
    assert int(minutes[1]) <= int(hours[1]) * 60 - 15
    assert "#SBATCH --requeue\n" in text


def test_kubernetes_file_runs_a_recipe_on_its_nodes(tmp_path: Path) -> None:
    job: dict[str, Any] = yaml.safe_load((EXAMPLES / "k8s" / "reward.yaml").read_text())
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert job["kind"] == "PyTorchJob"
    assert replicas["Master"]["replicas"] + replicas["Worker"]["replicas"] == 8
    assert replicas["Worker"]["template"] == replicas["Master"]["template"]
    (container,) = replicas["Master"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(job["spec"]["nprocPerNode"])
    stand_in(tmp_path / "bin", "python", 'printf "%s\\n" "$@"')
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    done = subprocess.run(
        [*container["command"], *container["args"]],
        cwd=ROOT,
        env=environment(
            tmp_path / "bin", PET_NNODES="8", PET_NODE_RANK="3", MASTER_PORT="23456", **variables
        ),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    words, flags = split_at_program(done.stdout.splitlines())
    assert words[2:8] == ["--nnodes", "8", "--node_rank", "3", "--master_addr", "node0"]
    assert run_config(flags).checkpoint.save == variables["SAVE"]


@pytest.mark.full
def test_recipe_trains_a_tiny_checkpoint(tmp_path: Path) -> None:
    import json

    write_tiny_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in random_pairs(24)))
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "preprocess_data.py"), "--input", str(pairs)),
            *("--handler-name", "SharegptStylePairwiseHandler", "--prompt-type", "llama2"),
            *("--tokenizer-name-or-path", str(tmp_path / "model")),
            *("--output-prefix", str(tmp_path / "data")),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    done = subprocess.run(
        [
            *("bash", str(EXAMPLES / RECIPES["8B"].script), "--train-iters", "3", "--log-interval", "1"),
            *("--global-batch-size", "4", "--seq-length", "256", "--split", "20,4,0"),
        ],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NPROC": "2",
            "LOAD": str(tmp_path / "model"),
            "DATA": str(tmp_path / "data"),
            "SAVE": str(tmp_path / "save"),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "save" / "latest_checkpointed_iteration.txt").read_text().strip() == "3"
