"""The data of a run: opens the data sets, finds their template, and splits their rows."""

import json
from collections.abc import Sequence
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.config.data import DataConfig
from modellink_rm.dataset.blend import Blend, blend_datasets
from modellink_rm.dataset.dataset import Dataset, open_dataset
from modellink_rm.dataset.reader import ExampleReader
from modellink_rm.handlers.choice import parsed_map_keys
from modellink_rm.templates.choice import check_truncation, find_template
from modellink_rm.templates.encode import num_closing_tokens
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer


def open_datasets(paths: Sequence[str], tokenizer: Tokenizer, *, verifies: bool) -> tuple[Dataset, ...]:
    """The data sets of --data-path.

    Args:
        verifies: compare what is read with its checksums.

    Raises:
        UserError: files are missing or cut off, or were made with another tokenizer.
    """
    datasets = tuple(open_dataset(Path(path), verifies=verifies) for path in paths)
    for dataset in datasets:
        dataset.check_tokenizer(tokenizer.fingerprint)
    return datasets


def template_of(name: str | None, datasets: Sequence[Dataset], tokenizer: Tokenizer) -> Template | None:
    """The template of the data; None if neither --prompt-type nor a manifest names one.

    Raises:
        UserError: there is no such template, or a data set was made with another.
    """
    template = _kept_or_known_template(name, datasets, tokenizer)
    if template is None:
        warn_once("--prompt-type is not given and the data does not say: checkpoints cannot say it either")
        return None
    for dataset in datasets:
        dataset.check_template(template.fingerprint)
    return template


def _kept_or_known_template(
    name: str | None, datasets: Sequence[Dataset], tokenizer: Tokenizer
) -> Template | None:
    """The template of that name, or of the data; from a data set's definition if it has one."""
    for dataset in datasets:
        if dataset.manifest is not None and name in (None, dataset.manifest.template):
            return dataset.template()
    return find_template(name, tokenizer) if name is not None else None


def handler_of(datasets: Sequence[Dataset]) -> tuple[str | None, str | None]:
    """--handler-name and --map-keys that read all the data; (None, None) if data sets differ."""
    manifests = [dataset.manifest for dataset in datasets]
    read = {
        (manifest.handler, json.dumps(parsed_map_keys(manifest.map_keys), sort_keys=True)): manifest
        for manifest in manifests
        if manifest is not None
    }
    if None in manifests or len(read) != 1:
        info("checkpoints name no handler: the data was read by several, or does not say by which")
        return None, None
    (manifest,) = read.values()
    return manifest.handler, manifest.map_keys


def placeholder_of(datasets: Sequence[Dataset]) -> str | None:
    """--placeholder-token of data sets of responses in steps; None if they are not, or do not say.

    Raises:
        UserError: they were made with several.
    """
    manifests = [dataset.manifest for dataset in datasets]
    found = {manifest.placeholder_token for manifest in manifests if manifest is not None}
    if len(found) > 1:
        raise UserError(
            f"--data-path: the data sets end steps with {' and '.join(sorted(map(repr, found)))}, and a "
            "model learns one of them: preprocess them with one --placeholder-token"
        )
    return next(iter(found), None)


def plan_blend(
    config: DataConfig,
    datasets: Sequence[Dataset],
    template: Template | None,
    tokenizer: Tokenizer,
    *,
    num_ids: int,
) -> Blend:
    """The blend of the data sets, each divided by --split.

    Args:
        num_ids: rows of the model's embedding.

    Raises:
        UserError: two data sets are the same, one leaves no row or no step to train on, or a row cannot be
            read.
    """
    check_truncation(template, config.truncation)
    if config.truncation == "keep-ends" and template is None:
        raise UserError("--truncation keep-ends needs --prompt-type, to know a response's closing tokens")
    reader = ExampleReader(
        seq_length=config.seq_length,
        truncation=config.truncation,
        num_closing_tokens=num_closing_tokens(template, tokenizer) if template is not None else 0,
        num_ids=num_ids,
    )
    blend = blend_datasets(datasets, config, reader)
    for dataset in datasets:
        if dataset.manifest is None:
            reader.check_rows(dataset)
        check_steps_are_left(dataset, seq_length=config.seq_length, flag="--data-path")
    num_too_long = sum(reader.num_too_long(dataset) for dataset in datasets)
    if num_too_long:
        warn_once(
            f"{num_too_long} of {sum(map(len, datasets))} examples are longer than --seq-length "
            f"{config.seq_length} and are truncated (--truncation {config.truncation})"
        )
    parts = (blend.train.datasets, blend.valid.datasets, blend.test.datasets)
    for train, valid, test in zip(*parts, strict=True):
        info(
            f"{train.dataset.prefix}: {len(train.rows)} rows for training, {len(valid.rows)} for validation, "
            f"{len(test.rows)} left for tests"
        )
    return blend


def check_steps_are_left(dataset: Dataset, *, seq_length: int, flag: str) -> None:
    """Responses in steps keep some; says how many keep none, which count nowhere.

    Args:
        flag: that names the data set.

    Raises:
        UserError: none keeps one.
    """
    number = dataset.rows.num_without_steps(seq_length)
    if number == len(dataset) > 0:
        raise UserError(
            f"{flag} {dataset.prefix}: --seq-length {seq_length} cuts off every step of every response; "
            "raise it"
        )
    if number:
        warn_once(
            f"{flag} {dataset.prefix}: --seq-length {seq_length} cuts off every step of {number} of "
            f"{len(dataset)} responses, which count nowhere"
        )


def report_mixture(blend: Blend, *, num_samples: int) -> None:
    """Log how several data sets are mixed, and how often a run of so many samples reads each one."""
    mixture = blend.mixture
    if len(mixture.names) == 1:
        return
    for name, size, share, epochs in zip(
        mixture.names, mixture.sizes, mixture.shares(), mixture.epochs(num_samples), strict=True
    ):
        info(f"mixture: {name}: {share:.2%} of the samples, {epochs:.2f} epochs of its {size} rows")
