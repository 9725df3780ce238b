"""Truncation of a prompt and its responses to the sequence length, at training time."""

import numpy as np
from numpy.typing import NDArray

from modellink_rm.dataset.example import Response

MODES = ("right", "keep-ends")


def lengths_to_keep(num_prompt: int, num_response: int, cutoff: int) -> tuple[int, int]:
    """(prompt tokens, response tokens) to keep of a prompt and its longest response.

    LLaMA-Factory 0.9's `infer_seqlen` (src/llamafactory/data/processor/processor_utils.py), with the same
    order of floating-point operations, on which the result for (2070, 1530, 3000) depends.
    """
    if num_response * 2 < cutoff:
        most = cutoff
    elif num_prompt * 2 < cutoff:
        most = cutoff - num_prompt
    else:
        most = int(cutoff * (num_response / (num_prompt + num_response)))
    kept_response = min(most, num_response)
    return min(max(cutoff - kept_response, 0), num_prompt), kept_response


def truncate(
    responses: tuple[Response, ...], seq_length: int, mode: str, num_closing_tokens: int
) -> tuple[tuple[Response, ...], bool]:
    """The responses of an example, none above `seq_length` tokens with its prompt, and whether any was cut.

    The lengths to keep are computed from the longest prompt and the longest response, so that a shared
    prompt remains shared. A response in steps loses its last tokens alone, as in TRL 1.0's PRMTrainer, so
    that the scores of the steps that are left stay what they are.

    Args:
        responses: of one prompt.
        seq_length: most tokens of a prompt and a response together.
        mode: "right" cuts both at the right; "keep-ends" cuts the middle of a prompt, and a response before
            its closing tokens.
        num_closing_tokens: tokens that the template adds after a response's text.
    """
    assert mode in MODES, mode
    if all(len(response.input_ids) <= seq_length for response in responses):
        return responses, False
    if any(response.step_ends is not None for response in responses):
        return tuple(_first_tokens(response, seq_length) for response in responses), True
    num_prompt, num_response = lengths_to_keep(
        max(response.num_prompt_tokens for response in responses),
        max(len(response.input_ids) - response.num_prompt_tokens for response in responses),
        seq_length,
    )
    kept = []
    for response in responses:
        prompt = response.input_ids[: response.num_prompt_tokens]
        answer = response.input_ids[response.num_prompt_tokens :]
        if mode == "right":
            prompt, answer = prompt[:num_prompt], answer[:num_response]
        else:
            prompt = _without_middle(prompt, num_prompt, num_prompt - num_prompt // 2)
            answer = _without_middle(answer, num_response, min(num_closing_tokens, num_response))
        kept.append(Response(input_ids=np.concatenate([prompt, answer]), num_prompt_tokens=len(prompt)))
    return tuple(kept), True


def _without_middle(ids: NDArray[np.int32], num_kept: int, num_last: int) -> NDArray[np.int32]:
    """`num_kept` of the ids: the last `num_last`, and the first ones for the rest."""
    if len(ids) <= num_kept:
        return ids
    return np.concatenate([ids[: num_kept - num_last], ids[len(ids) - num_last :]])


def _first_tokens(response: Response, num_kept: int) -> Response:
    """The first tokens of a prompt and its response, with the steps that end among them."""
    ends = tuple(end for end in response.step_ends or () if end < num_kept)
    return Response(
        input_ids=response.input_ids[:num_kept],
        num_prompt_tokens=min(response.num_prompt_tokens, num_kept),
        step_ends=ends,
        step_labels=response.step_labels[: len(ends)],
    )
