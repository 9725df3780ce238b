"""Reading a Hugging Face directory: config.json, safetensors and a reward head beside them.

Every rank reads only its own slices. Pickled weights are never opened.
"""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modellink_rm.base.errors import UserError, listed
from modellink_rm.base.json_files import read_json_object
from modellink_rm.checkpoint.files import CHECKSUMS_FILE, read_files
from modellink_rm.checkpoint.hf.heads import (
    HEAD_NAME,
    VALUE_HEAD_FILE,
    StoredHead,
    check_number_type,
    find_head,
)
from modellink_rm.checkpoint.hf.mapped import MappedFile
from modellink_rm.checkpoint.hf.mappings import TensorPlan, expected_shapes
from modellink_rm.checkpoint.hf.slices import read_piece
from modellink_rm.checkpoint.verify import check_contents_together
from modellink_rm.model.families.registry import family_of, shape_from_config
from modellink_rm.model.families.tensors import TensorTable
from modellink_rm.model.heads.steps import NUM_LABELS
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import REWARD_HEAD, STEP_HEAD
from modellink_rm.parallel.groups import Ranks

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadReport:
    """How the tensors of a directory differ from those of the reward model; all of it was forgiven.

    Attributes:
        missing: tensors of the reward model that the directory does not have.
        unexpected: tensors of the directory that the reward model does not have.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class HuggingFaceWeights:
    """The weights of a Hugging Face directory, opened but not read.

    Attributes:
        base_model: the directory of config.json and of the tokenizer.
        shape: what config.json says of the model.
        tensors: the family's, by the names that this directory gives them, with or without the
            prefix of the body.
        post_layer_norm: whether a head reads hidden states after the final norm; ChatGLM's config.json may
            say that there is none.
    """

    directory: Path
    base_model: Path
    config: Mapping[str, Any]
    shape: ModelShape
    tensors: TensorTable
    post_layer_norm: bool

    def __init__(self, directory: str | Path) -> None:
        """Read config.json and the headers of the safetensors.

        Raises:
            UserError: a file is missing or damaged, the weights are pickled, or the model is not
                supported.
        """
        self.directory = self.base_model = Path(directory)
        self.read_config()
        self._files = _open_weights(self.directory)
        family = family_of(self.config)
        tensors = family.tensors
        bare = dataclasses.replace(tensors, prefix="")
        is_body = tensors.embedding_name not in self._files and bare.embedding_name in self._files
        self.tensors = bare if is_body else tensors
        self._head: StoredHead | None = find_head(
            self.directory, self._files, self.config, own_name=self.tensors.head_name
        )
        self._expected = expected_shapes(self.shape, self.tensors)
        self.post_layer_norm = self.config.get(family.final_norm_field) not in (False, 0)

    @property
    def source(self) -> str:
        """What an error calls the origin of the shape."""
        return f"{self.base_model / 'config.json'}"

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor in the safetensors of the model, sorted."""
        return tuple(sorted(self._files))

    def expected_names(self) -> tuple[str, ...]:
        """Every tensor of the weights that the reward model takes, the head apart, sorted."""
        return tuple(sorted(self._expected))

    @property
    def ties_embedding(self) -> bool:
        """Whether a language model's head is the token embedding, by config.json or for lack of another."""
        given = self.config.get("tie_word_embeddings")
        return (
            given if isinstance(given, bool) else self.tensors.name(self.tensors.lm_head) not in self._files
        )

    def of_language_model(self) -> "HuggingFaceWeights":
        """The same directory, whose language-model head is read, and no reward head."""
        weights = copy.copy(self)
        weights.tensors = self.tensors.with_lm_head(is_tied=self.ties_embedding)
        weights._head = None
        weights._expected = expected_shapes(self.shape, weights.tensors)
        return weights

    def check_shapes(self) -> None:
        """Compare the headers of all expected tensors with config.json, reading no weights.

        Raises:
            UserError: a tensor of another shape, or of a type that holds no plain numbers.
        """
        for name in self.expected_names():
            if name in self._files:
                self._slice(name)

    def check_contents(self, ranks: Ranks) -> None:
        """Compare the files with the checksums beside them, where this package wrote some. A collective.

        Raises:
            CheckpointNotReadError: on every process: a file is not what was written.
        """
        checksums = self.directory / CHECKSUMS_FILE
        if checksums.is_file():
            check_contents_together(self.directory, read_files(checksums), ranks)

    def read(self, plan: TensorPlan, dtype: torch.dtype) -> torch.Tensor:
        """The tensor that `plan` describes, [rows, ...] of `dtype`, reading only its slices.

        Raises:
            UserError: a tensor is missing, or does not have the shape that config.json gives it.
        """
        tensor = torch.empty(plan.shape, dtype=dtype)
        self.read_into(tensor, plan)
        return tensor

    def read_into(self, tensor: torch.Tensor, plan: TensorPlan) -> None:
        """Fill the tensor that `plan` describes, with no more memory than its largest slice takes.

        Rows that the directory does not have, of a padded vocabulary, become zero.

        Raises:
            UserError: a tensor is missing, or does not have the shape that config.json gives it.
        """
        assert tuple(tensor.shape) == tuple(plan.shape)
        row = 0
        for piece in plan.pieces:
            values = read_piece(self._slice(piece.name), plan, piece)
            tensor[row : row + len(values)].copy_(values)
            row += len(values)
        tensor[row:].zero_()

    def release(self) -> None:
        """Give the memory back that reading has mapped; what is read again is mapped again."""
        for file in set(self._files.values()):
            file.release()

    @property
    def is_bf16(self) -> bool:
        """Whether every tensor that the reward model takes, its head apart, is stored in bfloat16."""
        names = [name for name in self._expected if name in self._files]
        return all(self._files[name].get_slice(name).get_dtype() == "BF16" for name in names)

    @property
    def head_names(self) -> frozenset[str]:
        """The head's tensors among the weights."""
        names = self._head.names if self._head is not None else None
        return frozenset((names.weight, names.bias)) if names is not None else frozenset()

    @property
    def keeps_language_model(self) -> bool:
        """Whether the head is of a kind that programs keep beside the language-model head."""
        return self._head is not None and self._head.names.weight != self.tensors.head_name

    @property
    def head_kind(self) -> str | None:
        """The head's kind, as `ModelSpec.head`; None if there is no head."""
        if self._head is None:
            return None
        return REWARD_HEAD if self.attributes else self._head.kind

    def head(self) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """The reward head, weight [outputs, h] and bias [outputs] or None, in float32; None if there is none.

        Raises:
            UserError: a head for several labels that are no attributes, or one of another size.
        """
        if self._head is None:
            return None
        num_outputs = NUM_LABELS if self.head_kind == STEP_HEAD else max(len(self.attributes), 1)
        return self._head.read(self.shape.hidden_size, num_outputs=num_outputs)

    @property
    def attributes(self) -> tuple[str, ...]:
        """What each output of the head says, where config.json describes a regression of several."""
        labels = self.config.get("id2label")
        if self.config.get("problem_type") != "regression" or not isinstance(labels, dict) or len(labels) < 2:
            return ()
        return tuple(str(labels.get(str(number))) for number in range(len(labels)))

    def read_config(self) -> None:
        """Read config.json and the shape of the model in it."""
        config_file = self.base_model / "config.json"
        self.config = _read_json(config_file)
        self.shape = _shape_of(self.config, config_file)

    def _slice(self, name: str) -> Any:
        """A view of a stored tensor whose shape and type have been checked."""
        if name not in self._files:
            raise UserError(f"{self.directory} has no tensor {name}, which config.json asks for")
        stored = self._files[name].get_slice(name)
        check_number_type(self.directory, name, stored)
        shape = tuple(stored.get_shape())
        if shape != self._expected[name]:
            raise UserError(
                f"{self.directory}: {name} has shape {shape}, but config.json makes it "
                f"{self._expected[name]}; config and weights are of different models"
            )
        return stored


def check_names(weights: HuggingFaceWeights, *, loosely: bool) -> LoadReport:
    """What was forgiven, once the names of the directory are those of the reward model.

    The missing head and the unexpected language-model head are forgiven with `loosely` alone, except for a
    language-model head beside a value head, where LLaMA-Factory and TRL leave it; buffers that are computed
    are passed over. Shapes are checked as well.

    Raises:
        UserError: listing every missing and unexpected name that is not forgiven.
    """
    present, expected = set(weights.names), set(weights.expected_names())
    unread = set() if weights.post_layer_norm else {weights.tensors.final_norm_name}
    missing = sorted(expected - present - unread)
    if weights.head() is None:
        missing.append(HEAD_NAME)
    unexpected = sorted(
        name for name in present - expected - weights.head_names if not name.endswith(weights.tensors.buffers)
    )
    lm_head = weights.tensors.name(weights.tensors.lm_head)
    forgivable = [name for name in (*missing, *unexpected) if name in (HEAD_NAME, lm_head)]
    is_needed = bool(forgivable) and not (forgivable == [lm_head] and weights.keeps_language_model)
    if len(forgivable) < len(missing) + len(unexpected) or (is_needed and not loosely):
        raise UserError(_names_message(weights, missing, unexpected, forgivable))
    weights.check_shapes()
    return LoadReport(missing=tuple(missing), unexpected=tuple(unexpected))


def check_language_model(weights: HuggingFaceWeights) -> None:
    """The directory holds a language model of its config.json, and nothing else but buffers.

    Args:
        weights: as `of_language_model` gives them.

    Raises:
        UserError: listing what is missing and what is too much, a tensor has another shape, or the head would
            read hidden states before the final norm.
    """
    if not weights.post_layer_norm:
        raise UserError(f"{weights.source}: a language model without the final norm is not supported")
    present, expected = set(weights.names), set(weights.expected_names())
    lm_head = weights.tensors.name(weights.tensors.lm_head)
    forgiven = {lm_head} if weights.ties_embedding else set()  # a copy of the embedding
    parts = {
        "missing": sorted(expected - present),
        "unexpected": sorted(
            name for name in present - expected - forgiven if not name.endswith(weights.tensors.buffers)
        ),
    }
    found = "; ".join(f"{kind} {listed(names)}" for kind, names in parts.items() if names)
    if found:
        raise UserError(f"{weights.directory} does not hold a language model of its config.json: {found}")
    weights.check_shapes()


def _names_message(
    weights: HuggingFaceWeights, missing: list[str], unexpected: list[str], forgivable: list[str]
) -> str:
    parts = []
    if missing:
        parts.append(f"missing {listed(missing)}")
    if unexpected:
        parts.append(f"unexpected {listed(unexpected)}")
    if HEAD_NAME in forgivable:
        parts.append(f"the head is looked for as {weights.tensors.head_name} and in {VALUE_HEAD_FILE}")
    if HEAD_NAME in forgivable and len(forgivable) == len(missing) + len(unexpected):
        return (
            f"{weights.directory} is a base model without a reward head ({'; '.join(parts)}); "
            "--load-checkpoint-loosely starts with a random one"
        )
    if forgivable:
        parts.append(f"--load-checkpoint-loosely forgives only {listed(forgivable)}")
    return f"{weights.directory} does not hold a reward model of its config.json: {'; '.join(parts)}"


def read_shape(directory: Path) -> ModelShape:
    """The shape of the model of a directory, from config.json alone.

    Raises:
        UserError: config.json is missing or damaged, or the model is not supported.
    """
    config_file = directory / "config.json"
    return _shape_of(_read_json(config_file), config_file)


def _shape_of(config: Mapping[str, Any], config_file: Path) -> ModelShape:
    try:
        return shape_from_config(config)
    except UserError as error:
        raise UserError(f"{config_file}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the directory.

    Raises:
        UserError: the file is missing, or holds no JSON object.
    """
    damaged = "cannot be read ({error}); download it again"
    try:
        return read_json_object(path, damaged=damaged)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; a Hugging Face directory with safetensors is needed") from None
    except OSError as error:
        raise UserError(f"{path} {damaged.format(error=error)}") from None


def _open_weights(directory: Path) -> dict[str, Any]:
    """The open safetensors file of each tensor, by the tensor's name; a single file goes first."""
    if (directory / SINGLE_FILE).exists():
        file = MappedFile(directory / SINGLE_FILE)
        return dict.fromkeys(file.keys(), file)
    if not (directory / INDEX_FILE).exists():
        raise UserError(_no_weights_message(directory))
    weight_map = _read_json(directory / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(f"{directory / INDEX_FILE} has no weight_map of tensors to files; download it again")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if "/" in shard or "\\" in shard:  # links are followed: the Hugging Face cache consists of them
            raise UserError(f"{directory / INDEX_FILE} names {shard!r}, which is no file's name but a path")
    absent = [shard for shard in shards if not (directory / shard).exists()]
    if absent:
        raise UserError(
            f"{directory} lacks {listed(absent)}, listed in {INDEX_FILE}; download what is missing"
        )
    files = {shard: MappedFile(directory / shard) for shard in shards}
    held = {shard: set(file.keys()) for shard, file in files.items()}
    for name, shard in weight_map.items():
        if name not in held[shard]:
            raise UserError(
                f"{directory / shard} lacks {name}, which {INDEX_FILE} puts there; download both again"
            )
    return {name: files[shard] for name, shard in weight_map.items()}


def _no_weights_message(directory: Path) -> str:
    pickled = sorted(path.name for path in directory.glob("pytorch_model*.bin*"))
    if not pickled:
        return f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}"
    return (
        f"{directory} has pickled weights only ({pickled[0]}), which can run code and are not read; load "
        "them with transformers in a place you trust and save them again, as safetensors"
    )
