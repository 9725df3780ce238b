"""Pairs a second of preprocess_data.py, of the usual way, and of the tokenizers alone, in one run.

    pip install -e '.[datasets]'
    python benchmarks/preprocess.py --records dpo_en_demo.json --tokenizer-model tokenizer.model

The records (sharegpt pairs) are repeated, each copy with its own prefix in the first turn. All paths use the
same tokenizer, loaded before the timing starts, and the template llama2:

- ours: preprocess_data.py's own functions, from the file of records to the files of the data set, with
  the reading, the checks and the checksums, at 1 and 2 workers;
- datasets.map: as LLaMA-Factory does it, both full texts of a pair through a fast tokenizer of
  transformers, rows to arrow files, with 1 and 2 processes;
- LLaMA-Factory itself, where --llamafactory-python names the python of an environment that has it (pip
  install torch llamafactory): its loader, converter, template and pairwise processor, at 1 and 2 workers;
- ceilings: each prompt and each answer once, nothing else: encode_batch_fast of the tokenizers library and
  encode of sentencepiece. The better one counts; the one for 2 is twice the one for 1, of one core.

Rounds go in turns; the median of each path counts. Every run writes to a new directory.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def repeated(records: list[dict[str, Any]], copies: int) -> list[dict[str, Any]]:
    """The records again and again, no two with the same prompt."""
    result = []
    for copy in range(copies):
        for index, record in enumerate(records):
            first, *turns = record["conversations"]
            first = {**first, "value": f"[{copy}-{index}] {first['value']}"}
            result.append({**record, "conversations": [first, *turns]})
    return result


def texts_of(record: dict[str, Any]) -> tuple[str, str, str]:
    """Prompt, chosen and rejected answer as text of the template llama2."""
    turns = [turn["value"] for turn in record["conversations"]]
    prompt = "".join(f"[INST] {text} [/INST]" if index % 2 == 0 else text for index, text in enumerate(turns))
    return prompt, record["chosen"]["value"], record["rejected"]["value"]


def fast_tokenizer_of(model: Path, folder: Path) -> Any:
    """The same vocabulary as a fast tokenizer of transformers."""
    from transformers import LlamaTokenizerFast

    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    return LlamaTokenizerFast.from_pretrained(folder)


def ours(input_path: Path, folder: Path, model: Path, workers: int) -> tuple[float, int]:
    """Run the preprocessor with a tokenizer just loaded, nothing cached; seconds and tokens written."""
    from modellink_rm.config.preprocess import PreprocessConfig
    from modellink_rm.config.tokenizer import TokenizerConfig
    from modellink_rm.preprocess.encode import RecordEncoder
    from modellink_rm.preprocess.pipeline import preprocess_with

    names = {"handler_name": "SharegptStylePairwiseHandler", "prompt_type": "llama2"}
    with tempfile.TemporaryDirectory(dir=folder) as output:
        words = {"input": (str(input_path),), "output_prefix": f"{output}/pairs"}
        config = PreprocessConfig(**words, **names, workers=workers)  # type: ignore[arg-type]
        work = RecordEncoder(config, TokenizerConfig(tokenizer_model=str(model)))
        started = time.perf_counter()
        manifest = preprocess_with(work, config)
        return time.perf_counter() - started, int(manifest.num_tokens)  # type: ignore[union-attr]


def datasets_map(input_path: Path, folder: Path, tokenizer: Any, workers: int) -> None:
    """Load, convert and tokenise with datasets.map, as LLaMA-Factory's pairwise processor does."""
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(
        "json", data_files=str(input_path), split="train", cache_dir=str(folder / f"cache_{time.time_ns()}")
    )

    def tokenized(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {
            f"{side}_{kind}": []
            for side in ("chosen", "rejected")
            for kind in ("input_ids", "labels", "attention_mask")
        }
        for turns, *answers in zip(batch["conversations"], batch["chosen"], batch["rejected"], strict=True):
            record = {"conversations": turns, "chosen": answers[0], "rejected": answers[1]}
            prompt, *texts = texts_of(record)
            for side, text in zip(("chosen", "rejected"), texts, strict=True):
                # its template encodes the messages of each side by themselves
                prompt_ids = [1, *tokenizer.encode(prompt, add_special_tokens=False)]
                answer_ids = [*tokenizer.encode(text, add_special_tokens=False), 2]
                rows[f"{side}_input_ids"].append(prompt_ids + answer_ids)
                rows[f"{side}_labels"].append([-100] * len(prompt_ids) + answer_ids)
                rows[f"{side}_attention_mask"].append([1] * len(rows[f"{side}_input_ids"][-1]))
        return rows

    loaded.map(
        tokenized,
        batched=True,
        batch_size=1000,
        remove_columns=loaded.column_names,
        num_proc=workers if workers > 1 else None,
        load_from_cache_file=False,
    )


def llama_factory(python: Path, input_path: Path, folder: Path, tokenizer: Path, workers: int) -> float:
    """Seconds of LLaMA-Factory's own preprocessing, in a process of its own environment."""
    runner = Path(__file__).parent / "peers" / "llama_factory_preprocess.py"
    words = ["--records", str(input_path), "--tokenizer", str(tokenizer), "--workers", str(workers)]
    with tempfile.TemporaryDirectory(dir=folder) as caches:
        result = subprocess.run(
            [str(python), str(runner), *words, "--folder", caches], stdout=subprocess.PIPE, check=True
        )
    return float(json.loads(result.stdout.splitlines()[-1])["seconds"])


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure all paths and print, or write, what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, required=True, help="a json array of sharegpt pairs")
    parser.add_argument("--tokenizer-model", type=Path, required=True, help="a sentencepiece model")
    parser.add_argument("--copies", type=int, default=100, help="of every record (default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (default: 3)")
    parser.add_argument("--llamafactory-python", type=Path, help="python of an environment that has it")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()

    import sentencepiece

    records = repeated(json.loads(arguments.records.read_bytes()), arguments.copies)
    texts = [text for record in records for text in texts_of(record)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        input_path = folder / "records.jsonl"
        input_path.write_text("".join(json.dumps(record) + "\n" for record in records))
        model = arguments.tokenizer_model
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        (folder / "fast").mkdir()
        fast = fast_tokenizer_of(model, folder / "fast")
        backend = fast.backend_tokenizer
        num_tokens = ours(input_path, folder, model, 1)[1]
        batches = [texts[start : start + 192] for start in range(0, len(texts), 192)]
        paths: dict[str, Callable[[], float]] = {
            "ours_1": lambda: ours(input_path, folder, model, 1)[0],
            "ours_2": lambda: ours(input_path, folder, model, 2)[0],
            "datasets_map_1": lambda: seconds(lambda: datasets_map(input_path, folder, fast, 1)),
            "datasets_map_2": lambda: seconds(lambda: datasets_map(input_path, folder, fast, 2)),
            "encode_batch_fast": lambda: seconds(
                lambda: [backend.encode_batch_fast(batch, add_special_tokens=False) for batch in batches]
            ),
            "sentencepiece": lambda: seconds(lambda: [processor.encode(text) for text in texts]),
        }
        if arguments.llamafactory_python:
            fast.save_pretrained(folder / "saved")
            for workers in (1, 2):
                paths[f"llamafactory_{workers}"] = lambda workers=workers: llama_factory(
                    arguments.llamafactory_python, input_path, folder, folder / "saved", workers
                )
        times: dict[str, list[float]] = {path: [] for path in paths}
        for _ in range(arguments.rounds):
            for path, work in paths.items():
                times[path].append(work())
    rates = {path: len(records) / statistics.median(values) for path, values in times.items()}
    rates["ceiling_1"] = max(rates["encode_batch_fast"], rates["sentencepiece"])
    rates["ceiling_2"] = 2 * rates["ceiling_1"]
    print(f"{len(records):,} pairs, {num_tokens:,} tokens (the prompt counted with each side)")
    for path, rate in rates.items():
        print(f"{path:20s}{rate:10,.0f} pairs/s{rate * num_tokens / len(records):14,.0f} tokens/s")
    print(f"ours at 1 over the ceiling: {rates['ours_1'] / rates['ceiling_1']:.2f}")
    print(f"ours at 2 over ours at 1:   {rates['ours_2'] / rates['ours_1']:.2f}")
    if arguments.json:
        figures = {path: round(rates[path], 1) for path in rates if path.endswith(("_1", "_2"))}
        arguments.json.write_text(json.dumps({"pairs_per_second": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
