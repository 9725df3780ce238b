"""The log-probabilities of a run's reference: computed once, before the first step, and kept beside the data.

The model of the run computes them, with the reference's weights in it: no second model is held.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modellink_rm.adapters.lora import is_of_adapter
from modellink_rm.base.checksums import sha256_of_all
from modellink_rm.base.errors import AgreedError, UserError
from modellink_rm.base.log import info
from modellink_rm.base.platform import Platform
from modellink_rm.batching.micro_batches import Packing, micro_batches_of
from modellink_rm.checkpoint.base_reference import checkpoint_reference
from modellink_rm.checkpoint.load import load_model_weights
from modellink_rm.checkpoint.peft.directory import CONFIG_FILE
from modellink_rm.checkpoint.source import ModelSource
from modellink_rm.dataset.blend import DatasetRows, Part
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.dataset.indexed import IndexedReader
from modellink_rm.dataset.reader import ExampleReader
from modellink_rm.dataset.reference import ReferenceColumn, reference_parts
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.spec import ModelSpec
from modellink_rm.parallel.groups import Ranks, of_every_process
from modellink_rm.parallel.pipeline import forward_scores
from modellink_rm.train.evaluate import FoundScores
from modellink_rm.train.plan import RunPlan
from modellink_rm.train.plan_reference import REFERENCE_NAME, Reference, WrittenReference, open_reference

_ROWS_OF_A_PART = 512


def with_references(
    plan: RunPlan,
    chunks: Sequence[RewardModel],
    *,
    packing: Packing,
    platform: Platform,
    ranks: Ranks,
) -> RunPlan:
    """The plan whose examples have the reference's log-probabilities; a collective over all processes.

    Those that are not beside the data yet are computed and written there.

    Args:
        chunks: with the weights that the run starts from; those of a run that is continued are loaded later.

    Raises:
        AgreedError: the reference is not the one that the run was started with, or gives no finite numbers.
    """
    if plan.reference is None:
        return plan
    fingerprint = _fingerprint(plan.reference)
    model = _ReferenceModel(plan, plan.reference, chunks, packing=packing, platform=platform, ranks=ranks)
    columns: dict[str, IndexedReader] = {}
    with model:
        for dataset in _datasets_of(plan):
            identity = column_identity(
                dataset,
                plan.blend.train.reader,
                plan.model.spec,
                dtype=plan.config.precision.dtype,
                fingerprint=fingerprint,
            )
            column = ReferenceColumn(prefix=dataset.prefix, identity=identity)
            columns[str(dataset.prefix)] = _column(column, dataset, model, ranks)
    written = WrittenReference(load=plan.reference.load, fingerprint=fingerprint)
    content = json.dumps(dataclasses.asdict(written), indent=1).encode()
    info_files = {**plan.info_files, REFERENCE_NAME: content}
    return dataclasses.replace(_with_columns(plan, columns), info_files=info_files)


def _datasets_of(plan: RunPlan) -> list[Dataset]:
    """Every data set that the run trains on or evaluates, once."""
    parts = [plan.blend.train, *(one.part for one in plan.held_out)]
    found = {str(one.dataset.prefix): one.dataset for part in parts for one in part.datasets}
    return list(found.values())


def _with_columns(plan: RunPlan, columns: Mapping[str, IndexedReader]) -> RunPlan:
    reader = dataclasses.replace(plan.blend.train.reader, references=columns)

    def read(part: Part) -> Part:
        return dataclasses.replace(part, reader=reader)

    blend = dataclasses.replace(
        plan.blend, train=read(plan.blend.train), valid=read(plan.blend.valid), test=read(plan.blend.test)
    )
    held_out = tuple(dataclasses.replace(one, part=read(one.part)) for one in plan.held_out)
    return dataclasses.replace(plan, blend=blend, held_out=held_out)


def column_identity(
    dataset: Dataset, reader: ExampleReader, spec: ModelSpec, *, dtype: torch.dtype, fingerprint: str
) -> dict[str, Any]:
    """All that determines the log-probabilities of a data set.

    Args:
        reader: of its rows.
        spec: of the run's model; adapters begin as none, but what they update may be quantized.
        fingerprint: of the reference's weights.
    """
    quantization = None if spec.lora is None else spec.lora.quantization or None
    fields = {**dataclasses.asdict(spec), "lora": quantization}
    fields.pop("padded_vocab_size")
    return {
        "model": fingerprint,
        "spec": hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest(),
        "dtype": str(dtype),
        "data": dataset.fingerprint()["files"],
        "template": dataset.manifest.template_fingerprint if dataset.manifest is not None else None,
        "seq_length": reader.seq_length,
        "truncation": reader.truncation,
        "num_closing_tokens": reader.num_closing_tokens,
    }


def _column(
    column: ReferenceColumn, dataset: Dataset, model: "_ReferenceModel", ranks: Ranks
) -> IndexedReader:
    """The column of a data set, computed where there is none; a collective."""
    is_there = of_every_process(ranks.rank == 0 and column.open() is not None)[0]
    if not is_there:
        _compute(column, dataset, model, ranks)
    reader = column.open()
    if not all(of_every_process(reader is not None)):
        raise AgreedError(
            f"{column.array}: not every process sees the log-probabilities that were written; the data must "
            "lie where all of them read it"
        )
    assert reader is not None
    return reader


def _compute(column: ReferenceColumn, dataset: Dataset, model: "_ReferenceModel", ranks: Ranks) -> None:
    """Compute a column and write it; parts that an earlier run finished are kept."""
    lengths = dataset.rows.num_responses()
    part = model.part_of(dataset)
    with reference_parts(column) if ranks.rank == 0 else nullcontext() as parts:
        # Another run may have come to the end of it while this one waited.
        if of_every_process(parts is not None and column.open() is not None)[0]:
            if parts is not None:
                parts.remove()
            return
        values = parts.finished(column.identity_json) if parts is not None else []
        num_values = of_every_process(sum(map(len, values)))[0]
        first = int(np.searchsorted(np.cumsum(lengths), num_values, side="right"))
        before = f", {first} of them by an earlier run" if first else ""
        info(f"reference: log-probabilities of {len(part)} rows of {dataset.prefix}{before}")
        for start in range(first, len(part), _ROWS_OF_A_PART):
            found = model.log_probs(part, range(start, min(start + _ROWS_OF_A_PART, len(part))))
            if parts is not None:
                parts.add(found)
                values.append(found)
        if parts is not None:
            column.write(np.concatenate([np.zeros(0, np.float64), *values]), lengths)
            parts.remove()
    of_every_process(None)  # the files are there


class _ReferenceModel:
    """The run's model, which has the reference's weights from the first use to the end of the block."""

    def __init__(
        self,
        plan: RunPlan,
        reference: Reference,
        chunks: Sequence[RewardModel],
        *,
        packing: Packing,
        platform: Platform,
        ranks: Ranks,
    ) -> None:
        self._plan = plan
        self._reference = reference
        self._chunks = chunks
        self._packing = packing
        self._platform = platform
        self._ranks = ranks
        self._has_weights = not plan.continues and reference.source is plan.model.source
        self._was_changed = False

    def __enter__(self) -> "_ReferenceModel":
        return self

    def __exit__(self, *error: object) -> None:
        source = self._plan.model.source
        begins_with = source.base if self._plan.continues else source  # the rest of a state is loaded later
        if self._was_changed and begins_with is not None and error[0] is None:
            self._load(begins_with)

    def part_of(self, dataset: Dataset) -> Part:
        """All rows of a data set."""
        rows = DatasetRows(dataset=dataset, rows=range(len(dataset)))
        return Part(datasets=(rows,), reader=self._plan.blend.train.reader)

    def log_probs(self, part: Part, rows: range) -> NDArray[np.float64]:
        """The log-probabilities of the answers of these rows, one row after the other; a collective.

        Raises:
            AgreedError: one is not a finite number.
        """
        self._take_weights()
        examples = [part[row] for row in rows]
        found = FoundScores(device=self._platform.device, dtype=torch.float64)
        found.begin(examples)
        for chunk in self._chunks:
            chunk.eval()
        number, batches = micro_batches_of(examples, self._packing, self._ranks)
        on_device = (batch.to(self._platform.device) for batch in batches)
        if number:
            for scores, batch in forward_scores(self._chunks, on_device, num_micro_batches=number):
                if self._ranks.reports_scores:
                    found.add(scores, batch)
        for chunk in self._chunks:
            chunk.train()
        values = found.over_processes()
        for example, of_row in zip(examples, values, strict=True):
            if not np.isfinite(of_row).all():
                raise AgreedError(
                    f"--reference-load {self._reference.load} gives the answers of row {example.index} of "
                    f"{example.dataset} log-probabilities that are not finite; give another model"
                )
        return np.concatenate(values)

    def _take_weights(self) -> None:
        if self._has_weights:
            return
        source = self._reference.source
        if source is None:
            source = self._reopened()
        self._load(source)
        if source.adapter is None and source.base is None:
            self._clear_adapters()
        self._has_weights = self._was_changed = True

    @torch.no_grad()
    def _clear_adapters(self) -> None:
        """Take away the adapters that the policy begins with, which the reference has no others for."""
        own = self._plan.model.source
        if own.adapter is None and own.base is None:
            return  # they begin at 0
        for chunk in self._chunks:
            for name, parameter in chunk.global_parameters():
                if is_of_adapter(name):
                    parameter.zero_()

    def _reopened(self) -> ModelSource:
        """The reference of a run that is continued, whose column is gone.

        Raises:
            AgreedError: it is gone too, or is another one now.
        """
        load = self._reference.load
        try:
            source = open_reference(load, self._plan.config, self._plan.model.spec)
        except UserError as error:
            raise AgreedError(
                f"the log-probabilities of the reference are gone from beside the data: {error}"
            ) from None
        if weights_fingerprint(source) != self._reference.fingerprint:
            raise AgreedError(_another_reference(load))
        return source

    def _load(self, source: ModelSource) -> None:
        verifies = self._plan.config.checkpoint.verify_checksums
        load_model_weights(self._chunks, source, self._ranks, verifies=verifies)


def _fingerprint(reference: Reference) -> str:
    """The fingerprint of the reference's weights, equal on every process.

    Raises:
        AgreedError: the run was started with another reference.
    """
    if reference.source is None:
        assert reference.fingerprint is not None
        return reference.fingerprint
    found = weights_fingerprint(reference.source)
    if reference.fingerprint not in (None, found):
        raise AgreedError(_another_reference(reference.load))
    return found


def _another_reference(load: str) -> str:
    return (
        f"{load} is not the reference model that the run was started with; give that one as "
        "--reference-load, or --finetune to start a new run from the weights, under another --save"
    )


def weights_fingerprint(source: ModelSource) -> str:
    """What tells a model from others, its adapters included, without reading all of its weights."""
    parts = [source.reference.fingerprint]
    if source.adapter is not None:
        directory = source.adapter.directory  # lora_alpha and the like are in its config
        parts += sha256_of_all([directory / CONFIG_FILE, *sorted(directory.glob("*.safetensors"))])
    if source.base is not None and source.checkpoint is not None:
        parts.append(checkpoint_reference(source.checkpoint.path).fingerprint)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
