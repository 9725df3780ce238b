"""The reward model and transformers' on the same sequences: hidden states, scores and gradients."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from modellink_rm.dataset.example import Example, Response

# Answer lengths after a prompt of the first length; the last pair has a prompt for each response.
LENGTHS = ((21, 40, 69), (3, 17, 2), (30, 1, 55), (0, 23, 34))
REFERENCE_FILE = "reference.safetensors"


class TinyModel(Protocol):
    """A tiny model of a family, such as a `FamilyCase`."""

    def model(self) -> PreTrainedModel:
        """transformers' model with one label, or one that computes the same."""

    def write(self, directory: Path, tensors: dict[str, torch.Tensor]) -> None:
        """Write a directory of tensors with the names of that model, in the family's own form."""


@dataclasses.dataclass(frozen=True)
class Differences:
    """Largest differences from transformers', relative to the largest value of the same tensor.

    Attributes:
        hidden: of hidden states after the final norm, at scored tokens.
        score: of scores.
        gradient: of the gradient of a step, over all tensors.
        tensor: the name of the tensor whose gradient differs most.
    """

    hidden: float
    score: float
    gradient: float
    tensor: str

    def largest(self) -> float:
        """Of all three."""
        return max(self.hidden, self.score, self.gradient)


def examples() -> list[Example]:
    """Pairs of random ids, most with a prompt that both responses share."""
    generator = np.random.default_rng(5)

    def ids(length: int) -> np.ndarray:
        return generator.integers(3, 320, size=length).astype(np.int32)

    found = []
    for index, (num_prompt_tokens, *answers) in enumerate(LENGTHS):
        prompt = ids(num_prompt_tokens)
        responses = [Response(np.concatenate((prompt, ids(answer))), len(prompt)) for answer in answers]
        found.append(Example(index, tuple(responses)))
    return found


def write_case(case: TinyModel, directory: Path) -> None:
    """The tiny model, and what transformers computes with it: results in a file, gradients as a model."""
    model = case.model()
    case.write(directory, dict(model.state_dict()))
    hidden, losses = [], []
    for example in examples():
        rows = []
        for response in example.responses:
            ids = torch.from_numpy(response.input_ids.astype(np.int64))[None]
            rows.append(model.base_model(ids, use_cache=False).last_hidden_state[0, -1])
        chosen, rejected = model.score(torch.stack(rows))[:, 0]
        losses.append(-functional.logsigmoid(chosen - rejected))
        hidden += rows
    torch.stack(losses).mean().backward()
    results = {"hidden": torch.stack(hidden), "scores": model.score(torch.stack(hidden))[:, 0]}
    save_file({name: result.detach() for name, result in results.items()}, directory / REFERENCE_FILE)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    case.write(directory / "gradients", {name: grad for name, grad in gradients.items() if grad is not None})


def opened_difference(directory: Path) -> float:
    """Of the scores of transformers' own class, opened in `directory/written`, from the reference's."""
    model = AutoModelForSequenceClassification.from_pretrained(directory / "written", dtype=torch.float32)
    expected = load_file(directory / "read" / REFERENCE_FILE)["scores"]
    with torch.no_grad():
        scores = [
            model(torch.from_numpy(response.input_ids.astype(np.int64))[None]).logits[0, 0]
            for example in examples()
            for response in example.responses
        ]
    return _difference(torch.stack(scores), expected)


def differences(directory: str, flags: list[str], share_prefixes: bool, written: str | None) -> Differences:
    """On each rank: those of its part of the model, after one forward and backward pass of one packed batch.

    Args:
        directory: what `write_case` wrote.
        written: directory to write the model into; None for none.
    """
    from modellink_rm.base.flags import parse_flags
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.batching.batch import pack_examples
    from modellink_rm.checkpoint.load import load_model_weights
    from modellink_rm.checkpoint.model_plan import plan_model
    from modellink_rm.checkpoint.source import open_source
    from modellink_rm.config.model import ModelConfig
    from modellink_rm.config.optim import OptimConfig
    from modellink_rm.config.parallel import ParallelConfig
    from modellink_rm.config.precision import PrecisionConfig
    from modellink_rm.model.attention.pieces import held_scores
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels
    from modellink_rm.parallel.groups import process_groups
    from modellink_rm.parallel.pipeline import forward_backward
    from modellink_rm.train.optimizer import wrap_for_training

    groups = (ParallelConfig, ModelConfig, PrecisionConfig)
    parsed = parse_flags(flags, groups, prog="", description="")
    parallel, model, precision = (parsed[group] for group in groups)
    with process_groups(parallel, detect_platform(), seed=1) as ranks:
        plan = plan_model(open_source(directory), model, parallel, loosely=False)
        chunks = build_model(
            plan.spec,
            model=model,
            parallel=parallel,
            precision=precision,
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),
            seed=1,
            initialize=False,
        )
        load_model_weights(chunks, plan.source, ranks)
        found: list[torch.Tensor] = []
        for chunk in chunks:
            if chunk.post_process:
                chunk.rm_head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))
        batch = pack_examples(examples(), divisible_by=4 * ranks.tp_size, share_prefixes=share_prefixes)
        batch = batch.share(rank=ranks.cp_rank, size=ranks.cp_size)

        def loss(scores: torch.Tensor, batch: Any) -> Any:
            losses = -functional.logsigmoid(scores[0::2] - scores[1::2])
            count = batch.num_examples if ranks.cp_rank == 0 else 0
            return losses.sum(), torch.tensor(count, dtype=torch.int), {"scores": scores.detach()}

        wrapped = wrap_for_training(chunks, optim=OptimConfig(), precision=precision)
        batches = [batch] * max(1, len(chunks) * ranks.pp_size)  # interleaved stages want so many
        num_examples = batch.num_examples * len(batches) * ranks.dp_size
        kept = forward_backward(
            wrapped, iter(batches), loss, num_micro_batches=len(batches), num_examples=num_examples
        )
        expected = load_file(Path(directory) / REFERENCE_FILE)
        hidden = score = 0.0
        if kept:
            score = _difference(kept[0]["scores"], expected["scores"])
            positions = held_scores(batch.scored_positions, batch.ranges).positions
            rows = [batch.scored_positions.index(one) for one in positions if one in batch.scored_positions]
            hidden = _difference(found[0][: len(rows)], expected["hidden"][rows], of=expected["hidden"])
        tensor, gradient = _largest_of_gradients(chunks, Path(directory) / "gradients", ranks)
        if written is not None:
            write_directory(chunks, directory, written, ranks)
        return Differences(hidden, score, gradient, tensor)


def _difference(found: torch.Tensor, expected: torch.Tensor, of: torch.Tensor | None = None) -> float:
    """The largest difference, relative to the largest value."""
    scale = (expected if of is None else of).abs().max()
    return float((found - expected).abs().max() / scale) if expected.numel() else 0.0


def _largest_of_gradients(chunks: Any, directory: Path, ranks: Any) -> tuple[str, float]:
    """The tensor whose gradient differs most, and by how much; reads this rank's part of each."""
    from modellink_rm.checkpoint.hf.directory import HuggingFaceWeights
    from modellink_rm.checkpoint.hf.mappings import is_of_expert, tensor_plan
    from modellink_rm.model.spec import HEAD_PREFIX

    weights = HuggingFaceWeights(directory)
    found = {}
    pairs = [pair for chunk in chunks for pair in chunk.global_tensors(lambda one: one.main_grad)]
    for name, gradient in pairs:
        if name.startswith(HEAD_PREFIX):
            head = weights.head()
            assert head is not None
            expected = scale = head[0]
        else:
            spec, table = chunks[0].spec, weights.tensors
            rank, size = ranks.tp_rank, ranks.tp_size
            if is_of_expert(name):
                rank, size = ranks.etp_rank, ranks.etp_size
            plan = tensor_plan(name, spec, table, tp_rank=rank, tp_size=size)
            expected = weights.read(plan, torch.float32)
            whole = [
                tensor_plan(one, spec, table, tp_rank=0, tp_size=1) for one in _of_one_tensor(name, spec)
            ]
            scale = torch.stack([weights.read(plan, torch.float32) for plan in whole])
        found[name] = _difference(gradient, expected, of=scale)
    return max(found.items(), key=lambda item: item[1])


def _of_one_tensor(name: str, spec: Any) -> list[str]:
    """The names of a tensor, or of that of all experts of the layer, which transformers has in one tensor."""
    from modellink_rm.checkpoint.hf.mappings import expert_number, is_of_expert

    if not is_of_expert(name):
        return [name]
    own = f".experts.{expert_number(name)}."
    return [name.replace(own, f".experts.{number}.") for number in range(spec.shape.experts.number)]


def write_directory(chunks: Any, directory: str, written: str, ranks: Any) -> None:
    """Write the model of `chunks` to `written`, with the config.json of `directory`; a collective."""
    import json

    from modellink_rm.checkpoint.hf.contents import Contents
    from modellink_rm.checkpoint.hf.write import finish, write_unfinished

    config = json.loads((Path(directory) / "config.json").read_text())
    contents = Contents(base_config=config, dtype=torch.float32)
    finish(write_unfinished(Path(written), chunks, contents, ranks), Path(written), ranks)
