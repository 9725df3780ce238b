"""The example scripts of real models, on tiny checkpoints of the same families."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from modellink_rm.base.flags import parse_flags
from modellink_rm.config.ignored import IGNORED_TRAINER_FLAGS
from modellink_rm.config.model import ModelConfig
from modellink_rm.model.resolve import resolve_shape
from tests.marks import full
from tests.tiny_data import random_pairs, write_tokenizer
from tests.tiny_models import write_tiny_chatglm, write_tiny_llama

ROOT = Path(__file__).parents[2]
LLAMA_SHAPE = """
--num-layers 4 --hidden-size 64 --ffn-hidden-size 96 --num-attention-heads 8  # tiny
--group-query-attention --num-query-groups 4
--max-position-embeddings 512 --swiglu --normalization RMSNorm
"""
CHATGLM_SHAPE = """
--num-layers 4 --hidden-size 64 --ffn-hidden-size 96 --num-attention-heads 8 --kv-channels 16  # tiny
--group-query-attention --num-query-groups 2
--max-position-embeddings 512 --add-qkv-bias --use-glm-rope --rotary-percent 0.5
"""


# Of the config.json of meta-llama/Llama-2-7b-hf, THUDM/chatglm3-6b and internlm/internlm2-7b. Flags alone
# describe InternLM2 as a Llama, which computes the same.
PUBLISHED_SHAPES = {
    "llama2_7B": {
        "family": "llama",
        "num_layers": 32,
        "hidden_size": 4096,
        "ffn_hidden_size": 11008,
        "num_attention_heads": 32,
        "num_query_groups": 32,
        "kv_channels": 128,
        "vocab_size": 32000,
        "rotary_percent": 1.0,
        "add_qkv_bias": False,
    },
    "chatglm3_6B": {
        "family": "chatglm",
        "num_layers": 28,
        "hidden_size": 4096,
        "ffn_hidden_size": 13696,
        "num_attention_heads": 32,
        "num_query_groups": 2,
        "kv_channels": 128,
        "vocab_size": 65024,
        "rotary_percent": 0.5,
        "add_qkv_bias": True,
    },
    "internlm2_7B": {
        "family": "llama",
        "num_layers": 32,
        "hidden_size": 4096,
        "ffn_hidden_size": 14336,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "kv_channels": 128,
        "vocab_size": 92544,
        "rotary_percent": 1.0,
        "add_qkv_bias": False,
        "max_position_embeddings": 32768,
        "rotary_base": 1000000,
    },
}


@dataclass(frozen=True)
class Family:
    """A tiny model with its pairs, and what overrides the script's settings."""

    script: str
    environment: dict[str, str]


def make_family(directory: Path, name: str) -> Family:
    model = directory / "model"
    if name == "chatglm3":
        write_tiny_chatglm(model)
        write_tokenizer(model)
        (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer"}))
    else:
        write_tiny_llama(model)
        write_tokenizer(model)
    shape = directory / "tiny.args"
    shape.write_text(CHATGLM_SHAPE if name == "chatglm3" else LLAMA_SHAPE)
    pairs = directory / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in random_pairs(24)))
    command = [
        sys.executable,
        str(ROOT / "preprocess_data.py"),
        *("--input", str(pairs), "--handler-name", "SharegptStylePairwiseHandler"),
        *("--tokenizer-name-or-path", str(model), "--prompt-type", name),
        *("--output-prefix", str(directory / "data")),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    environment = {
        "SHAPE": str(shape),
        "LOAD": str(model),
        "DATA": str(directory / "data"),
        "SAVE": str(directory / "save"),
        "NPROC": "2",
        "SEQ_LENGTH": "256",
        "GBS": "4",
        "MBS": "2",
        "TRAIN_ITERS": "3",
        "SPLIT": "20,4,0",
        "CUDA_VISIBLE_DEVICES": "",  # two processes, whatever the number of GPUs
    }
    script = {"chatglm3": "reward_chatglm3_6B.sh", "llama2": "reward_llama2_7B.sh"}[name]
    return Family(script, environment)


@pytest.mark.parametrize(
    ("name", "tensor_parallel", "pipeline_parallel"),
    [("chatglm3", "2", "1"), full("llama2", "1", "2")],
)
def test_script_trains_a_tiny_checkpoint_of_its_family(
    tmp_path: Path, name: str, tensor_parallel: str, pipeline_parallel: str
) -> None:
    family = make_family(tmp_path, name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sizes = {"TP": tensor_parallel, "PP": pipeline_parallel}
    done = subprocess.run(
        # A trailing argument wins over the environment.
        ["bash", str(ROOT / "examples" / family.script), "--train-iters", "2"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, **family.environment, **sizes},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(" iteration")]
    assert len(lines) == 2
    for line in lines:
        assert "| lm loss: " in line
        assert "| acc: " in line
        assert "| learning rate: 1.000000E-07 |" in line
    assert (tmp_path / "save" / "latest_checkpointed_iteration.txt").read_text().strip() == "2"
    assert (tmp_path / "save" / "iter_0000002").is_dir()


@pytest.mark.parametrize("name", sorted(PUBLISHED_SHAPES))
def test_shape_file_says_what_the_published_model_says(name: str) -> None:
    words = [f"@{ROOT / 'examples' / name}.args"]
    parsed = parse_flags(words, (ModelConfig,), prog="test", description="", ignored=IGNORED_TRAINER_FLAGS)
    shape = resolve_shape(parsed[ModelConfig], None)
    for field, value in PUBLISHED_SHAPES[name].items():
        assert getattr(shape, field) == value, field
