"""What is asked of the device: kernels, bytes, and waits of the host for it."""

import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that only look at a tensor, or allocate: no kernel runs.
_WITHOUT_KERNEL = ("empty", "detach", "_unsafe_view", "_reshape_alias", "alias", "lift_fresh", "new_empty")
# What hands numbers of the device to the host, which waits for all work before it.
_READS = {"_local_scalar_dense": 1.0, "is_nonzero": True, "equal": True}
_OWN_FILES = ("modellink_rm", "megatron", "torch/nn", "torch/optim")


def _normed(states: torch.Tensor, shape: list[int], *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ones = [1] * len(shape)
    return torch.empty_like(states), states.new_empty(
        (*states.shape[: -len(shape)], *ones), dtype=torch.float32
    )


def _norm_gradients(
    gradient: torch.Tensor, states: torch.Tensor, shape: list[int], *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(states), states.new_empty(shape)


# Kernels that only a build with CUDA has, and torch's fake tensors do not know.
_NORMS: dict[str, Callable[..., Any]] = {
    "_fused_rms_norm": _normed,
    "_fused_rms_norm_backward": _norm_gradients,
}


class Kernels(TorchDispatchMode):
    """Counts kernels by name, records each wait of the host, and finds tensors that are not on the device.

    Attributes:
        counts: of kernels, by operation.
        waits: of the host for the device, by the line of code.
        strays: operations with a tensor of several elements on the CPU, by the line of code.
        live: the tensors' bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.strays: Counter[str] = Counter()
        self.live = LiveBytes()

    def clear(self) -> None:
        """Forget what was counted; what is alive stays."""
        for counter in (self.counts, self.waits, self.strays):
            counter.clear()
        self.live.peak = self.live.now()

    def wait(self, device: Any = None) -> None:
        """The host waits for the device, as by torch.cuda.synchronize."""
        self.waits[_place()] += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _READS:
            self.wait()
            return _READS[name]
        kwargs = kwargs or {}
        output = _NORMS[name](*args) if name in _NORMS else func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        if name == "_to_copy" and args[0].device != output.device and not kwargs.get("non_blocking"):
            self.wait()
        if any(tensor.device.type != "cuda" and tensor.numel() > 1 for tensor in tensors):
            self.strays[f"{name} at {_place()}"] += 1
        if not func.is_view and not name.startswith(_WITHOUT_KERNEL) and func.namespace != "prim":
            self.counts[name] += 1
        self.live.see(tensors)
        return output


class LiveBytes:
    """Bytes of the storages that are alive on a device.

    Attributes:
        peak: the most that were alive after an operation.
    """

    def __init__(self, device_type: str = "cuda") -> None:
        self._device_type = device_type
        self._storages: dict[int, weakref.ref[Any]] = {}
        self.peak = 0

    def see(self, tensors: Sequence[torch.Tensor]) -> None:
        """Take the storages of new tensors into account."""
        is_new = False
        for tensor in tensors:
            if tensor.device.type != self._device_type:
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            known = self._storages.get(key)
            if known is None or known() is None:
                self._storages[key] = weakref.ref(storage)
                is_new = True
        if is_new:
            self.peak = max(self.peak, self.now())

    def now(self) -> int:
        """Bytes that are alive; a storage that was made empty counts nothing."""
        alive = {key: ref() for key, ref in self._storages.items()}
        self._storages = {key: self._storages[key] for key, storage in alive.items() if storage is not None}
        return sum(storage.nbytes() for storage in alive.values() if storage is not None)


def _place() -> str:
    """The innermost line of this package, the engine or torch's Python code."""
    for frame in reversed(traceback.extract_stack()[:-2]):
        if any(part in frame.filename for part in _OWN_FILES) and "_python_dispatch" not in frame.filename:
            return f"{Path(frame.filename).name}:{frame.lineno} {frame.line}"
    return "unknown"
