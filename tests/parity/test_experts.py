"""A training step of models with experts equals transformers': scores, gradients, losses of the routers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from modellink_rm.dataset.example import Example, Response
from tests.distributed import Workers
from tests.marks import full
from tests.parity.comparison import write_directory
from tests.tiny_models import write_tiny_gpt_oss, write_tiny_mixtral, write_tiny_qwen2_moe

FAMILIES: dict[str, Callable[..., Any]] = {
    "mixtral": write_tiny_mixtral,
    "qwen2_moe": write_tiny_qwen2_moe,
    "gpt_oss": write_tiny_gpt_oss,
}
# Large, so that a gradient of the routers' losses that is wrong or left out shows.
BALANCED = {"aux": 2.0, "z": 0.3}
EP2 = "--expert-model-parallel-size 2"
ETP2 = "--expert-tensor-parallel-size 2"
TP2_SP = "--tensor-model-parallel-size 2 --sequence-parallel"
PP2 = "--pipeline-model-parallel-size 2"
CASES = {
    "one_process": (1, ""),
    "prompts_apart": (1, ""),
    "tp2": (2, "--tensor-model-parallel-size 2"),
    "tp2_sp": (2, TP2_SP),
    "pp2": (2, PP2),
    "vpp2": (2, f"{PP2} --num-layers-per-virtual-pipeline-stage 1"),
    "cp2": (2, "--context-parallel-size 2"),
    "ep2": (2, EP2),
    "etp2": (2, ETP2),
    "tp2_ep2": (2, f"--tensor-model-parallel-size 2 {EP2}"),
    "tp2_sp_ep2": (2, f"{TP2_SP} {EP2}"),
    "tp2_sp_etp2": (2, f"{TP2_SP} {ETP2}"),
    "cp2_ep2_etp2": (4, f"--context-parallel-size 2 {EP2} {ETP2}"),
    "pp2_tp2_sp_ep2": (4, f"{PP2} {TP2_SP} {EP2}"),
}
QUICK = {("mixtral", "one_process"), ("qwen2_moe", "one_process"), ("qwen2_moe", "pp2"), ("mixtral", "ep2")}


def examples() -> list[Example]:
    """Pairs with prompts of their own; the last has two equal responses."""
    generator = np.random.default_rng(11)

    def ids(length: int) -> np.ndarray:
        return generator.integers(3, 320, size=length).astype(np.int32)

    found = []
    for prompt_length, lengths in ((7, (5, 9)), (3, (12, 2)), (9, (4, 4))):
        prompt, answers = ids(prompt_length), [ids(length) for length in lengths]
        answers[1] = answers[0] if prompt_length == 9 else answers[1]
        responses = tuple(Response(np.concatenate([prompt, answer]), prompt_length) for answer in answers)
        found.append(Example(len(found), responses, ranks=(1, 2)))
    return found


def step(
    directory: str, gradients: str, flags: list[str], losses: dict[str, float], shares_prefixes: bool
) -> tuple[list[float], list[float]]:
    """On each rank (scores, sums of the routers' losses) of a step over two micro-batches of a replica.

    Args:
        gradients: a directory to write, with the gradients in the place of the weights.
    """
    from modellink_rm.base.flags import parse_flags
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.batching.batch import pack_examples
    from modellink_rm.checkpoint.load import build_and_load_model
    from modellink_rm.checkpoint.model_plan import plan_model
    from modellink_rm.checkpoint.source import open_source
    from modellink_rm.config.model import ModelConfig
    from modellink_rm.config.optim import OptimConfig
    from modellink_rm.config.parallel import ParallelConfig
    from modellink_rm.config.precision import PrecisionConfig
    from modellink_rm.model.config import Kernels
    from modellink_rm.objective.choice import choose_objective
    from modellink_rm.parallel.groups import process_groups
    from modellink_rm.parallel.pipeline import forward_backward
    from modellink_rm.train.optimizer import wrap_for_training
    from modellink_rm.train.step import StepLoss

    parallel = parse_flags(flags, (ParallelConfig,), prog="", description="")[ParallelConfig]
    model = ModelConfig(
        make_vocab_size_divisible_by=1,
        router_aux_loss_coef=losses.get("aux"),
        router_z_loss_coef=losses.get("z"),
    )
    with process_groups(parallel, detect_platform(), seed=1) as ranks:
        plan = plan_model(open_source(directory), model, parallel, loosely=False)
        chunks = build_and_load_model(
            plan,
            model=model,
            parallel=parallel,
            precision=PrecisionConfig(),
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),
            seed=1,
            ranks=ranks,
        )
        wrapped = wrap_for_training(chunks, optim=OptimConfig(), precision=PrecisionConfig())
        for chunk in wrapped:
            chunk.zero_grad_buffer()
        outputs: list[torch.Tensor] = []
        chunks[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
        parts = [examples()[:2], examples()[2:]]
        if ranks.dp_size > 1:
            parts = [parts[ranks.dp_rank], []]
        batches = [
            pack_examples(
                part, divisible_by=parallel.tokens_divisible_by(), share_prefixes=shares_prefixes
            ).share(rank=ranks.cp_rank, size=ranks.cp_size)
            for part in parts
        ]
        loss = StepLoss(objective=choose_objective("sigmoid"), counts_examples=ranks.cp_rank == 0)
        forward_backward(
            wrapped, iter(batches), loss, num_micro_batches=len(batches), num_examples=len(examples())
        )
        assert chunks[-1].router_sums is not None
        sums = chunks[-1].router_sums.take()
        assert sums is not None
        with torch.no_grad():
            for parameter in (parameter for chunk in chunks for parameter in chunk.parameters()):
                parameter.copy_(parameter.main_grad)
        write_directory(chunks, directory, gradients, ranks)
        if not ranks.reports_scores:
            return [], []
        return torch.cat(outputs).tolist(), sums[:2].tolist()


def transformers_step(model: Any, losses: dict[str, float]) -> tuple[list[float], list[float]]:
    """(scores, sums of the routers' losses) of transformers; the gradients are left in the model.

    Each pair is a batch. Its responses are computed one by one, so without padding, and the routers' losses
    are those of all their logits together.
    """
    scores: list[torch.Tensor] = []
    total, router_losses = torch.zeros(()), torch.zeros(2, dtype=torch.float64)
    for example in examples():
        logits: list[tuple[torch.Tensor, ...]] = []
        for response in example.responses:
            ids = torch.from_numpy(response.input_ids.astype(np.int64))[None]
            output = model.model(ids, output_router_logits=True)
            logits.append(output.router_logits)
            scores.append(model.score(output.last_hidden_state[0, -1])[0])
        by_layer = tuple(torch.cat(parts) for parts in zip(*logits, strict=True))
        num_experts = by_layer[0].shape[1]
        balance = load_balancing_loss_func(by_layer, num_experts, model.config.num_experts_per_tok)
        squares = torch.cat(by_layer).logsumexp(dim=-1).square().mean()
        pair = -torch.nn.functional.logsigmoid(scores[-2] - scores[-1])
        total = total + pair + losses.get("aux", 0.0) * balance + losses.get("z", 0.0) * squares
        router_losses += torch.tensor([float(balance), float(squares)])
    (total / len(examples())).backward()
    return [float(score) for score in scores], router_losses.tolist()


def tensors_in(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every file; each pipeline stage writes files of its own."""
    files = directory.glob("*.safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("losses", [{}, BALANCED], ids=["plain", "balanced"])
@pytest.mark.parametrize(
    ("family", "case"),
    [
        (family, case) if (family, case) in QUICK else full(family, case)
        for family in FAMILIES
        for case in CASES
        if family != "gpt_oss" or ETP2 not in CASES[case][1]
    ],
)
def test_step_equals_transformers(
    family: str, case: str, losses: dict[str, float], workers: Workers, tmp_path: Path
) -> None:
    reference = FAMILIES[family](tmp_path / "model", kind="score")
    world_size, flags = CASES[case]
    arguments = [str(tmp_path / "model"), str(tmp_path / "gradients"), flags.split(), losses]
    found = workers.run(step, world_size, *arguments, case != "prompts_apart")
    scores, router_losses = transformers_step(reference, losses)
    ours = [part for part in found if part[0]]
    assert [score for part in ours for score in part[0]] == pytest.approx(scores, abs=1e-5)
    if losses:
        total = np.sum([part[1] for part in ours], axis=0)
        assert total == pytest.approx(router_losses, rel=1e-5)
    for parameter in reference.parameters():
        parameter.data.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    reference.save_pretrained(tmp_path / "expected")
    got, expected = (tensors_in(tmp_path / name) for name in ("gradients", "expected"))
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        # Relative to the largest entry; a gradient that is 0 is rounding alone.
        assert (got[name] - gradient).abs().max() <= 1e-5 * max(float(gradient.abs().max()), 0.1), name
