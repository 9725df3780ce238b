"""Examples of equal prompts as one example, so that their prompt is computed once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modellink_rm.batching.batch import has_one_prompt, prompt_ids
from modellink_rm.dataset.example import Example, Response

# Of a prompt with so many responses that several forward passes are needed, every pass computes the prompt:
# at most one of so many tokens is then the prompt's.
_PROMPTS_OF_A_PASS = 8


@dataclass(frozen=True, slots=True)
class MergedExample:
    """An example to compute, and where the scores of its responses belong.

    Attributes:
        places: of each response, the index of its example and its index in that example.
    """

    example: Example
    places: tuple[tuple[int, int], ...]


def merge_prompts(examples: Sequence[Example], *, max_tokens: int) -> list[MergedExample]:
    """Examples whose `index` is their place in this list, each of one prompt wherever it has only one.

    Args:
        max_tokens: tokens of one forward pass; responses of one prompt that together are longer are several
            examples.
    """
    groups: dict[bytes, list[tuple[int, int]]] = {}
    apart: list[list[tuple[int, int]]] = []
    for number, example in enumerate(examples):
        places = [(number, place) for place in range(len(example.responses))]
        if has_one_prompt(example):
            groups.setdefault(prompt_ids(example.responses[0]).tobytes(), []).extend(places)
        else:
            apart.append(places)
    parts = [part for places in groups.values() for part in _parts(examples, places, max_tokens)]
    return [
        MergedExample(
            Example(index, tuple(_response(examples, place) for place in places)),
            tuple(places),
        )
        for index, places in enumerate([*parts, *apart])
    ]


def _parts(
    examples: Sequence[Example], places: Sequence[tuple[int, int]], max_tokens: int
) -> Iterator[list[tuple[int, int]]]:
    """Responses of one prompt, in parts that with their prompt are not longer than a forward pass."""
    num_prompt_tokens = _response(examples, places[0]).num_prompt_tokens
    limit = max(max_tokens, _PROMPTS_OF_A_PASS * num_prompt_tokens)
    part: list[tuple[int, int]] = []
    num_tokens = num_prompt_tokens
    for place in places:
        length = len(_response(examples, place).input_ids) - num_prompt_tokens
        if part and num_tokens + length > limit:
            yield part
            part, num_tokens = [], num_prompt_tokens
        part.append(place)
        num_tokens += length
    yield part


def _response(examples: Sequence[Example], place: tuple[int, int]) -> Response:
    return examples[place[0]].responses[place[1]]
