"""Reading adapters in PEFT's form."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modellink_rm.adapters.lora import Lora
from modellink_rm.base.errors import UserError, listed
from modellink_rm.base.json_files import read_json_object
from modellink_rm.checkpoint.hf.heads import check_number_type
from modellink_rm.checkpoint.hf.mapped import MappedFile
from modellink_rm.checkpoint.peft.names import WRAPPED, adapted, expected_shapes
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.tensors import TensorTable
from modellink_rm.model.spec import ModelSpec

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
# Fields of adapter_config.json that change numbers, with the values that mean no change.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": (None, "none"),
    "use_dora": (None, False),
    "use_rslora": (None, False, True),
    # "pissa", "olora", "loftq" and others change the model that is updated, and not A and B alone.
    "init_lora_weights": (None, False, True, "gaussian", "eva", "orthogonal"),
    "use_qalora": (None, False),
    "lora_bias": (None, False),
    "fan_in_fan_out": (None, False),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "corda_config": (None,),
}


class PeftDirectory:
    """An adapter on the disk, opened but not read.

    Attributes:
        directory: of PEFT's save_pretrained, or of this package's export.
    """

    def __init__(self, directory: str | Path) -> None:
        """Read adapter_config.json and the names of the tensors.

        Raises:
            UserError: a file is missing or damaged, or it is an adapter of another kind.
        """
        self.directory = Path(directory)
        self.config: Mapping[str, Any] = read_json_object(self.directory / CONFIG_FILE)
        for name, plain in _PLAIN.items():
            value = self.config.get(name)
            if value not in plain:
                raise UserError(
                    f"{self.directory / CONFIG_FILE}: {name} {value!r} is not supported; only plain LoRA of "
                    "linear layers is, with or without use_rslora, into which PEFT's save_pretrained "
                    "converts some kinds (path_initial_model_for_weight_conversion)"
                )
        path = self.directory / TENSORS_FILE
        if not path.is_file():
            raise UserError(f"{self.directory} has no {TENSORS_FILE}; save the adapter as safetensors")
        self._file = MappedFile(path)
        self._names = frozenset(self._file.keys())

    def lora(self, spec: ModelSpec) -> Lora:
        """The adapters, of a model.

        Raises:
            UserError: they do not fit the model.
        """
        targets = {
            name.split(f"layers.{number}.", 1)[1].removesuffix(".lora_A.weight")
            for name in self._names
            if name.endswith(".lora_A.weight")
            for number in _numbers_of(name)
        }
        values = {name: self.config.get(name) for name in ("r", "lora_alpha", "lora_dropout")}
        rank, alpha, dropout = values.values()
        are_numbers = type(rank) is int and all(type(one) in (int, float) for one in (alpha, dropout or 0))
        if not are_numbers or not targets:
            raise UserError(f"{self.directory / CONFIG_FILE} or {TENSORS_FILE} is damaged: {values}")
        assert isinstance(rank, int)
        lora = Lora(
            rank=rank,
            alpha=float(alpha),  # type: ignore[arg-type]
            targets=tuple(sorted(targets)),
            dropout=float(dropout or 0.0),
            use_rslora=self.config.get("use_rslora") is True,
        )
        self._check_tensors(lora, spec)
        return lora

    def _check_tensors(self, lora: Lora, spec: ModelSpec) -> None:
        """Check that the tensors are those of the adapters, and perhaps a head."""
        linears = adapted(dataclasses.replace(spec, lora=lora))
        expected = {name: shape for one in linears for name, shape in expected_shapes(one, lora).items()}
        missing = sorted(expected.keys() - self._names)
        heads = dict.fromkeys(
            _head_names(FAMILIES[spec.shape.family].tensors), (spec.num_outputs, spec.shape.hidden_size)
        )
        unexpected = sorted(self._names - expected.keys() - heads.keys())
        if missing or unexpected:
            parts = [f"misses {listed(missing)}"] if missing else []
            parts += [f"has {listed(unexpected)}"] if unexpected else []
            raise UserError(
                f"{self.directory} does not fit the model of --load: it {' and '.join(parts)}; every layer "
                "must have adapters of the same matrices, and experts none"
            )
        for name in sorted(self._names):
            stored = self._file.get_slice(name)
            check_number_type(self.directory, name, stored)
            shape, wanted = tuple(stored.get_shape()), (expected | heads)[name]
            if shape != wanted:
                raise UserError(
                    f"{self.directory}: {name} has shape {shape}, and {wanted} in the model of --load; give "
                    "the model that the adapter was trained on"
                )

    def has_head(self, table: TensorTable) -> bool:
        """Whether the reward head was trained with the adapter."""
        return not self._names.isdisjoint(_head_names(table))

    def head(self, table: TensorTable) -> Tensor | None:
        """The head's weight [1, h], float32; None if the adapter has none."""
        for name in _head_names(table):
            if name in self._names:
                tensor: Tensor = self._file.get_tensor(name)
                return tensor.float()
        return None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors."""
        return {name: self._file.get_tensor(name) for name in self._names}

    def release(self) -> None:
        """Give the memory back that reading has mapped."""
        self._file.release()


def _numbers_of(name: str) -> list[str]:
    """The layer's number in a tensor's name: ["3"], or [] without one."""
    parts = name.split(".")
    return [after for before, after in itertools.pairwise(parts) if before == "layers"][:1]


def _head_names(table: TensorTable) -> tuple[str, ...]:
    """The head's weight, where PEFT saves it of `modules_to_save`."""
    return (f"{WRAPPED}{table.head_name}", f"{WRAPPED}{table.head}.modules_to_save.weight")
