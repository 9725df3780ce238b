"""Memory of import and export, per process, for a random Llama of about the given size.

    python benchmarks/export_memory.py --gigabytes 1.5 --processes 2 --work DIR

Prints for each process of a tensor-parallel import and export the largest private memory (RssAnon) above
that before, beside its share of the weights. Pages of files that are read or written are not counted: the
system takes them back when it needs them.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from modellink_rm.checkpoint.hf.mappings import expected_shapes
from modellink_rm.checkpoint.hf.stream import SafetensorsWriter, TensorType
from modellink_rm.model.families.registry import FAMILIES, shape_from_config
from tests.tiny_data import write_tokenizer

HIDDEN, FFN, VOCABULARY = 1536, 4096, 32000


def main(argv: Sequence[str]) -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--step", choices=("import", "export"), help="of a worker")
    flags = parser.parse_args(argv)
    if flags.step is not None:
        measure(flags.step, flags.work, flags.processes)
        return 0
    num_bytes = write_random_llama(flags.work / "model", flags.gigabytes)
    print(f"weights: {num_bytes / 1e9:.2f} GB, a process's share {num_bytes / flags.processes / 1e9:.2f} GB")
    for step in ("import", "export"):
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        words += ["--nproc_per_node", str(flags.processes), __file__, "--step", step]
        words += ["--processes", str(flags.processes), "--work", str(flags.work)]
        subprocess.run(words, check=True)
    return 0


def write_random_llama(directory: Path, gigabytes: float) -> int:
    """A reward model in float32 with as many layers as it takes; its size in bytes."""
    per_layer = 4 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * FFN)
    num_layers = max(2, round((gigabytes * 1e9 - 4 * VOCABULARY * HIDDEN) / per_layer))
    config = {
        "model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": num_layers,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "pad_token_id": 0, "num_labels": 1, "id2label": {"0": "LABEL_0"},
    }  # fmt: skip
    write_tokenizer(directory)
    (directory / "config.json").write_text(json.dumps(config))
    shapes = expected_shapes(shape_from_config(config), FAMILIES["llama"].tensors)
    types = {name: TensorType(shape, torch.float32) for name, shape in shapes.items()}
    types["score.weight"] = TensorType((1, HIDDEN), torch.float32)
    generator = torch.Generator().manual_seed(1)
    with SafetensorsWriter(directory / "model.safetensors", types) as writer:
        for name, kind in types.items():
            writer.write(name, torch.randn(kind.shape, generator=generator) * 0.02)
    return sum(kind.num_bytes for kind in types.values())


def measure(step: str, work: Path, processes: int) -> None:
    """Take the step as one process of the run, and print how much memory it took."""
    from modellink_rm.config.export import ExportConfig, ImportConfig
    from modellink_rm.config.parallel import ParallelConfig
    from modellink_rm.config.tokenizer import TokenizerConfig
    from modellink_rm.conversion.export import export_checkpoint
    from modellink_rm.conversion.import_model import import_directory, plan_import
    from modellink_rm.conversion.plan import plan_export

    parallel = ParallelConfig(tensor_model_parallel_size=processes)
    before, peak = private_bytes(), 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, private_bytes())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if step == "import":
        config = ImportConfig(load=str(work / "model"), output=str(work / "checkpoint"), prompt_type="llama2")
        import_directory(plan_import(config, TokenizerConfig(), parallel))
    else:
        out = ExportConfig(load=str(work / "checkpoint"), output=str(work / "written"), check_scores=False)
        export_checkpoint(plan_export(out, parallel))
    done.set()
    watcher.join()
    print(f"{step}: at most {(peak - before) / 1e9:.2f} GB above {before / 1e9:.2f} GB", flush=True)


def private_bytes() -> int:
    """This process's memory that is of no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no RssAnon: this needs Linux")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
