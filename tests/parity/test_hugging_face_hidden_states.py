"""The hidden state at the scored token equals transformers', before the final norm and after it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modellink_rm.dataset.example import Example, Response
from tests.distributed import Workers
from tests.tiny_models import write_tiny_chatglm, write_tiny_llama

FAMILIES: dict[str, Callable[..., Any]] = {"llama": write_tiny_llama, "chatglm": write_tiny_chatglm}
LENGTHS = ((13, 29), (1, 40), (7, 7))


def examples() -> list[Example]:
    """Three pairs of random ids."""
    generator = np.random.default_rng(5)
    return [
        Example(
            index,
            tuple(
                Response(generator.integers(3, 320, size=length).astype(np.int32), 1) for length in lengths
            ),
        )
        for index, lengths in enumerate(LENGTHS)
    ]


def hidden_states_at_scored_tokens(directory: str, flags: list[str]) -> list[np.ndarray]:
    """Rows [6, hidden] on each rank, before and after the final norm, of one packed batch."""
    import os

    from modellink_rm.base.flags import parse_flags
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.batching.batch import pack_examples
    from modellink_rm.checkpoint.load import load_model_weights
    from modellink_rm.checkpoint.model_plan import plan_model
    from modellink_rm.checkpoint.source import open_source
    from modellink_rm.config.model import ModelConfig
    from modellink_rm.config.parallel import ParallelConfig
    from modellink_rm.config.precision import PrecisionConfig
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels
    from modellink_rm.parallel.groups import process_groups

    parallel = parse_flags(flags, (ParallelConfig,), prog="", description="")[ParallelConfig]
    divisible_by = int(os.environ["WORLD_SIZE"])
    rows = []
    with process_groups(parallel, detect_platform(), seed=1) as ranks, torch.no_grad():
        for post_layer_norm in (False, True):
            model = ModelConfig(post_layer_norm=post_layer_norm, make_vocab_size_divisible_by=1)
            plan = plan_model(open_source(directory), model, parallel, loosely=True)
            (built,) = build_model(
                plan.spec,
                model=model,
                parallel=parallel,
                precision=PrecisionConfig(),
                kernels=Kernels(attention="sdpa", compiles_elementwise=False),
                seed=1,
                initialize=False,
            )
            load_model_weights([built], plan.source, ranks)
            found: list[torch.Tensor] = []
            built.rm_head.register_forward_pre_hook(lambda _, inputs, found=found: found.append(inputs[0]))
            built.eval()(pack_examples(examples(), divisible_by=divisible_by))
            rows.append(found[0].numpy())
    return rows


@pytest.mark.parametrize("flags", ["", "--tensor-model-parallel-size 2 --sequence-parallel"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_state_at_scored_token_equals_transformers(
    family: str, flags: str, workers: Workers, tmp_path: Path
) -> None:
    reference = FAMILIES[family](tmp_path)
    before_norm: list[torch.Tensor] = []
    reference.model.norm.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0][0, -1]))
    after_norm = []
    with torch.no_grad():
        for example in examples():
            for response in example.responses:
                ids = torch.from_numpy(response.input_ids.astype(np.int64))[None]
                after_norm.append(reference.model(ids).last_hidden_state[0, -1])
    for rows in workers.run(hidden_states_at_scored_tokens, 2 if flags else 1, str(tmp_path), flags.split()):
        torch.testing.assert_close(torch.from_numpy(rows[0]), torch.stack(before_norm), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.from_numpy(rows[1]), torch.stack(after_norm), atol=1e-5, rtol=1e-5)
