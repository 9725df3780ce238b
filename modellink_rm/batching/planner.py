"""The division of a global batch over replicas and into micro-batches."""

from collections.abc import Sequence

from modellink_rm.batching.batch import has_one_prompt
from modellink_rm.dataset.example import Example

# The number of seen tokens at which attention costs a token as much as its linear layers: 12 h^2
# multiplications in a Llama-shaped layer, against 2 h per seen token, at h around 4096 (h / 6,
# rounded). A rough figure is enough, because it is only used for balancing.
TOKENS_OF_EQUAL_COST = 24_000


def computed_tokens(example: Example, *, share_prefixes: bool) -> int:
    """Tokens that the model computes for an example."""
    lengths = [len(response.input_ids) for response in example.responses]
    if not (share_prefixes and has_one_prompt(example)):
        return sum(lengths)
    return sum(lengths) - (len(lengths) - 1) * example.responses[0].num_prompt_tokens


def estimated_cost(example: Example, *, share_prefixes: bool) -> float:
    """Cost of an example, attention included, in units of one token's linear layers."""
    tokens = computed_tokens(example, share_prefixes=share_prefixes)
    seen = sum(len(response.input_ids) ** 2 for response in example.responses) / 2
    return tokens + seen / TOKENS_OF_EQUAL_COST


def plan_replicas(examples: Sequence[Example], num_replicas: int, *, share_prefixes: bool) -> list[list[int]]:
    """Indices into `examples` for each replica, of about equal cost, in the order of the batch.

    Longest first, each example goes to the replica with the lowest cost so far (Graham 1969, longest
    processing time). With at least as many examples as replicas, every replica gets one.
    """
    costs = [estimated_cost(example, share_prefixes=share_prefixes) for example in examples]
    loads = [0.0] * num_replicas
    shares: list[list[int]] = [[] for _ in range(num_replicas)]
    for position in sorted(range(len(examples)), key=lambda position: (-costs[position], position)):
        replica = min(range(num_replicas), key=lambda number: (loads[number], number))
        loads[replica] += costs[position]
        shares[replica].append(position)
    return [sorted(share) for share in shares]


def plan_micro_batches(
    examples: Sequence[Example],
    positions: Sequence[int],
    max_tokens: int,
    *,
    share_prefixes: bool,
    multiple_of: int = 1,
) -> list[list[int]]:
    """Micro-batches of about equal size, of at most `max_tokens`; a longer example gets its own.

    First fit, longest first, gives their number; then each example goes to the smallest micro-batch that
    it fits into.

    Args:
        multiple_of: the number of micro-batches is a multiple of this: there are more and smaller ones, and
            empty ones at the end if there are not enough examples.
    """
    sizes = {
        position: computed_tokens(examples[position], share_prefixes=share_prefixes) for position in positions
    }
    longest_first = sorted(positions, key=lambda position: (-sizes[position], position))
    number = len(_fill(longest_first, sizes, max_tokens, number=None))
    batches = _fill(longest_first, sizes, max_tokens, number=number)
    while len(batches) % multiple_of and len(batches) < len(positions):
        number = len(batches) + -len(batches) % multiple_of
        batches = _fill(longest_first, sizes, max_tokens, number=number)
    empty: list[list[int]] = [[]] * (-len(batches) % multiple_of)
    return sorted(sorted(batch) for batch in batches) + empty


def _fill(
    positions: Sequence[int], sizes: dict[int, int], max_tokens: int, *, number: int | None
) -> list[list[int]]:
    """Micro-batches by first fit; with a given number by fewest tokens, and more if one is needed."""
    batches: list[list[int]] = [[] for _ in range(number or 0)]
    loads = [0] * len(batches)
    for position in positions:
        fitting = [
            index for index, load in enumerate(loads) if load + sizes[position] <= max_tokens or not load
        ]
        if not fitting:
            batches.append([position])
            loads.append(sizes[position])
            continue
        index = fitting[0] if number is None else min(fitting, key=lambda index: (loads[index], index))
        batches[index].append(position)
        loads[index] += sizes[position]
    return [batch for batch in batches if batch]
