"""Stand-ins for what a CUDA device does with numbers, which fake tensors do not have.

Import this file only in a process of its own, which `child.py` starts: nothing is put back.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from modellink_rm.base import engine_import  # noqa: F401 (before what needs the engine)
from modellink_rm.base.megatron_compat import replace_cuda_rng_state
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.parallel.groups import Ranks, start_model_parallel

DEVICE = torch.device("cuda", 0)
_LIBRARY = torch.library.Library("aten", "IMPL")


def stand_in_for_cuda() -> None:
    """Answer what torch, the engine and this package ask of a driver."""
    state = torch.get_rng_state()
    cuda: Any = torch.cuda
    cuda.is_available = lambda: True
    cuda.is_initialized = lambda: True
    cuda.current_device = lambda: DEVICE.index
    cuda.device_count = lambda: 8
    cuda.set_device = lambda device: None
    cuda.get_device_name = lambda device=None: "a GPU that is not there"
    cuda.get_device_capability = lambda *arguments: (9, 0)
    cuda.manual_seed = lambda seed: None
    cuda.get_rng_state = lambda *arguments, **keywords: state
    replace_cuda_rng_state(lambda *arguments, **keywords: state, lambda *arguments, **keywords: None)
    fake_mode: Any = FakeTensorMode
    fake_mode.avoid_device_init = True
    _stand_in_for_norm()
    _stand_in_for_generators()
    _stand_in_for_pinned_memory()
    _stand_in_for_collectives()


def _stand_in_for_norm() -> None:
    """The norm is one kernel in a build of torch with CUDA; others compute it by parts (torch 2.13).

    Only that there is a kernel counts here: `measure.Kernels` makes the outputs.
    """

    def no_kernel(*arguments: Any) -> None:
        raise AssertionError("fake tensors reached a kernel")

    for name in ("_fused_rms_norm", "_fused_rms_norm_backward"):
        _LIBRARY.impl(name, no_kernel, "CUDA")


def _stand_in_for_generators() -> None:
    """Numbers are not drawn, so no generator is set or forked."""
    from megatron.core.tensor_parallel import random as engine_random

    engine_random.CudaRNGStatesTracker.fork = lambda self, *names: contextlib.nullcontext()
    from modellink_rm.model import build

    build.initialize_head = lambda head, *, std, seed: None


def _stand_in_for_pinned_memory() -> None:
    """Tensors of numpy arrays are made on the device at once, by every file that makes some."""
    from modellink_rm.train import trainer  # noqa: F401 (imports all of them)

    def tensor_on(device: torch.device, values: np.ndarray) -> torch.Tensor:
        return torch.empty(values.shape, dtype=torch.from_numpy(values[:0]).dtype, device=device)

    ours: list[Any] = [module for name, module in sys.modules.items() if name.startswith("modellink_rm.")]
    for module in ours:
        if hasattr(module, "tensor_on"):
            module.tensor_on = tensor_on


def _stand_in_for_collectives() -> None:
    """Every process of a fake group says what this one says."""
    from megatron.core import parallel_state
    from megatron.core.distributed import param_and_grad_buffer

    def all_gather_object(gathered: list[Any], value: Any, group: Any = None) -> None:
        gathered[:] = [value] * len(gathered)

    @contextlib.contextmanager
    def coalescing_manager(group: Any, async_ops: bool = False) -> Iterator[Any]:
        yield _Done()

    distributed: Any = torch.distributed
    distributed.all_gather_object = all_gather_object
    param_and_grad_buffer._coalescing_manager = coalescing_manager
    create_group = parallel_state.create_group

    def create_fake_group(*arguments: Any, **keywords: Any) -> Any:
        return create_group(*arguments, **{**keywords, "backend": "fake"})

    parallel_state.create_group = create_fake_group


class _Done:
    """A collective that is done."""

    def wait(self) -> None:
        """Wait for nothing."""


@contextlib.contextmanager
def one_rank_of(parallel: ParallelConfig, *, world_size: int, rank: int) -> Iterator[Ranks]:
    """This process as one of a fake group's, in which no other one runs."""
    from megatron.core import parallel_state

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield start_model_parallel(parallel, seed=1)
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
