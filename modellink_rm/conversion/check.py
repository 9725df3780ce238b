"""The last check of an export: transformers scores what was written, and the scores are the checkpoint's."""

import itertools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.base.launcher import module_as_child
from modellink_rm.base.log import info
from modellink_rm.conversion.samples import Sample

TOLERANCE = 1e-4
# bfloat16 keeps 8 bits of a number and float16 11; each layer of either program rounds, in its own order.
_RELATIVE = {torch.bfloat16: 5e-2, torch.float16: 1e-2}
# Of torchrun: in the new process they would ask for a group of processes.
_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def check_scores(
    directory: Path,
    samples: Sequence[Sample],
    expected: Sequence[Sequence[float]],
    *,
    dtypes: Sequence[torch.dtype],
    rendered: Sequence[int],
    is_language_model: bool = False,
) -> None:
    """Compare transformers' scores of a written directory with the checkpoint's.

    The scores of a language model are mean log-probabilities of tokens.

    In float32 they may differ by 1e-4. Where the checkpoint or the directory is of fewer bits, by 5e-2
    (bfloat16) or 1e-2 (float16) of the largest score, or of 1 where that is larger.

    Args:
        expected: the checkpoint's outputs of each sample: its score, or one for each attribute; of a sample
            in steps the score of each step, one after the other.
        dtypes: in which `expected` was computed, and in which the directory is written.
        rendered: indices of the samples that the chat template must give their ids.

    Raises:
        UserError: a score differs by more, or the ids do; or transformers cannot open the directory; or the
            checkpoint's own scores are not finite.
    """
    flat = list(itertools.chain.from_iterable(expected))
    if not np.isfinite(flat).all():
        raise UserError(
            "the checkpoint's own scores are not finite: nothing is written; export an earlier checkpoint"
        )
    request = {
        "samples": [sample.to_json() for sample in samples],
        "rendered": list(rendered),
        "is_language_model": is_language_model,
    }
    answer = _in_another_process(directory, json.dumps(request))
    if answer["problems"]:
        names = ", ".join(answer["problems"][:3])
        raise UserError(
            f"transformers does not find the tensors that it expects in what was written: {names}"
        )
    if answer["different"]:
        messages = samples[answer["different"][0]].messages
        raise UserError(
            f"the written chat template gives other ids than training's to {messages[0]['content']!r}"
        )
    scale = max(1.0, *map(abs, flat))
    tolerance = max(TOLERANCE, *(_RELATIVE.get(dtype, 0.0) * scale for dtype in dtypes))
    largest = 0.0
    for how, scores in (("in a padded batch", answer["together"]), ("alone", answer["alone"])):
        found = itertools.chain.from_iterable(scores)
        # numpy's: the maximum of python passes over NaN.
        difference = float(np.max([abs(one - two) for one, two in zip(found, flat, strict=True)]))
        if not difference <= tolerance:
            raise UserError(
                f"transformers scores {how} differ by {difference:.2g} from the checkpoint's, more than "
                f"{tolerance:.2g}: nothing is written; please report this with the checkpoint's run.json"
            )
        largest = max(largest, difference)
    info(
        f"transformers gives the {len(samples)} samples the checkpoint's scores, within {largest:.2g} "
        f"(allowed: {tolerance:.2g})"
    )


def _in_another_process(directory: Path, request: str) -> dict[str, Any]:
    """The answer of `transformers_scores.py`, which ends with this process."""
    words, environment = module_as_child("modellink_rm.conversion.transformers_scores")
    environment = {
        name: value
        for name, value in environment.items()
        if name not in _DISTRIBUTED and not name.startswith("TORCHELASTIC")
    }
    done = subprocess.run(
        [*words, str(directory)],
        input=request,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise UserError(f"transformers cannot score what was written: {lines[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
