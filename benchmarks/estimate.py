"""The memory that `estimate` says of a run on a CPU, beside what the run takes.

    python benchmarks/estimate.py
    python benchmarks/estimate.py --shapes llama mixtral --layouts tp2

Five models of random float32 weights are trained for two steps in one process, and in two: tensor, pipeline
and data parallel, and data parallel with the distributed optimizer; in one, also with recomputation, and with
the head, the last two layers or adapters trained alone. Each process notes its resident memory once all is
imported, and the most that it took until the end; the table has the difference, in MB, of the process that
took the most. The exit code is 1 where an estimate is more than a tenth off.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growth import write_rows

from modellink_rm.base.errors import UserError, run_command

TOLERANCE = 0.1
ROOT = Path(__file__).parents[1]
PROMPT, ANSWER = 128, 192  # tokens; a pair takes 512 with its prompt shared
TOKENS = 1024  # of a micro-batch
VOCAB_SIZE = 32000


@dataclass(frozen=True)
class Layout:
    """Processes of a run, and its flags."""

    world_size: int
    words: tuple[str, ...] = ()


LAYOUTS = {
    "one": Layout(1),
    "tp2": Layout(2, ("--tensor-model-parallel-size", "2")),
    "pp2": Layout(2, ("--pipeline-model-parallel-size", "2")),
    "dp2": Layout(2),
    "divided": Layout(2, ("--use-distributed-optimizer",)),
    "recompute": Layout(1, ("--recompute-granularity", "full")),
    "head": Layout(1, ("--freeze-base",)),
    "last2": Layout(1, ("--train-last-n-layers", "2")),
    "lora": Layout(1, ("--lora-r", "8")),
}
_LLAMA = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
# The class of transformers' configuration, and its fields.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _LLAMA),
    "qwen2": (
        "Qwen2Config",
        {
            **_LLAMA,
            "vocab_size": 96000,
            "num_hidden_layers": 6,
            "hidden_size": 384,
            "intermediate_size": 2048,
        },
    ),
    "qwen3": (
        "Qwen3Config",
        {
            **_LLAMA,
            "num_hidden_layers": 12,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 1024,
        },
    ),
    "mixtral": (
        "MixtralConfig",
        {**_LLAMA, "num_hidden_layers": 4, "num_local_experts": 8, "intermediate_size": 768},
    ),
    "deepseek": (
        "DeepseekV2Config",
        {
            **_LLAMA,
            "num_key_value_heads": 8,
            "num_hidden_layers": 6,
            "kv_lora_rank": 128,
            "q_lora_rank": None,
            "qk_rope_head_dim": 32,
            "qk_nope_head_dim": 64,
            "v_head_dim": 64,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 384,
            "first_k_dense_replace": 1,
        },
    ),
}


def main(argv: Sequence[str]) -> int:
    """Print the table; 1 where an estimate is more than `TOLERANCE` off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    arguments = parser.parse_args(argv)
    is_off = False
    print("| model | layout | estimated, MB | measured, MB | off by |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="estimate-") as name:
        for shape in arguments.shapes:
            write_model(shape, Path(name) / shape)
            for layout in arguments.layouts:
                estimated, measured = compare(Path(name), shape, LAYOUTS[layout])
                error = estimated / measured - 1
                is_off |= abs(error) > TOLERANCE
                cells = (shape, layout, f"{estimated / 1e6:,.0f}", f"{measured / 1e6:,.0f}", f"{error:+.1%}")
                print(f"| {' | '.join(cells)} |", flush=True)
    return int(is_off)


def write_model(name: str, directory: Path) -> None:
    """Random weights of a shape, and a tokenizer."""
    import torch
    import transformers

    sys.path.insert(0, str(ROOT))
    from tests.tiny_data import write_tokenizer

    kind, fields = SHAPES[name]
    torch.manual_seed(1234)
    config = getattr(transformers, kind)(**fields)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(directory)
    write_tokenizer(directory)


def compare(work: Path, shape: str, layout: Layout) -> tuple[int, int]:
    """(bytes estimated, bytes measured) of the process of a run that takes the most.

    Raises:
        UserError: the run failed.
    """
    data = work / "rows"
    if not data.with_name("rows_packed_chosen_input_ids_document.bin").exists():
        write_rows(data, prompt=PROMPT, answer=ANSWER, num_rows=16)
    words = [
        *("--stage", "rm", "--is-pairwise-dataset", "--load", str(work / shape), "--load-checkpoint-loosely"),
        *("--data-path", str(data), "--prompt-type", "llama2", "--split", "100,0,0", "--no-shuffle"),
        *("--seq-length", str(PROMPT + ANSWER), "--max-tokens-per-micro-batch", str(TOKENS)),
        *("--global-batch-size", "8", "--train-iters", "2", "--compile", "never", *layout.words),
    ]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(layout.world_size)]
    output = work / "measured.json"
    command = [
        *(sys.executable, *(launcher if layout.world_size > 1 else [])),
        *(str(Path(__file__).with_name("estimate_run.py")), str(output), *words),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)}\nfailed:\n{(done.stdout + done.stderr)[-3000:]}")
    results = [json.loads(output.with_suffix(f".{rank}").read_text()) for rank in range(layout.world_size)]
    return results[0]["estimated"], max(result["measured"] for result in results)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
