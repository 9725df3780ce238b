"""The held-out sets of a run: what is evaluated, and the scores that are written for the report."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from modellink_rm.base.errors import UserError
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.config.checkpoint import BEST_METRICS
from modellink_rm.config.run import RunConfig
from modellink_rm.config.training import RATINGS_LOSS
from modellink_rm.dataset.blend import Blend, DatasetRows, Part
from modellink_rm.dataset.dataset import Dataset, open_dataset
from modellink_rm.dataset.reader import ExampleReader
from modellink_rm.metrics.accuracy import ranked_pairs
from modellink_rm.objective.objective import Objective
from modellink_rm.report.run_files import TRAINING, VALIDATION, ScoredExample
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer
from modellink_rm.train.evaluate import Evaluation
from modellink_rm.train.plan_data import check_steps_are_left

NUM_TRAINING = 256  # examples of the training part whose scores are written
NUM_WRITTEN = 1024  # examples of a held-out set whose scores are written
NUM_TEXTS = 10  # examples of the lowest margins, and of the highest, whose texts are written
LONGEST_TEXT = 4000  # characters
_NAME = re.compile(r"[\w.+-]+")
_TAKEN = (VALIDATION, TRAINING, "experts")


@dataclass(frozen=True, kw_only=True)
class HeldOutSet:
    """Rows that are evaluated under a name.

    Attributes:
        objective: the run's, as it reads these rows.
    """

    name: str
    part: Part
    objective: Objective


def plan_held_out(
    config: RunConfig,
    blend: Blend,
    *,
    batch_size: int,
    template: Template | None,
    tokenizer: Tokenizer,
    objective: Objective,
    placeholder: str | None = None,
) -> tuple[HeldOutSet, ...]:
    """The validation part and the sets of --valid-data-path, each of --eval-iters global batches at most.

    Args:
        template: of the training data.
        placeholder: that ends the steps of the training data; None where it has none, or does not say.

    Raises:
        UserError: a name is taken or has other characters, or a set cannot be read, was made with another
            tokenizer, template or placeholder, holds other examples than the objective takes, or is trained
            on.
    """
    reader = blend.train.reader
    most = config.training.eval_iters * batch_size
    sets = [HeldOutSet(name=VALIDATION, part=blend.valid.first(most), objective=objective)]
    for name, prefix in _named_prefixes(config.data.valid_data_path):
        dataset = open_dataset(Path(prefix), verifies=config.checkpoint.verify_checksums)
        dataset.check_tokenizer(tokenizer.fingerprint)
        if template is not None:
            dataset.check_template(template.fingerprint)
        _check_placeholder(dataset, placeholder)
        _check_not_trained_on(dataset, blend)
        check_steps_are_left(dataset, seq_length=reader.seq_length, flag="--valid-data-path")
        part = _whole(dataset, reader).first(most)
        own_objective = objective.for_data([dataset], flag="--valid-data-path")
        sets.append(HeldOutSet(name=name, part=part, objective=own_objective))
    return tuple(one for one in sets if len(one.part))


def files_of_sets(sets: Sequence[HeldOutSet]) -> dict[str, dict[str, str]]:
    """Of each set of --valid-data-path, by its name, checksums of its files."""
    return {
        one.name: one.part.datasets[0].dataset.fingerprint()["files"]
        for one in sets
        if one.name != VALIDATION
    }


def metric_of(config: RunConfig, sets: Sequence[HeldOutSet]) -> str | None:
    """The metric of --save-best as metrics.jsonl names it; None without --save-best.

    Raises:
        UserError: nothing is evaluated, or its set is none of those that are.
    """
    wanted = config.checkpoint.save_best
    if wanted is None:
        if config.training.early_stopping_patience is not None:
            raise UserError("--early-stopping-patience needs --save-best: it watches that metric")
        return None
    names = [one.name for one in sets]
    if not names:
        raise UserError(
            f"--save-best {wanted} needs rows to evaluate: give --valid-data-path, or --split a share of "
            "validation, and --eval-iters above 0"
        )
    of, _, metric = wanted.rpartition("/")
    if of and of not in names:
        raise UserError(unknown_name_message("held-out set of --save-best", of, names))
    name = of or names[0]
    objective = next(one.objective for one in sets if one.name == name)
    reported = ("loss", *objective.metrics(dict.fromkeys(objective.sum_names, 0.0), 1))
    if metric not in reported:
        training = config.training
        is_of_ratings = training.loss_type == RATINGS_LOSS
        what = f"--loss-type {training.loss_type}" if is_of_ratings else f"--stage {training.stage}"
        known = " or ".join(one for one in BEST_METRICS if one in reported)
        raise UserError(f"--save-best {wanted}: evaluations of {what} have no {metric}; give {known}")
    return f"{name}/{metric}"


def training_sample(blend: Blend, *, batch_size: int, eval_iters: int) -> Part:
    """The first rows of the training part, for the distribution of their scores."""
    return blend.train.first(min(NUM_TRAINING, eval_iters * batch_size))


def scored_examples(
    evaluation: Evaluation, part: Part, *, iteration: int, tokenizer: Tokenizer | None
) -> Iterator[ScoredExample]:
    """Lines of scores.jsonl: every k-th example of an evaluation, of which those at both ends have texts.

    Args:
        part: the examples of the evaluation.
        tokenizer: for the texts of the lowest and highest margins; None to leave them out.
    """
    num_examples = len(evaluation.examples)
    written = range(0, num_examples, math.ceil(num_examples / NUM_WRITTEN))
    extremes = set(_extremes(evaluation, written)) if tokenizer is not None else set()
    for number in written:
        known, prompt, responses = evaluation.examples[number], None, None
        if tokenizer is not None and number in extremes:
            prompt, responses = _texts(part, number, tokenizer)
        yield ScoredExample(
            iteration=iteration,
            set=evaluation.set,
            dataset=known.name.dataset,
            row=known.name.row,
            source=known.source,
            scores=tuple(evaluation.scores[number].tolist()),
            ranks=known.ranks,
            num_tokens=known.num_tokens,
            prompt=prompt,
            responses=responses,
        )


def _extremes(evaluation: Evaluation, numbers: Sequence[int]) -> list[int]:
    """Those examples of the lowest and of the highest margins, of several pairs the lowest of theirs."""

    def margin(number: int) -> float:
        scores = evaluation.scores[number]
        better, worse = ranked_pairs(evaluation.examples[number].ranks)
        return float((scores[better] - scores[worse]).min()) if len(better) else 0.0

    order = sorted(numbers, key=lambda number: (margin(number), number))
    return [*order[:NUM_TEXTS], *order[-NUM_TEXTS:]]


def _texts(part: Part, number: int, tokenizer: Tokenizer) -> tuple[str, tuple[str, ...]]:
    """The prompt, whose end is kept, and the responses, whose beginnings are."""
    example = part[number]
    num_prompt = example.responses[0].num_prompt_tokens
    prompt = tokenizer.decode(example.responses[0].input_ids[:num_prompt].tolist())
    texts = [
        tokenizer.decode(one.input_ids[one.num_prompt_tokens :].tolist())[:LONGEST_TEXT]
        for one in example.responses
    ]
    return prompt[-LONGEST_TEXT:], tuple(texts)


def _named_prefixes(words: Sequence[str]) -> list[tuple[str, str]]:
    """The names and prefixes of --valid-data-path.

    Raises:
        UserError: a name has other characters, is given twice, or is taken.
    """
    found: dict[str, str] = {}
    for word in words:
        name, separator, prefix = word.partition("=")
        if not separator or "/" in name:
            name, prefix = PurePath(word).name, word
        if not prefix or not _NAME.fullmatch(name):
            raise UserError(
                f"--valid-data-path {word}: give NAME=PREFIX, the name of letters, digits and _.+-"
            )
        if name in found or name in _TAKEN:
            reason = "is given twice" if name in found else f"is taken, as are {' '.join(_TAKEN)}"
            raise UserError(f"--valid-data-path {word}: the name {name} {reason}; give NAME=PREFIX")
        found[name] = prefix
    return list(found.items())


def _check_placeholder(dataset: Dataset, trained: str | None) -> None:
    found = dataset.manifest.placeholder_token if dataset.manifest is not None else None
    if None not in (found, trained) and found != trained:
        raise UserError(
            f"--valid-data-path {dataset.prefix} ends steps with {found!r}, and the training data with "
            f"{trained!r}, at which alone the model learns to score them: preprocess it with the same "
            "--placeholder-token"
        )


def _check_not_trained_on(dataset: Dataset, blend: Blend) -> None:
    for one in blend.train.datasets:
        if one.dataset.has_rows_of(dataset):
            raise UserError(
                f"--valid-data-path {dataset.prefix} holds the rows of --data-path {one.dataset.prefix}, "
                "which are trained on: give other rows, or --split for a share of these"
            )


def _whole(dataset: Dataset, reader: ExampleReader) -> Part:
    if dataset.manifest is None:
        reader.check_rows(dataset)
    return Part(datasets=(DatasetRows(dataset=dataset, rows=range(len(dataset))),), reader=reader)
