"""Process groups, from start to end, and this process's ranks in them."""

import datetime
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch.distributed import HashStore, PrefixStore  # type: ignore[attr-defined]  # public, but not typed so
from torch.distributed.rendezvous import rendezvous

from modellink_rm.base.errors import UserError
from modellink_rm.base.platform import Platform
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.places import flags_of_all
from modellink_rm.parallel.agreement import check_agreed

# gloo starts three for each of megatron-core's groups that a process is in: 63 of one process alone. The
# others are for the memory that threads take beside their stacks.
_NUM_THREADS_OF_GROUPS = 96


@dataclass(frozen=True)
class Ranks:
    """This process's rank in each kind of parallelism; every size is at least 1.

    Attributes:
        ep_rank: which part of a layer's experts it holds.
        etp_rank: which part of each of those experts.
    """

    world_size: int
    rank: int
    tp_size: int
    tp_rank: int
    pp_size: int
    pp_rank: int
    dp_size: int
    dp_rank: int
    cp_size: int = 1
    cp_rank: int = 0
    ep_size: int = 1
    ep_rank: int = 0
    etp_size: int = 1
    etp_rank: int = 0

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """The sizes (pipeline, tensor, data, context)."""
        return self.pp_size, self.tp_size, self.dp_size, self.cp_size

    @property
    def is_first_stage(self) -> bool:
        """Whether this process embeds tokens."""
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this process scores responses."""
        return self.pp_rank == self.pp_size - 1

    @property
    def reports_scores(self) -> bool:
        """Whether the scores and losses of this process are counted; true for one process per replica."""
        return self.is_last_stage and self.tp_rank == 0 and self.cp_rank == 0


def world_size_from_environment() -> int:
    """Number of processes of this torchrun; 1 outside of torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_groups(config: ParallelConfig, platform: Platform, *, seed: int) -> Iterator[Ranks]:
    """Start torch.distributed and megatron-core's groups, seed every generator, and end them after the block.

    A single process outside torchrun forms a group of one.

    Raises:
        AgreedError: the processes have other parallel sizes.
        UserError: gloo finds no network interface.
        RuntimeError: the system does not let this process start the threads of the groups.
    """
    if platform.backend == "gloo":
        _check_threads()
    timeout = datetime.timedelta(minutes=config.distributed_timeout_minutes)
    if "RANK" in os.environ:
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
        # torchrun's store outlives the groups: a second start would read what the first one left there.
        start = store.add(f"modellink_rm/starts/{rank}", 1)
        of_this_start = PrefixStore(f"modellink_rm/start{start}", store)
        _form_group(platform.backend, of_this_start, rank=rank, world_size=world_size, timeout=timeout)
    else:
        # In memory: a file or a port would need room in /tmp, or a network.
        _form_group(platform.backend, HashStore(), rank=0, world_size=1, timeout=timeout)
    try:
        check_agreed(flags_of_all(config))  # groups of other sizes would wait for each other
        yield start_model_parallel(config, seed=seed)
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def _form_group(backend: str, store: Any, **options: Any) -> None:
    """Start torch.distributed.

    Raises:
        UserError: gloo finds no network interface.
    """
    try:
        torch.distributed.init_process_group(backend, store=store, **options)
    except RuntimeError as error:
        _, found, interface = str(error).splitlines()[0].partition("Unable to find ")
        if not found:
            raise
        raise UserError(
            f"gloo, by which processes talk, does not find the {interface}; GLOO_SOCKET_IFNAME, where it is "
            "set, must name an interface that is up (ip addr)"
        ) from None


def _check_threads() -> None:
    """Start as many threads as the groups will, and end them: some milliseconds.

    Where gloo (torch 2.13) cannot start one of its own it ends the process, or waits for it for ever.

    Raises:
        RuntimeError: one cannot be started.
    """
    is_over = threading.Event()
    threads = [threading.Thread(target=is_over.wait, daemon=True) for _ in range(_NUM_THREADS_OF_GROUPS)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    finally:
        is_over.set()
        for thread in started:
            thread.join()


def start_model_parallel(config: ParallelConfig, *, seed: int) -> Ranks:
    """Create megatron-core's groups within torch.distributed, and seed the generators.

    Pipeline stages get different seeds, 100 apart as in Megatron-LM; data-parallel replicas get the
    same one.
    """
    parallel_state.initialize_model_parallel(
        config.tensor_model_parallel_size,
        config.pipeline_model_parallel_size,
        context_parallel_size=config.context_parallel_size,
        expert_model_parallel_size=config.expert_model_parallel_size,
        expert_tensor_parallel_size=config.expert_tensor_parallel_size,
        distributed_timeout_minutes=config.distributed_timeout_minutes,
    )
    ranks = current_ranks()
    torch.manual_seed(seed + 100 * ranks.pp_rank)
    model_parallel_cuda_manual_seed(seed + 100 * ranks.pp_rank)
    return ranks


def current_ranks() -> Ranks:
    """This process's ranks in megatron-core's groups."""
    return Ranks(
        world_size=torch.distributed.get_world_size(),
        rank=torch.distributed.get_rank(),
        tp_size=parallel_state.get_tensor_model_parallel_world_size(),
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        pp_size=parallel_state.get_pipeline_model_parallel_world_size(),
        pp_rank=parallel_state.get_pipeline_model_parallel_rank(),
        dp_size=parallel_state.get_data_parallel_world_size(),
        dp_rank=parallel_state.get_data_parallel_rank(),
        cp_size=parallel_state.get_context_parallel_world_size(),
        cp_rank=parallel_state.get_context_parallel_rank(),
        ep_size=parallel_state.get_expert_model_parallel_world_size(),
        ep_rank=parallel_state.get_expert_model_parallel_rank(),
        etp_size=parallel_state.get_expert_tensor_parallel_world_size(),
        etp_rank=parallel_state.get_expert_tensor_parallel_rank(),
    )


def of_every_process(value: Any) -> list[Any]:
    """The value of each process, by rank; a collective."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def engine_groups() -> ProcessGroupCollection:
    """megatron-core's collection of the current groups."""
    return ProcessGroupCollection.use_mpu_process_groups()
