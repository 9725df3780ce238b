"""Outputs of modules that a layer does not keep for its backward pass, which computes them anew."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from modellink_rm.model.config import RewardModelConfig

_ACTIVATIONS = ("activation_func", "activation")  # in an MLP, and in experts


def recompute_outputs(layer: Any, config: RewardModelConfig) -> None:
    """Make a layer compute anew what the configuration names: outputs of its norms, of its gates.

    The engine has this for norms (megatron-core 0.16.1, `recompute_modules`), but only with Transformer
    Engine, and with a copy of what is computed anew; of an ordinary MLP's gate it has it not.
    """
    modules: list[nn.Module] = []
    if config.recomputes_norms:
        norms = (layer.input_layernorm, layer.pre_mlp_layernorm)
        modules += [norm for norm in norms if any(True for _ in norm.parameters())]  # others do nothing
    if config.recomputes_gates:
        modules += [
            module for name, module in layer.mlp.named_modules() if name.split(".")[-1] in _ACTIVATIONS
        ]
    if modules:
        _Outputs().watch(layer, modules)


class _Outputs:
    """The outputs of a layer's modules while the layer computes.

    What is saved for the backward pass meanwhile, and lies in the memory of one of them, is saved as the call
    that made it. The input of the call is kept anyway: the module's own backward pass needs it.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[torch.UntypedStorage, _Call]] = []
        self._hooks: list[saved_tensors_hooks] = []

    def watch(self, layer: nn.Module, modules: Iterable[nn.Module]) -> None:
        """Take the outputs of the modules from now on, in every forward pass of the layer."""
        layer.register_forward_pre_hook(self._start)
        layer.register_forward_hook(self._end, always_call=True)
        for module in modules:
            module.register_forward_hook(self._take)

    def _start(self, layer: nn.Module, arguments: Any) -> None:
        hooks = saved_tensors_hooks(self._packed, _unpacked)
        hooks.__enter__()
        self._hooks.append(hooks)

    def _end(self, layer: nn.Module, arguments: Any, output: Any) -> None:
        self._hooks.pop().__exit__()
        self._calls.clear()

    def _take(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            self._calls.append((output.untyped_storage(), _Call(module, inputs)))

    def _packed(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        for made, call in self._calls:
            if made is storage:
                return _Part(call, tensor)
        return tensor


class _Call:
    """A call of a module, whose output is made again when a part of it is wanted, and kept up to the last."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._module = module
        self._inputs = [tensor.detach() for tensor in inputs]
        self._output: Tensor | None = None
        self.num_wanted = 0

    def output(self) -> Tensor:
        """The output, without gradient."""
        with torch.no_grad():
            output = self._output if self._output is not None else self._module.forward(*self._inputs)
        self.num_wanted -= 1
        self._output = output if self.num_wanted > 0 else None
        return output


class _Part:
    """A view of a call's output."""

    def __init__(self, call: _Call, tensor: Tensor) -> None:
        self._call = call
        self._view = (tensor.shape, tensor.stride(), tensor.storage_offset())
        call.num_wanted += 1

    def made(self) -> Tensor:
        """The view, of the output that is made again."""
        return self._call.output().as_strided(*self._view)


def _unpacked(saved: Any) -> Tensor:
    tensor: Tensor = saved.made() if isinstance(saved, _Part) else saved
    return tensor
