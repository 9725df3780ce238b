"""LLaMA-Factory's own preprocessing of sharegpt pairs: a runner of preprocess.py in its environment.

Its loader, converter, template and pairwise processor, from the file of records to the arrow files that its
trainer reads; prints the seconds this took, imports and the loading of the tokenizer not counted.
"""

import argparse
import json
import os
import sys
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

os.environ["DISABLE_VERSION_CHECK"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import transformers  # noqa: F401  before the stand-in below: it looks for the real package

# It imports torchaudio, whose builds go with CUDA, for audio inputs alone.
torchaudio = types.ModuleType("torchaudio")
torchaudio.__spec__ = ModuleSpec("torchaudio", None)
sys.modules.setdefault("torchaudio", torchaudio)

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402
from llamafactory.model import load_tokenizer  # noqa: E402


def main() -> None:
    """Measure once; a line of JSON with the seconds and the pairs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, required=True, help="a .jsonl of sharegpt pairs")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a directory")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for its caches")
    arguments = parser.parse_args()
    entry = {"file_name": str(arguments.records), "formatting": "sharegpt", "ranking": True}
    entry["columns"] = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}  # type: ignore[assignment]
    (arguments.folder / "dataset_info.json").write_text(json.dumps({"pairs": entry}))
    model_words, data_words, training_words, _, _ = get_train_args(
        {
            "stage": "rm",
            "do_train": True,
            "finetuning_type": "full",
            "model_name_or_path": str(arguments.tokenizer),
            "template": "llama2",
            "dataset": "pairs",
            "dataset_dir": str(arguments.folder),
            "cache_dir": str(arguments.folder),
            "cutoff_len": 1_000_000,
            "overwrite_cache": True,
            "preprocessing_num_workers": arguments.workers if arguments.workers > 1 else None,
            "output_dir": str(arguments.folder / "out"),
            "report_to": "none",
            "use_cpu": True,
        }
    )
    module = load_tokenizer(model_words)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_words)
    started = time.perf_counter()
    made = get_dataset(template, model_words, data_words, training_words, stage="rm", **module)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "pairs": len(made["train_dataset"])}))


if __name__ == "__main__":
    main()
