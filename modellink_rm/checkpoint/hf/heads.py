"""The reward head of a Hugging Face directory, by the names that the programs of the field give it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modellink_rm.base.errors import UserError, listed
from modellink_rm.checkpoint.hf.mapped import MappedFile
from modellink_rm.model.heads.steps import NUM_LABELS
from modellink_rm.model.spec import HEAD_PREFIX, REWARD_HEAD, STEP_HEAD

# What a report calls the reward head, wherever it was looked for.
HEAD_NAME = f"{HEAD_PREFIX}weight"
VALUE_HEAD_FILE = "value_head.safetensors"
_LABELS_HINT = (
    "; a reward head has num_labels 1, or, for several attributes, their names in id2label and "
    'problem_type "regression"'
)
_NUMBER_TYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class HeadNames:
    """How a program calls the tensors of its head: weight [outputs, h], and bias [outputs] or "" for none."""

    weight: str
    bias: str = ""


# Of transformers' *ForSequenceClassification, which TRL's RewardTrainer and Skywork's models are.
SCORE = HeadNames("score.weight")
# Of transformers' *ForTokenClassification, which TRL's PRMTrainer's models are.
TOKEN_SCORE = HeadNames("score.weight", "score.bias")
# TRL's model with a value head; LLaMA-Factory takes it out of the weights, into VALUE_HEAD_FILE.
VALUE_HEAD = HeadNames("v_head.summary.weight", "v_head.summary.bias")
# InternLM2-reward, and OpenRLHF's earlier name; its later ones are `value_head_prefix` of config.json.
_OTHERS = (HeadNames("v_head.weight"), HeadNames("value_head.weight"))


@dataclass(frozen=True)
class StoredHead:
    """A head that was found.

    Attributes:
        directory: of the model, for messages.
        place: its weight or its file, as messages name it.
        file: the open safetensors that holds it.
        has_bias: whether the bias that `names` allows is there.
    """

    directory: Path
    place: str
    file: Any
    names: HeadNames
    has_bias: bool

    @property
    def kind(self) -> str:
        """What it says: of a head with a row for each of two labels, and a bias, that of steps."""
        shape = tuple(self.file.get_slice(self.names.weight).get_shape())
        return STEP_HEAD if self.has_bias and shape[:1] == (NUM_LABELS,) else REWARD_HEAD

    def read(self, hidden_size: int, *, num_outputs: int = 1) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [outputs, h] and bias [outputs] or None, in float32.

        Raises:
            UserError: it has another number of outputs, or another size.
        """
        weight = self._tensor(self.names.weight, (num_outputs, hidden_size))
        return weight, self._tensor(self.names.bias, (num_outputs,)) if self.has_bias else None

    def _tensor(self, name: str, expected: tuple[int, ...]) -> torch.Tensor:
        stored = self.file.get_slice(name)
        check_number_type(self.directory, name, stored)
        shape = tuple(stored.get_shape())
        if shape != expected:
            hint = _LABELS_HINT if shape[1:] == expected[1:] else ""
            raise UserError(f"{self.directory}: {name} has shape {shape}, expected {expected}{hint}")
        tensor: torch.Tensor = self.file.get_tensor(name)
        return tensor.float()


def find_head(
    directory: Path, weights: Mapping[str, MappedFile], config: Mapping[str, Any], *, own_name: str
) -> StoredHead | None:
    """The head among the weights or beside them, unread; None if there is none.

    Args:
        weights: the open file of each tensor, by the tensor's name.
        config: config.json.
        own_name: of the weight in the form of the family's own class.

    Raises:
        UserError: there are several heads, or the file beside the weights is pickled or damaged.
    """
    found = []
    for names in _names_of(config, own_name):
        if names.weight == TOKEN_SCORE.weight and TOKEN_SCORE.bias in weights:
            names = TOKEN_SCORE
        if names.weight in weights:
            has_bias = bool(names.bias) and names.bias in weights
            found.append(StoredHead(directory, names.weight, weights[names.weight], names, has_bias))
    beside = _open_value_head(directory)
    if beside is not None:
        has_bias = VALUE_HEAD.bias in beside.keys()  # noqa: SIM118 -- no mapping
        found.append(StoredHead(directory, VALUE_HEAD_FILE, beside, VALUE_HEAD, has_bias))
    if len(found) > 1:
        raise UserError(
            f"{directory} has two reward heads, {found[0].place} and {found[1].place}; take one of them away"
        )
    return found[0] if found else None


def _names_of(config: Mapping[str, Any], own_name: str) -> list[HeadNames]:
    """Every name that a head may have among the weights of this model."""
    prefix = config.get("value_head_prefix")
    own = [HeadNames(f"{prefix}.weight")] if isinstance(prefix, str) and prefix else []
    return list(dict.fromkeys([HeadNames(own_name), SCORE, VALUE_HEAD, *_OTHERS, *own]))


def _open_value_head(directory: Path) -> MappedFile | None:
    """LLaMA-Factory's head beside the weights, or None.

    Raises:
        UserError: the file is damaged, pickled, or holds something else.
    """
    path = directory / VALUE_HEAD_FILE
    if not path.exists():
        if (directory / "value_head.bin").exists():
            raise UserError(
                f"{directory} has a pickled value_head.bin, which is not read; save it as {VALUE_HEAD_FILE}, "
                f"with {VALUE_HEAD.weight} and {VALUE_HEAD.bias}"
            )
        return None
    file = MappedFile(path)
    names: Iterable[str] = file.keys()
    if VALUE_HEAD.weight not in names or set(names) - {VALUE_HEAD.weight, VALUE_HEAD.bias}:
        raise UserError(
            f"{path} holds {listed(sorted(names))}; a head is {VALUE_HEAD.weight} and {VALUE_HEAD.bias}"
        )
    return file


def check_number_type(directory: Path, name: str, stored: Any) -> None:
    """Refuse a tensor that does not hold plain numbers.

    Raises:
        UserError: it is quantised.
    """
    if stored.get_dtype() not in _NUMBER_TYPES:
        raise UserError(
            f"{directory}: {name} is stored as {stored.get_dtype()}; quantised weights are not supported, "
            "only F32, F16 and BF16"
        )
