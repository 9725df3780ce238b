"""Reading adapters in PEFT's form."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from modellink_rm.adapters.lora import Lora
from modellink_rm.base.errors import UserError, listed
from modellink_rm.base.json_files import read_json_object
from modellink_rm.base.log import warn_once
from modellink_rm.checkpoint.contract import CONTRACT_NAME, read_contract
from modellink_rm.checkpoint.hf.heads import TOKEN_SCORE, check_number_type
from modellink_rm.checkpoint.hf.mapped import MappedFile
from modellink_rm.checkpoint.peft.experts import adapted_experts
from modellink_rm.checkpoint.peft.names import WRAPPED, adapted, expected_shapes, head_names, saved_name
from modellink_rm.model.adapter_targets import EXPERTS_MODULE, EXPERTS_NAMES, check_dropout
from modellink_rm.model.families.tensors import TensorTable
from modellink_rm.model.heads.steps import NUM_LABELS
from modellink_rm.model.spec import REWARD_HEAD, STEP_HEAD, ModelSpec

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
# In the header of the tensors that this package writes: of the model that they update.
BASE_FINGERPRINT = "base_fingerprint"
BASE_QUANTIZATION = "base_quantization"  # how it was held, as `Lora.quantization`; left out for ""
_A = ".lora_A.weight"
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
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "corda_config": (None,),
    "use_bdlora": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
}
# Those that change nothing of an adapter that was trained, or whose effect is seen in the tensors.
_WITHOUT_EFFECT = (
    {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save"}
    | {"layers_to_transform", "layers_pattern", "megatron_config", "megatron_core", "loftq_config"}
    | {"eva_config", "lora_ga_config", "velora_config", "qalora_group_size", "runtime_config"}
    | {"ensure_weight_tying", "target_parameters"}
)


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
            # Not 1 for True, which PEFT takes for it, while readers that ask for True do not.
            if not any(value == one and type(value) is type(one) for one in plain):
                raise UserError(
                    f"{self.directory / CONFIG_FILE}: {name} {value!r} is not supported; only plain LoRA of "
                    "linear layers is, with or without use_rslora, into which PEFT's save_pretrained "
                    "converts some kinds (path_initial_model_for_weight_conversion)"
                )
        unknown = self.config.keys() - _PLAIN.keys() - _WITHOUT_EFFECT
        for name in sorted(name for name in unknown if self.config[name]):
            value = self.config[name]
            warn_once(f"{self.directory / CONFIG_FILE}: {name} {value!r} is not known, and ignored")
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
        targets = {*self._targets_of_linears(), *self._targets_of_experts()}
        values = {name: self.config.get(name) for name in ("r", "lora_alpha", "lora_dropout")}
        rank = values["r"]
        alpha, dropout = _number(values["lora_alpha"]), _number(values["lora_dropout"] or 0)
        if type(rank) is not int or alpha is None or dropout is None or not targets:
            raise UserError(f"{self.directory / CONFIG_FILE} or {TENSORS_FILE} is damaged: {values}")
        lora = Lora(
            rank=rank,
            alpha=alpha,
            targets=tuple(sorted(targets)),
            dropout=dropout,
            use_rslora=self.config.get("use_rslora") is True,
            quantization=self._quantization(),
        )
        check_dropout(lora, spec.shape)
        self._check_tensors(lora, dataclasses.replace(spec, lora=lora))
        self._check_named()
        return lora

    def _quantization(self) -> Literal["", "nf4"]:
        """How the model was held that they were trained on, where this package wrote it.

        Raises:
            UserError: in a form that is not known.
        """
        noted = self._file.metadata().get(BASE_QUANTIZATION, "")
        if noted == "nf4":
            return "nf4"
        if noted:
            raise UserError(
                f"{self.directory / TENSORS_FILE}: the adapters were trained over weights held as {noted!r}, "
                "which is not known; a newer version of this tool may read them"
            )
        return ""

    def _targets_of_linears(self) -> set[str]:
        """The linears' names within a layer, by the tensors."""
        return {
            name.split(f"layers.{number}.", 1)[1].removesuffix(_A)
            for name in self._names
            if name.endswith(_A) and EXPERTS_MODULE not in name
            for number in _numbers_of(name)
        }

    def _targets_of_experts(self) -> set[str]:
        """The names of parameters of experts within a layer, by adapter_config.json.

        Raises:
            UserError: there is something else in their place.
        """
        given = self.config.get("target_parameters") or []
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise UserError(f"{self.directory / CONFIG_FILE} is damaged: target_parameters {given!r}")
        return {
            own
            for own in EXPERTS_NAMES.values()
            if any(own == name or own.endswith(f".{name}") for name in given)
        }

    def _check_tensors(self, lora: Lora, spec: ModelSpec) -> None:
        """Check that the tensors are those of the adapters, and perhaps a head."""
        expected = {
            name: shape for one in adapted(spec) for name, shape in expected_shapes(one, lora).items()
        }
        for experts in adapted_experts(spec):
            expected |= experts.expected_shapes(lora)
        missing = sorted(expected.keys() - self._names)
        heads = {
            kept: size
            for name, size in zip(head_names(spec), _head_shapes(spec), strict=True)
            for kept in _kept(name)
        }
        unexpected = sorted(self._names - expected.keys() - heads.keys())
        if missing or unexpected:
            parts = [f"misses {listed(missing)}"] if missing else []
            parts += [f"has {listed(unexpected)}"] if unexpected else []
            raise UserError(
                f"{self.directory} does not fit the model of --load: it {' and '.join(parts)}; every layer "
                "must have adapters of the same matrices, experts those of transformers 5 "
                "(target_parameters)"
            )
        held = [[kept for kept in _kept(name) if kept in self._names] for name in head_names(spec)]
        if any(held) and any(len(names) != 1 for names in held):
            found = listed([name for names in held for name in names])
            raise UserError(
                f"{self.directory / TENSORS_FILE} is damaged: of the head it has {found}, and each of its "
                "tensors is there once or none is"
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

    def _check_named(self) -> None:
        """Check that adapter_config.json leaves out no matrix that has tensors: PEFT would not read them.

        Raises:
            UserError: it does.
        """
        for name in sorted(self._names):
            matrix = name.removeprefix(WRAPPED).removesuffix(_A)
            field = _left_out_by(self.config, matrix) if name.endswith(_A) else None
            if field is not None:
                raise UserError(
                    f"{self.directory / CONFIG_FILE}: {field} {self.config[field]!r} leaves out {matrix}, of "
                    f"which {TENSORS_FILE} has an update: one of the two files is of another adapter"
                )

    def num_outputs(self, table: TensorTable) -> int | None:
        """The outputs of the reward head that was trained with the adapter; None if none was."""
        if self.head_kind(table) == STEP_HEAD:
            return 1
        for name in _kept(table.head_name):
            if name in self._names:
                shape = self._file.get_slice(name).get_shape()
                return max(1, int(shape[0])) if shape else 1
        return None

    def attributes(self, table: TensorTable) -> tuple[str, ...]:
        """What each output of the head says; empty where its one output is the score.

        As the contract in a directory that this package exported names them, or as transformers does.

        Raises:
            UserError: the contract is damaged.
        """
        number = self.num_outputs(table) or 1
        if number == 1:
            return ()
        if (self.directory / CONTRACT_NAME).is_file():
            names = read_contract(self.directory).attributes
            if len(names) == number:
                return names
        return tuple(f"LABEL_{index}" for index in range(number))

    @property
    def base_name(self) -> str:
        """The path or name of the model that it was trained on, as it says; "" where it does not."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) else ""

    @property
    def base_fingerprint(self) -> str | None:
        """What tells that model from others; of an adapter that this package wrote."""
        return self._file.metadata().get(BASE_FINGERPRINT)

    def head_kind(self, table: TensorTable) -> str | None:
        """What the head says that was trained with the adapter, as `ModelSpec.head`; None without one."""
        if not self._names.isdisjoint(_kept(TOKEN_SCORE.bias)):
            return STEP_HEAD
        return None if self._names.isdisjoint(_kept(table.head_name)) else REWARD_HEAD

    def head(self, spec: ModelSpec) -> list[Tensor]:
        """The head's tensors in float32: [outputs, h] and perhaps a bias; none if the adapter has none."""
        found = [saved for name in head_names(spec) for saved in _kept(name) if saved in self._names]
        return [self._file.get_tensor(name).float() for name in found]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors."""
        return {name: self._file.get_tensor(name) for name in self._names}

    def release(self) -> None:
        """Give the memory back that reading has mapped."""
        self._file.release()


def _number(value: Any) -> float | None:
    """The value as a float; None for what is no number, or one that no float holds."""
    try:
        return float(value) if type(value) in (int, float) else None
    except OverflowError:
        return None


def _left_out_by(config: Mapping[str, Any], matrix: str) -> str | None:
    """The field by which PEFT leaves the matrix out (0.21, `check_target_module_exists`); None for none.

    Of a field that is a regular expression it is not asked.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    layers = config.get("layers_to_transform")
    if isinstance(targets, list) and not _is_named(matrix, targets) and not _is_parameter(config, matrix):
        return "target_modules"
    if isinstance(excluded, list) and _is_named(matrix, excluded):
        return "exclude_modules"
    numbers = [layers] if isinstance(layers, int) else layers
    if isinstance(numbers, list) and numbers and not {*map(str, numbers)}.intersection(_numbers_of(matrix)):
        return "layers_to_transform"
    return None


def _is_parameter(config: Mapping[str, Any], matrix: str) -> bool:
    """Whether the field of parameters names the matrix; those of experts have wrappers in its place."""
    parameters = config.get("target_parameters") or []
    is_wrapper = matrix.removesuffix(".base_layer").endswith(f".{EXPERTS_MODULE}")
    return is_wrapper or _is_named(f"{matrix}.weight", parameters)


def _is_named(matrix: str, names: Sequence[Any]) -> bool:
    return any(matrix == name or matrix.endswith(f".{name}") for name in names)


def _numbers_of(name: str) -> list[str]:
    """The layer's number in a tensor's name: ["3"], or [] without one."""
    parts = name.split(".")
    return [after for before, after in itertools.pairwise(parts) if before == "layers"][:1]


def _kept(head: str) -> tuple[str, str]:
    """The names that a tensor of the head may have."""
    return f"{WRAPPED}{head}", saved_name(head)


def _head_shapes(spec: ModelSpec) -> tuple[tuple[int, ...], ...]:
    """The shapes of the head's tensors, in the order of `head_names`."""
    hidden_size = spec.shape.hidden_size
    if spec.scores_steps:
        return (NUM_LABELS, hidden_size), (NUM_LABELS,)
    return ((spec.num_outputs, hidden_size),)
