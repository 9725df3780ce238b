"""Batched generation by transformers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, logging
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from modellink_rm.base.errors import UserError, listed
from modellink_rm.base.log import info
from modellink_rm.base.platform import num_gpus, why_no_gpu
from modellink_rm.config.generate import SamplingConfig
from modellink_rm.generation.engine import Request
from modellink_rm.records import shortened

_BATCHES_AT_ONCE = 4  # sorted by length together


class TransformersEngine:
    """A model opened by transformers, which answers prompts in batches of similar length.

    Prompts are padded on the left. Each answer draws its tokens with numbers of its own, so that it does not
    depend on the batch, up to rounding.

    Raises:
        UserError: transformers cannot open the directory, or it holds no language-model head.
    """

    def __init__(
        self,
        directory: Path,
        sampling: SamplingConfig,
        *,
        end_ids: Sequence[int],
        batch_size: int,
        trust_remote_code: bool,
    ) -> None:
        obstacle = why_no_gpu()
        if obstacle is not None:
            raise UserError(obstacle)
        device = torch.device("cuda", 0) if num_gpus() else torch.device("cpu")
        self._model = _opened(directory, trust_remote_code=trust_remote_code).to(device).eval()
        self._device = device
        self._sampling = sampling
        self._end_ids = frozenset(end_ids)
        self._pad_id = end_ids[0] if end_ids else 0  # masked
        self._batch_size = batch_size
        self.requests_at_once = _BATCHES_AT_ONCE * batch_size
        # The directory's own would fill in what this one leaves open, a penalty for repetition say.
        self._model.generation_config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=list(end_ids) or None,
            pad_token_id=self._pad_id,
        )
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        dtype = str(self._model.dtype).removeprefix("torch.")
        info(f"{directory}: {dtype} on {name}, {batch_size} answers at a time")

    @torch.inference_mode()
    def token_ids(self, requests: Sequence[Request]) -> list[list[int] | None]:
        """The new tokens of each request; those after the end of an answer are padding.

        None where the model's logits are no numbers.
        """
        found: dict[int, list[int] | None] = {}
        for places in self._batches(requests):
            batch = [requests[place] for place in places]
            found |= zip(places, self._generated(batch), strict=True)
        return [found[place] for place in range(len(requests))]

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Places of requests of similar length, the longest first: memory that suffices once suffices."""
        order = sorted(range(len(requests)), key=lambda place: -len(requests[place].prompt_ids))
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    def _generated(self, batch: Sequence[Request]) -> list[list[int] | None]:
        longest = max(len(request.prompt_ids) for request in batch)
        ids = torch.full((len(batch), longest), self._pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(batch):
            ids[row, longest - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids, dtype=torch.long)
            mask[row, longest - len(request.prompt_ids) :] = 1
        usable = UsableSteps(len(batch), self._device)
        made = self._model.generate(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            logits_processor=LogitsProcessorList(self._processors(batch, usable)),
        )
        return [
            new if self._num_steps(new) <= count else None
            for new, count in zip(made[:, longest:].tolist(), usable.counts.tolist(), strict=True)
        ]

    def _num_steps(self, ids: Sequence[int]) -> int:
        """How many steps an answer took, that of its end included."""
        return next((step for step, index in enumerate(ids, start=1) if index in self._end_ids), len(ids))

    def _processors(self, batch: Sequence[Request], usable: "UsableSteps") -> Iterator[LogitsProcessor]:
        """What is done to the logits before the largest is taken."""
        sampling = self._sampling
        if sampling.is_greedy:
            yield usable
            return
        if sampling.temperature != 1:
            yield TemperatureLogitsWarper(sampling.temperature)
        if sampling.top_k:
            yield TopKLogitsWarper(sampling.top_k)
        if sampling.top_p < 1:
            yield TopPLogitsWarper(sampling.top_p)
        yield usable
        numbers = [request.random_numbers(sampling.max_new_tokens) for request in batch]
        yield DrawnToken(torch.from_numpy(np.array(numbers)).to(self._device))


class UsableSteps(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Counts each row's steps before the first whose logits are no numbers: what follows means nothing.

    Attributes:
        counts: int64 [b], on the device, so that no step waits for it.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self._is_usable = torch.ones(num_rows, dtype=torch.bool, device=device)
        self.counts = torch.zeros(num_rows, dtype=torch.int64, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The logits [b, v] as they are."""
        self._is_usable &= scores.amax(dim=1).isfinite()  # NaN where one is, -inf where all are
        self.counts += self._is_usable
        return scores


class DrawnToken(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Leaves one token of each row, drawn with the row's own random number.

    transformers draws a whole batch from one stream of random numbers: an answer would depend on the others.

    Args:
        numbers: float64 [b, most new tokens] in [0, 1).
    """

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers
        self._num_drawn = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [b, v], of which one a row is finite: where the cumulative probability passes the number."""
        cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
        level = self._numbers[:, self._num_drawn, None] * cumulative[:, -1:]
        self._num_drawn += 1
        drawn = torch.searchsorted(cumulative, level, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def _opened(directory: Path, *, trust_remote_code: bool) -> Any:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # transformers raises whatever a model's own code raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"--load {directory}: transformers cannot open it as a language model: {shortened(lines[0])}"
        ) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"--load {directory} lacks {listed(missing)}: --load of generate takes a model with its "
            "language-model head, and a reward model has none"
        )
    return model
