"""Global batches, prepared ahead of the steps that use them."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from modellink_rm.base.platform import Platform
from modellink_rm.batching.batch import Batch
from modellink_rm.batching.head_dropout import HeadDropout
from modellink_rm.batching.micro_batches import Packing, micro_batches_of
from modellink_rm.dataset.blend import Part
from modellink_rm.dataset.order import Order
from modellink_rm.parallel.groups import Ranks

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class GlobalBatches:
    """The global batches of a run, each determined by the number of samples before it alone.

    Attributes:
        part: the examples to train on.
        batch_size: examples of one step over all replicas.
        head_dropout: of the run, if it has some.
    """

    part: Part
    order: Order
    batch_size: int
    packing: Packing
    ranks: Ranks
    platform: Platform
    head_dropout: HeadDropout | None = None

    def after(self, consumed_samples: int) -> list[Batch]:
        """This replica's micro-batches of the next global batch, in (pinned) host memory.

        Raises:
            UserError: a row is damaged.
        """
        indices = self.order.samples(consumed_samples, consumed_samples + self.batch_size)
        _, batches = micro_batches_of(
            [self.part[index] for index in indices],
            self.packing,
            self.ranks,
            head_dropout=self.head_dropout,
            consumed_samples=consumed_samples,
        )
        return [batch.with_tensors(self.platform.pinned) for batch in batches]


@contextmanager
def prefetch(
    make: Callable[[int], Item], numbers: Iterable[int], num_workers: int
) -> Iterator[Iterator[Item]]:
    """Yield `make(number)` for each number, in order; `num_workers` threads prepare as many items ahead.

    An exception of `make` is raised when its item would be returned. Without workers each item is made
    on demand. Threads are enough, because an item takes only milliseconds to make.
    """
    if num_workers == 0:
        yield map(make, numbers)
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="global-batches")
    try:
        yield _in_order(pool, make, iter(numbers), num_workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, make: Callable[[int], Item], numbers: Iterator[int], num_ahead: int
) -> Iterator[Item]:
    waiting = deque(pool.submit(make, number) for number in itertools.islice(numbers, num_ahead))
    while waiting:
        item = waiting.popleft().result()
        waiting.extend(pool.submit(make, number) for number in itertools.islice(numbers, 1))
        yield item
