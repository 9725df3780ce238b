"""Training speed, memory and losses of this trainer, of others, and of a plain loop, in one run.

    python benchmarks/train.py --reference ../shared/reference --data ../shared/data --peers-dir peers

All train on the same pairs (dpo_en_demo, template llama2, cut at 1024 tokens) from the same weights and value
head (mid-llama of REFERENCE/make_models.py), float32, one thread, four pairs a step, AdamW:

- packed: pretrain_rm.py --no-prefix-sharing; shared: pretrain_rm.py;
- trl, llama_factory, openrlhf: from pip, each in an environment below --peers-dir, made if it is missing;
- plain_loop: benchmarks/plain_loop.py, without padding, over transformers' model.

Each is a process of its own that runs the same steps; the first --warm-up steps, and all that comes before
them, are not timed. Rounds go in turns; the time of a step is the median over rounds. The rate of matrix
products is measured between any two of them. Losses must agree, or the exit code is 1.

--responses K measures rankings: each prompt has its two responses and those of the pairs after it, K in all.
This trainer gets each prompt once with its K responses, the others get its K (K - 1) / 2 pairs spelled out;
--batch-size then counts prompts.

--stage dpo trains the language model itself on the pairs, beside TRL's DPOTrainer, whose reference is
computed before training as ours is, and benchmarks/plain_dpo_loop.py.

Words after `--` go to this trainer. --device cuda measures bfloat16 at sizes of use on a GPU. --lora RANK
trains adapters of all linear layers and the head, ours and TRL's with PEFT, from the same adapter.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.environments import PEERS, peer_python
from processes import ROOT, run_measured
from random_model import write_random_adapter, write_random_model
from train_figures import figures_of, print_conditions, print_goals, print_losses, print_table, write_json
from trainers import LABELS, MODEL, OURS, SEQ_LENGTH, Run, Setting, measure_peak, run_ours, run_runner

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.reader import ExampleReader

VOCAB_SIZE = 32000
# How far losses of a step may lie apart: float32 sums in another order; bfloat16 keeps 8 bits.
TOLERANCE = {"cpu": 1e-5, "cuda": 5e-2}
# Those that are compared with --lora, and of --stage dpo.
LORA_TRAINERS = ("packed", "shared", "trl")
DPO_TRAINERS = ("packed", "shared", "trl", "plain_loop")


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    check_device(arguments)
    pythons, missing = find_pythons(arguments)
    with tempfile.TemporaryDirectory(prefix="train-benchmark-", dir=arguments.work_dir) as work:
        setting = prepare(arguments, Path(work))
        runs, peaks = measure(setting, pythons, missing)
    print_conditions(arguments, setting)
    peak = statistics.median(max(rates.values()) for rates in peaks)
    figures = {name: figures_of(setting, rounds) for name, rounds in runs.items()}
    print_table(figures, peak, missing)
    print_goals(arguments, figures, peak)
    largest = print_losses(arguments, runs)
    if arguments.json is not None:
        write_json(arguments, figures, runs, peaks, missing)
    if largest > TOLERANCE[arguments.device]:
        print(f"losses differ by {largest:.1e}, above {TOLERANCE[arguments.device]:.0e}", file=sys.stderr)
        return 1
    return 0


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    argv, trainer_flags = list(argv), []
    if "--" in argv:
        at = argv.index("--")
        argv, trainer_flags = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--reference", type=Path, required=True, help="directory of make_models.py")
    parser.add_argument("--data", type=Path, required=True, help="directory of dpo_en_demo.json")
    parser.add_argument("--peers-dir", type=Path, help="environments of the trainers from pip")
    parser.add_argument(
        "--peer-python", action="append", default=[], metavar="NAME=PATH", help="use this python for a peer"
    )
    parser.add_argument("--stage", choices=("rm", "dpo"), default="rm", help="(default: %(default)s)")
    parser.add_argument(
        "--trainers", nargs="+", choices=LABELS, help="default all that have the stage; with --lora TRL alone"
    )
    parser.add_argument("--steps", type=int, default=8, help="of each process (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=2, help="first steps not timed (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="pairs of a step (default: %(default)s)")
    parser.add_argument("--responses", type=int, default=2, help="to each prompt (default: %(default)s)")
    parser.add_argument("--lr", default="1e-5", help="(default: %(default)s)")
    parser.add_argument(
        "--max-tokens-per-micro-batch",
        type=int,
        default=2048,
        help="of this trainer: tokens it computes at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--peer-micro-batch-size",
        type=int,
        help="of TRL and LLaMA-Factory: pairs of a forward pass, where a step's do not fit (default all)",
    )
    parser.add_argument(
        "--compile", default="always", help="of this trainer, as in a long run (default: %(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument(
        "--shape", choices=("1b", "3b", "8b"), default="1b", help="with cuda (default: %(default)s)"
    )
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank, and the head")
    parser.add_argument("--recompute", action="store_true", help="with cuda: all checkpoint activations")
    parser.add_argument("--work-dir", type=Path, help="where models and checkpoints go for the while")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.warm_up < arguments.steps:
        raise UserError(f"--warm-up {arguments.warm_up} leaves none of --steps {arguments.steps} to time")
    if arguments.responses < 2:
        raise UserError(f"--responses {arguments.responses}: a pair has 2")
    micro_batch_size = arguments.peer_micro_batch_size
    num_pairs = arguments.batch_size * math.comb(arguments.responses, 2)
    if micro_batch_size is not None and (micro_batch_size < 1 or num_pairs % micro_batch_size):
        pairs = (
            "" if arguments.responses == 2 else f" x {math.comb(arguments.responses, 2)} pairs of a prompt"
        )
        raise UserError(
            f"--peer-micro-batch-size {micro_batch_size} does not divide --batch-size "
            f"{arguments.batch_size}{pairs}"
        )
    known = LORA_TRAINERS if arguments.lora else tuple(LABELS)
    known = DPO_TRAINERS if arguments.stage == "dpo" else known
    arguments.trainers = arguments.trainers or list(known)
    if not set(arguments.trainers) <= set(known):
        kind = "--stage dpo" if arguments.stage == "dpo" else "--lora"
        raise UserError(f"{kind} compares {', '.join(known)}; leave others out of --trainers")
    if arguments.stage == "dpo" and (arguments.lora or arguments.responses != 2):
        raise UserError("--stage dpo is compared on pairs and whole models; leave --lora and --responses out")
    arguments.trainer_flags = trainer_flags
    return arguments


def check_device(arguments: argparse.Namespace) -> None:
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("--device cuda needs a GPU, and torch finds none")


def find_pythons(arguments: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """(python of each trainer to run, why a peer is missing)."""
    given = dict(entry.split("=", 1) for entry in arguments.peer_python)
    pythons: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in arguments.trainers:
        if name not in PEERS or name in given:
            pythons[name] = given.get(name, sys.executable)
            continue
        if arguments.peers_dir is None:
            raise UserError(f"{LABELS[name]} needs --peers-dir, or leave it out of --trainers")
        found = peer_python(name, arguments.peers_dir)
        if isinstance(found, Path):
            pythons[name] = str(found)
        else:
            missing[name] = found
    return pythons, missing


def prepare(arguments: argparse.Namespace, work: Path) -> Setting:
    """Write the model and the pairs, and read them as the trainer does."""
    make_models = str(arguments.reference / "make_models.py")
    run_measured([sys.executable, make_models, str(work), "--only", MODEL])
    model = work / MODEL
    if arguments.device == "cuda":
        write_random_model(arguments.shape, work / arguments.shape, device="cuda", tokenizer_of=model)
        model = work / arguments.shape
    examples = json.loads((arguments.data / "dpo_en_demo.json").read_text())
    handler = "SharegptStylePairwiseHandler"
    if arguments.responses > 2:
        examples, handler = rankings_of(examples, arguments.responses), "RankedResponsesHandler"
    records = work / "records.json"
    # No more than is trained: before --stage dpo, the reference is computed over all of them.
    records.write_text(json.dumps(examples[: (arguments.steps + 1) * arguments.batch_size]))
    run_measured(
        [
            *(sys.executable, str(ROOT / "preprocess_data.py")),
            *("--input", str(records), "--output-prefix", str(work / "pairs")),
            *("--handler-name", handler, "--prompt-type", "llama2"),
            *("--tokenizer-name-or-path", str(model)),
        ]
    )
    if arguments.lora:
        write_random_adapter(model, work / "adapter", rank=arguments.lora)
    dataset = open_dataset(work / "pairs")
    reader = ExampleReader(
        seq_length=SEQ_LENGTH, truncation="right", num_closing_tokens=0, num_ids=VOCAB_SIZE
    )
    number = arguments.steps * arguments.batch_size
    if number > len(dataset):
        raise UserError(f"--steps {arguments.steps} need {number} pairs, the data have {len(dataset)}")
    setting = Setting(arguments, work, model, [reader.read(dataset, row) for row in range(number)])
    pairs = [
        {
            "chosen_ids": chosen.input_ids.tolist(),
            "rejected_ids": rejected.input_ids.tolist(),
            "num_prompt_tokens": chosen.num_prompt_tokens,
        }
        for example in setting.examples
        for chosen, rejected in itertools.combinations(example.responses, 2)
    ]
    setting.pairs.write_text(json.dumps(pairs))
    return setting


def rankings_of(pairs: Sequence[dict[str, Any]], num_responses: int) -> list[dict[str, Any]]:
    """The prompts of sharegpt pairs, each with its own two responses and those of the pairs after it."""
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    texts = [pair[side]["value"] for pair in pairs for side in ("chosen", "rejected")]
    rankings = []
    for number, pair in enumerate(pairs):
        turns = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in pair["conversations"]]
        responses = [texts[(2 * number + place) % len(texts)] for place in range(num_responses)]
        ranks = list(range(1, num_responses + 1))
        rankings.append({"prompt": turns, "responses": responses, "ranks": ranks})
    return rankings


def measure(
    setting: Setting, pythons: dict[str, str], missing: dict[str, str]
) -> tuple[dict[str, list[Run]], list[dict[str, float]]]:
    """(runs of each trainer, one a round; rates of matrix products by size, measured in between).

    A trainer of others that fails, for want of memory say, is left out from then on and goes to `missing`.
    """
    runs: dict[str, list[Run]] = {name: [] for name in pythons}
    peaks = [measure_peak(setting)]
    for number in range(setting.arguments.rounds):
        for name in tuple(runs):
            started = time.perf_counter()
            try:
                run = run_ours(setting, name) if name in OURS else run_runner(setting, name, pythons[name])
            except UserError as error:
                if name not in PEERS:
                    raise
                print(f"round {number + 1}, {LABELS[name]}: {error}", file=sys.stderr, flush=True)
                said = [line for line in str(error).split(r"\n") if line.strip()]  # a UserError is one line
                missing[name] = f"failed: {said[-1][-200:]}"
                del runs[name]
                continue
            runs[name].append(run)
            peaks.append(measure_peak(setting))
            print(
                f"round {number + 1}, {LABELS[name]}: {median_step(run, setting):.2f} s a step, "
                f"{run.peak_memory_mb:,.0f} MB, {time.perf_counter() - started:.0f} s in all",
                flush=True,
            )
    return runs, peaks


def median_step(run: Run, setting: Setting) -> float:
    return statistics.median(run.seconds[setting.arguments.warm_up :])


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
