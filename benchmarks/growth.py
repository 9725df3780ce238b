"""How speed and memory grow: tables over random pairs, for docs/performance.md.

    python benchmarks/growth.py --reference ../shared/reference

A small Llama (hidden size 256, 4 layers, vocabulary 32,000) in float32, one thread a process:

- length: tokens of prompt + response, half of them prompt;
- prompt: the prompt's share of prompt + response, with prompts shared and without;
- responses: responses to a prompt, with prompts shared and without;
- context: context-parallel processes that divide one pair;
- pipeline: micro-batches of a step over two stages, and how much of the time a stage waits.

All but "responses" are runs of pretrain_rm.py, each in its own processes, without timing the first step; the
trainer takes pairs, so "responses" runs the model's forward and backward passes (benchmarks/responses.py).
Memory is that of the largest process. A row whose run fails says so, and the exit code is 1.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from processes import run_measured, run_trainer
from random_model import write_random_model

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.dataset.example import IGNORED_LABEL
from modellink_rm.dataset.indexed import IndexedWriter, bin_path, idx_path
from modellink_rm.dataset.manifest import array_prefix

VOCAB_SIZE = 32000
BUDGET = 2048  # tokens of a micro-batch
TOKENS_OF_A_STEP = 16384  # real ones, at least a pair
TIMED_STEPS = 3
LONG = 8192  # from here on a step takes long enough to time one
Row = list[str]


@dataclass(frozen=True)
class Measured:
    """Medians over the timed steps of a run."""

    seconds: float
    tokens_per_second: float
    computed_tokens_per_second: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: Callable[[Path], Iterator[Row]]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--reference", type=Path, required=True, help="directory of make_models.py")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="default all")
    arguments = parser.parse_args(argv)
    failed = False
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        work = Path(name)
        make_models = str(arguments.reference / "make_models.py")
        run_measured([sys.executable, make_models, str(work), "--only", "tiny-llama"])
        write_random_model("small", work / "small", device="cpu", tokenizer_of=work / "tiny-llama")
        for key in arguments.tables:
            table = TABLES[key]
            load = " ".join(f"{value:.1f}" for value in os.getloadavg())
            print(f"\n{table.title} (load before: {load})\n")
            print("| " + " | ".join(table.columns) + " |\n" + "|---" * len(table.columns) + "|", flush=True)
            for row in table.rows(work):
                failed |= "failed" in row
                print("| " + " | ".join(row) + " |", flush=True)
    return int(failed)


def length_rows(work: Path) -> Iterator[Row]:
    for length in (512, 1024, 2048, 4096, 8192, 16384):
        num_pairs = max(1, TOKENS_OF_A_STEP // (2 * length))
        run = measured(work, prompt=length // 2, answer=length // 2, num_pairs=num_pairs)
        yield [f"{length:,}", f"{num_pairs}", *speed_cells(run)]


def prompt_rows(work: Path) -> Iterator[Row]:
    length = 1024
    for percent in (0, 25, 50, 75, 95):
        prompt = length * percent // 100
        cells = [f"{percent} %"]
        for flags in ([], ["--no-prefix-sharing"]):
            run = measured(work, prompt=prompt, answer=length - prompt, num_pairs=8, flags=flags)
            cells += [speed_cells(run)[0], speed_cells(run)[-1]]
        yield cells


def response_rows(work: Path) -> Iterator[Row]:
    for number in (2, 4, 8):
        cells = [f"{number}"]
        for flags in ([], ["--no-prefix-sharing"]):
            run = measured_responses(work, number, flags)
            cells += [speed_cells(run)[0], speed_cells(run)[-1]]
        yield cells


def context_rows(work: Path) -> Iterator[Row]:
    for size in (1, 2, 4):
        flags = ["--context-parallel-size", str(size)] if size > 1 else []
        run = measured(work, prompt=4096, answer=4096, num_pairs=1, flags=flags, num_processes=size)
        yield [f"{size}", *speed_cells(run)]


def pipeline_rows(work: Path) -> Iterator[Row]:
    """One pair a micro-batch; the time that more micro-batches add is that of one without waiting."""
    numbers = (2, 4, 8, 16)
    stages = ["--pipeline-model-parallel-size", "2"]
    kinds = {1: stages, 2: [*stages, "--num-layers-per-virtual-pipeline-stage", "1"]}
    cells: dict[int, Row] = {number: [f"{number}"] for number in numbers}
    for chunks, flags in kinds.items():
        runs = {
            number: measured(
                work,
                prompt=512,
                answer=256,
                num_pairs=number,
                flags=[*flags, "--max-tokens-per-micro-batch", "1024"],
                num_processes=2,
            )
            for number in numbers
        }
        waits = waiting_shares({number: run.seconds for number, run in runs.items() if run is not None})
        for number in numbers:
            ideal = 1 / (chunks * number + 1)  # (stages - 1) / (chunks * micro-batches + stages - 1)
            wait = f"{waits[number]:.0%}" if number in waits else "failed"
            cells[number] += [speed_cells(runs[number])[0], wait, f"{ideal:.0%}"]
    yield from cells.values()


def waiting_shares(seconds: dict[int, float]) -> dict[int, float]:
    """Share of each step's time that does not grow with the micro-batches: waiting, and the update."""
    if len(seconds) < 2:
        return {}
    slope = float(np.polyfit(list(seconds), list(seconds.values()), 1)[0])
    return {number: 1 - slope * number / spent for number, spent in seconds.items()}


TABLES = {
    "length": Table(
        f"Sequence length; half of it prompt; a micro-batch holds {BUDGET} tokens, or one longer pair",
        ("tokens of prompt + response", "pairs a step", "real tokens/s", "computed tokens/s", "memory, MB"),
        length_rows,
    ),
    "prompt": Table(
        "Share of the prompt; 1024 tokens of prompt + response, 8 pairs a step",
        ("prompt", "real tokens/s, shared", "memory, MB", "real tokens/s, not shared", "memory, MB"),
        prompt_rows,
    ),
    "responses": Table(
        "Responses to a prompt of 512 tokens, 128 tokens each; two prompts in a micro-batch; no update",
        ("responses", "real tokens/s, shared", "memory, MB", "real tokens/s, not shared", "memory, MB"),
        response_rows,
    ),
    "context": Table(
        f"Context parallelism; one pair of 8192 tokens a side, half of it prompt; {os.cpu_count()} cores",
        ("processes", "real tokens/s", "computed tokens/s", "memory of one, MB"),
        context_rows,
    ),
    "pipeline": Table(
        "Pipeline of two stages; one pair a micro-batch; waiting measured, and (p-1)/(v m + p-1)",
        (
            *("micro-batches", "real tokens/s", "waiting", "by formula"),
            *("real tokens/s, interleaved", "waiting", "by formula"),
        ),
        pipeline_rows,
    ),
}


def speed_cells(run: Measured | None) -> Row:
    """Cells of real and computed tokens a second and of memory."""
    if run is None:
        return ["failed"] * 3
    values = (run.tokens_per_second, run.computed_tokens_per_second, run.peak_memory_mb)
    return [f"{value:,.0f}" for value in values]


def measured(
    work: Path,
    *,
    prompt: int,
    answer: int,
    num_pairs: int,
    flags: Sequence[str] = (),
    num_processes: int = 1,
) -> Measured | None:
    """A run of the trainer over pairs of one size, or None where it failed (its reason is printed)."""
    num_timed = TIMED_STEPS if prompt + answer < LONG else 1
    rows_per_run = num_pairs * (num_timed + 1)
    words = trainer_words(work, prompt=prompt, answer=answer, num_rows=rows_per_run)
    words += ["--stage", "rm", "--is-pairwise-dataset", "--global-batch-size", str(num_pairs), *flags]
    try:
        rows, peak = run_trainer(words, num_steps=num_timed + 1, work=work, num_processes=num_processes)
    except UserError as error:
        print(reason_of(error), file=sys.stderr)
        return None
    timed = rows[1:]
    tokens = 2 * (prompt + answer) * num_pairs
    rates = [row["tokens_per_second"] for row in timed]
    return Measured(
        seconds=tokens / statistics.median(rates),
        tokens_per_second=statistics.median(rates),
        computed_tokens_per_second=statistics.median(row["computed_tokens_per_second"] for row in timed),
        peak_memory_mb=peak,
    )


def measured_responses(work: Path, number: int, flags: Sequence[str]) -> Measured | None:
    """Forward and backward passes of the model for `number` responses to a prompt."""
    output = work / "responses.json"
    script = str(Path(__file__).with_name("responses.py"))
    words = trainer_words(work, prompt=512, answer=128, num_rows=1)
    command = [sys.executable, script, "--responses", str(number), "--output", str(output)]
    try:
        peak = run_measured([*command, "--", *words, *flags])
    except UserError as error:
        print(reason_of(error), file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(output.read_text())
    seconds = statistics.median(result["seconds"])
    return Measured(seconds, result["tokens"] / seconds, result["computed_tokens"] / seconds, peak)


def reason_of(error: UserError) -> str:
    """The first line that names an error, of all that a failed run said."""
    lines = str(error).splitlines()
    return next((line for line in lines if "rror: " in line), lines[-1])


def trainer_words(work: Path, *, prompt: int, answer: int, num_rows: int) -> list[str]:
    """Flags of a run over `num_rows` random pairs, whose files are written."""
    data = work / f"rows_{prompt}_{answer}_{num_rows}"
    write_rows(data, prompt=prompt, answer=answer, num_rows=num_rows)
    return [
        *("--load", str(work / "small"), "--load-checkpoint-loosely", "--data-path", str(data)),
        *("--seq-length", str(prompt + answer), "--max-tokens-per-micro-batch", str(BUDGET), "--no-shuffle"),
    ]


def write_rows(prefix: Path, *, prompt: int, answer: int, num_rows: int) -> None:
    """The files of random pairs, as another tool writes them: without a manifest."""
    generator = np.random.default_rng(3)
    rows: dict[str, list[np.ndarray]] = {}
    for _ in range(num_rows):
        prompt_ids = generator.integers(3, VOCAB_SIZE, size=prompt)
        for side in ("chosen", "rejected"):
            ids = np.concatenate([prompt_ids, generator.integers(3, VOCAB_SIZE, size=answer)])
            labels = np.concatenate([np.full(prompt, IGNORED_LABEL), ids[prompt:]])
            rows.setdefault(f"{side}_input_ids", []).append(ids)
            rows.setdefault(f"{side}_labels", []).append(labels)
    for name, arrays in rows.items():
        path = array_prefix(prefix, name)
        with bin_path(path).open("wb") as data, idx_path(path).open("wb") as index:
            writer = IndexedWriter(data, index)
            for array in arrays:
                writer.append(array.astype(np.int32), np.array([len(array)], dtype=np.int32))
            writer.finish()


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
