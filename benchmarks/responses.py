"""Forward and backward passes of the model for any number of responses to a prompt: run by growth.py.

Words after `--` go to the trainer: the model, and how its micro-batches are packed.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modellink_rm.base.platform import detect_platform
from modellink_rm.batching.batch import pack_examples
from modellink_rm.commands.train import run_config
from modellink_rm.dataset.example import Example, Response
from modellink_rm.parallel.groups import process_groups
from modellink_rm.parallel.pipeline import forward_backward
from modellink_rm.train.plan import plan_run
from modellink_rm.train.trainer import build_train_state, kernels_of

NUM_PROMPTS, PROMPT_TOKENS, ANSWER_TOKENS = 2, 512, 128
NUM_PASSES = 4  # the first is not timed
VOCAB_SIZE = 32000


def main() -> None:
    at = sys.argv.index("--")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--responses", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(sys.argv[1:at])
    run = ["--stage", "rm", "--is-pairwise-dataset", "--split", "100,0,0", "--train-iters", "1"]
    config = run_config([*run, *sys.argv[at + 1 :]])
    plan = plan_run(config, world_size=1)
    platform = detect_platform()
    examples = random_examples(arguments.responses)
    batch = pack_examples(examples, share_prefixes=config.data.prefix_sharing)
    seconds = []
    with process_groups(config.parallel, platform, seed=config.training.seed) as ranks:
        state = build_train_state(plan, kernels_of(plan, platform), ranks)
        for _ in range(NUM_PASSES):
            started = time.perf_counter()
            forward_backward(
                state.model, iter([batch]), ranking_loss, num_micro_batches=1, num_examples=len(examples)
            )
            platform.synchronize()
            seconds.append(time.perf_counter() - started)
    result = {
        "seconds": seconds[1:],
        "tokens": batch.num_tokens,
        "computed_tokens": batch.num_computed_tokens,
    }
    arguments.output.write_text(json.dumps(result))


def random_examples(num_responses: int) -> list[Example]:
    generator = np.random.default_rng(3)
    examples = []
    for index in range(NUM_PROMPTS):
        prompt = generator.integers(3, VOCAB_SIZE, size=PROMPT_TOKENS)
        answers = generator.integers(3, VOCAB_SIZE, size=(num_responses, ANSWER_TOKENS))
        responses = [np.concatenate([prompt, answer]).astype(np.int32) for answer in answers]
        examples.append(Example(index, tuple(Response(ids, PROMPT_TOKENS) for ids in responses)))
    return examples


def ranking_loss(scores: Tensor, batch: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Each response against the next one, as a loss that sees every score."""
    margins = (scores.view(NUM_PROMPTS, -1)[:, :-1] - scores.view(NUM_PROMPTS, -1)[:, 1:]).float()
    loss = -torch.nn.functional.logsigmoid(margins).sum()
    return loss, torch.tensor(NUM_PROMPTS, dtype=torch.int, device=scores.device), {}


if __name__ == "__main__":
    main()
