"""Run one trainer of train.py, in a process of its own, and read what it left."""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops import Stretch, head_flops, read_shape, training_flops
from peers.environments import PEERS
from processes import run_measured, run_trainer

from modellink_rm.batching.batch import has_one_prompt
from modellink_rm.dataset.example import Example

HERE = Path(__file__).parent
SEQ_LENGTH = 1024
MODEL = "mid-llama"  # of the reference files, on a CPU
OURS = {"packed": "ours, packed", "shared": "ours, prompts shared"}
LABELS = {
    **OURS,
    **{name: peer.label for name, peer in PEERS.items()},
    "plain_loop": "plain loop, no padding",
}
# Those whose gradients of several forward passes can add up to a step (transformers' Trainer).
ACCUMULATING = ("trl", "llama_factory")
STAGE_WORDS = {
    "rm": ("--stage", "rm", "--is-pairwise-dataset", "--load-checkpoint-loosely"),
    "dpo": ("--stage", "dpo"),
}
DPO_RUNNERS = {"trl": HERE / "peers" / "trl_dpo_runner.py", "plain_loop": HERE / "plain_dpo_loop.py"}


@dataclass
class Run:
    """What one process left: values of every step, and its peak memory."""

    seconds: list[float]
    losses: list[float]
    flops: list[float]
    peak_memory_mb: float


@dataclass(frozen=True)
class Setting:
    """What all processes are given."""

    arguments: argparse.Namespace
    work: Path
    model: Path
    examples: list[Example]

    @property
    def data(self) -> Path:
        """Prefix of the preprocessed pairs."""
        return self.work / "pairs"

    @property
    def adapter(self) -> Path:
        """With --lora, what all start from."""
        return self.work / "adapter"

    @property
    def share_of_flops(self) -> float:
        """Of those of training all weights; without weight gradients two of three products are left."""
        return 2 / 3 if self.arguments.lora else 1.0

    @property
    def pairs(self) -> Path:
        """The same pairs as token ids, for the runners."""
        return self.work / "pairs.json"

    @property
    def pairs_of_a_step(self) -> int:
        """Of every two responses of a prompt one."""
        return int(self.arguments.batch_size) * math.comb(self.arguments.responses, 2)

    def step_examples(self, step: int) -> list[Example]:
        size = self.arguments.batch_size
        return self.examples[step * size : (step + 1) * size]

    def step_tokens(self, step: int) -> int:
        """Real tokens: every response with its prompt."""
        examples = self.step_examples(step)
        return sum(len(response.input_ids) for example in examples for response in example.responses)


def run_ours(setting: Setting, name: str) -> Run:
    arguments = setting.arguments
    rows, peak = run_trainer(
        [
            *("--load", str(setting.model), *STAGE_WORDS[arguments.stage]),
            *("--data-path", str(setting.data), "--no-shuffle", "--seq-length", str(SEQ_LENGTH)),
            *("--global-batch-size", str(arguments.batch_size)),
            *("--max-tokens-per-micro-batch", str(arguments.max_tokens_per_micro_batch)),
            *(
                "--lr",
                arguments.lr,
                "--lr-decay-style",
                "constant",
                "--weight-decay",
                "0",
                "--clip-grad",
                "1",
            ),
            *([] if name == "shared" else ["--no-prefix-sharing"]),
            *("--compile", arguments.compile),
            *(["--bf16"] if arguments.device == "cuda" else []),
            *(["--recompute-granularity", "full"] if arguments.recompute else []),
            *(["--load-adapter", str(setting.adapter)] if arguments.lora else []),
            *arguments.trainer_flags,
        ],
        num_steps=arguments.steps,
        work=setting.work,
        device=arguments.device,
    )
    seconds = [setting.step_tokens(step) / row["tokens_per_second"] for step, row in enumerate(rows)]
    flops = our_flops(setting, share_prefixes=name == "shared") if arguments.stage == "rm" else []
    if "model_flops_per_second" in rows[0]:
        rates = [row["model_flops_per_second"] for row in rows]
        flops = [rate * spent for rate, spent in zip(rates, seconds, strict=True)]
    return Run(seconds, [row["loss"] for row in rows], flops, peak)


def run_runner(setting: Setting, name: str, python: str) -> Run:
    arguments = setting.arguments
    runner = HERE / "peers" / PEERS[name].runner if name in PEERS else HERE / f"{name}.py"
    if arguments.stage == "dpo":
        runner = DPO_RUNNERS[name]
    output = setting.work / f"{name}.json"
    micro_batch_size = arguments.peer_micro_batch_size
    peak = run_measured(
        [
            *(python, str(runner), "--model", str(setting.model), "--pairs", str(setting.pairs)),
            *("--steps", str(arguments.steps), "--batch-size", str(setting.pairs_of_a_step)),
            *("--lr", arguments.lr, "--output", str(output)),
            *(
                ["--micro-batch-size", str(micro_batch_size)]
                if name in ACCUMULATING and micro_batch_size
                else []
            ),
            *device_words(setting),
            *(["--recompute"] if arguments.recompute else []),
            *(["--adapter", str(setting.adapter)] if arguments.lora else []),
        ],
        device=arguments.device,
    )
    result: dict[str, Any] = json.loads(output.read_text())
    return Run(result["seconds"], result["losses"], flops_without_sharing(setting), peak)


def measure_peak(setting: Setting) -> dict[str, float]:
    output = setting.work / "peak.json"
    tokens = str(setting.arguments.max_tokens_per_micro_batch)
    words = ["--model", str(setting.model), "--tokens", tokens, "--output", str(output)]
    run_measured([sys.executable, str(HERE / "matmul_peak.py"), *words, *device_words(setting)])
    rates: dict[str, float] = json.loads(output.read_text())
    return rates


def device_words(setting: Setting) -> list[str]:
    return ["--device", "cuda", "--bf16"] if setting.arguments.device == "cuda" else []


def our_flops(setting: Setting, *, share_prefixes: bool) -> list[float]:
    """Operations of each step, where the last layer computes queries and MLP of scored tokens alone."""
    shape = read_shape(setting.model)
    counts = []
    for step in range(setting.arguments.steps):
        stretches, scored_see = [], []
        for example in setting.step_examples(step):
            prompt = example.responses[0].num_prompt_tokens
            lengths = [len(response.input_ids) for response in example.responses]
            if share_prefixes and has_one_prompt(example):
                stretches.append(Stretch(prompt))
                stretches += [Stretch(length - prompt, prefix=prompt) for length in lengths]
            else:
                stretches += [Stretch(length) for length in lengths]
            scored_see += lengths
        counts.append(setting.share_of_flops * training_flops(shape, stretches, scored_see=scored_see))
    return counts


def flops_without_sharing(setting: Setting) -> list[float]:
    """Operations of each step on real tokens, every layer whole: padding is not counted.

    A response is computed in each of its pairs.
    """
    shape = read_shape(setting.model)
    pairs_of_a_response = setting.arguments.responses - 1
    counts = []
    for step in range(setting.arguments.steps):
        responses = [response for example in setting.step_examples(step) for response in example.responses]
        stretches = [Stretch(len(response.input_ids)) for response in responses]
        num_predicted = 0
        if setting.arguments.stage == "dpo":
            num_predicted = sum(len(one.input_ids) - one.num_prompt_tokens for one in responses)
        flops = setting.share_of_flops * training_flops(shape, stretches) + head_flops(shape, num_predicted)
        counts.append(flops * pairs_of_a_response)
    return counts
