"""Rows that `score` wrote of policies' answers, read as sets of answers to the same prompts."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info
from modellink_rm.config.limits import Limits
from modellink_rm.config.selection import ListsConfig
from modellink_rm.config.study import StudyConfig
from modellink_rm.handlers import make_handler, prompt_of
from modellink_rm.inference.reader import RESPONSES_HANDLER
from modellink_rm.inference.rows import CHOSEN, REJECTED, SCORE, SCORES
from modellink_rm.inference.scored_rows import BESIDE_PROMPT, Counts, ScoredList, lists_of, rows_of
from modellink_rm.metrics.answers import Answers
from modellink_rm.records import RecordError, input_files, read_records
from modellink_rm.report.answer_sets import AnswerSet, Study, make_study

_ONE_SET = "prompts"
_PROMPT = "prompt"
_NUM_TOKENS, _ENDED = "num_tokens", "ended"  # as `generate` writes them
_WHAT_TO_GIVE = (
    "give answers to the same records in the same order, and take a prompt that has no score in one file out "
    "of all"
)
_LARGEST = 1e100  # of scores and lengths; squares of more are infinite


def read_study(config: StudyConfig) -> Study:
    """The study of the files that the flags name.

    Raises:
        UserError: a file holds no scored answers, or two policies were asked different prompts.
    """
    policies = {name: _lists(name, path, config) for name, path in config.named_answers}
    (first, wanted), *others = policies.items()
    for name, lists in others:
        _check_same_prompts(name, lists, first, wanted)
    places: dict[str, list[int]] = {}
    for place, one in enumerate(wanted):
        places.setdefault(_set_of(one, config.by), []).append(place)
    has_tokens = all(_has_tokens(one) for lists in policies.values() for one in lists)
    unit = "tokens" if has_tokens else "characters"
    sets = [
        _answer_set(policy, name, [lists[place] for place in inside], unit=unit)
        for name, inside in places.items()
        for policy, lists in policies.items()
    ]
    return make_study(sets, unit=unit, seen=_range(config), seed=config.seed)


def _lists(name: str, path: str, limits: Limits) -> list[ScoredList]:
    """The scored answers of a policy's file; rows without any are told.

    Raises:
        UserError: it has none, one without its prompt, or numbers that no model and no text have.
    """
    counts = Counts()
    config = ListsConfig(input=(path,))
    found = list(lists_of(read_records(path, limits, flag="--answers"), config, counts))
    if not found:
        reasons = ", ".join(f"{count:,} x {reason}" for reason, count in counts.dropped.most_common())
        raise UserError(f"--answers {path} holds no scored answer ({reasons}): give what score wrote")
    _tell_dropped(f"--answers {name}", counts)
    for number, one in enumerate(found, start=1):
        if one.fields.get(_PROMPT) is None:
            raise UserError(
                f"--answers {path}: scored prompt {number} has no field {_PROMPT!r}, by which answers of "
                "policies are matched: give what score wrote of generate's rows"
            )
    _check_size((score for one in found for score in one.scores), f"--answers {path}")
    return found


def _tell_dropped(what: str, counts: Counts) -> None:
    """Name the rows that nothing is said of."""
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in counts.dropped.most_common())
    if reasons:
        info(f"{what}: {counts.dropped.total():,} of {counts.read:,} rows are left out ({reasons})")


def _check_same_prompts(
    name: str, lists: Sequence[ScoredList], first: str, wanted: Sequence[ScoredList]
) -> None:
    """Check that two policies answered the same prompts in the same order.

    Raises:
        UserError: they did not.
    """
    for number, (one, other) in enumerate(zip(lists, wanted, strict=False), start=1):
        if _key(one) != _key(other):
            raise UserError(
                f"--answers: scored prompt {number} of {name} is not that of {first}: {_WHAT_TO_GIVE}"
            )
    if len(lists) != len(wanted):
        raise UserError(
            f"--answers: {name} has {len(lists):,} scored prompts, and {first} has {len(wanted):,}: "
            f"{_WHAT_TO_GIVE}"
        )


def _key(one: ScoredList) -> bytes:
    return _json([one.fields.get(name) for name in (_PROMPT, *BESIDE_PROMPT)]).encode()


def _json(value: Any) -> str:
    """JSON of any value that a record can hold, integers of any size too."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _set_of(one: ScoredList, by: str | None) -> str:
    """The name of a prompt's set.

    Raises:
        UserError: its row does not say.
    """
    if by is None:
        return _ONE_SET
    value = one.fields.get(by)
    if not isinstance(value, str) or not value:
        raise UserError(f"--by {by}: a row has no text there: {_prompt_text(one)[:60]!r}")
    return value


def _answer_set(policy: str, name: str, lists: Sequence[ScoredList], *, unit: str) -> AnswerSet:
    texts = [_text_of(response) for one in lists for response in one.responses]
    lengths = (
        [count for one in lists for count in one.fields[_NUM_TOKENS]] if unit == "tokens" else map(len, texts)
    )
    ended = [value for one in lists for value in _ended(one)]
    return AnswerSet(
        policy=policy,
        name=name,
        prompts=tuple(map(_prompt_text, lists)),
        texts=tuple(texts),
        numbers=Answers(
            prompts=np.repeat(np.arange(len(lists)), [len(one.scores) for one in lists]),
            scores=np.array([score for one in lists for score in one.scores], dtype=np.float64),
            lengths=np.array(list(lengths), dtype=np.float64),
        ),
        ended=float(np.mean(ended)) if len(ended) == len(texts) else None,
    )


def _has_tokens(one: ScoredList) -> bool:
    counts = one.fields.get(_NUM_TOKENS)
    return (
        isinstance(counts, list)
        and len(counts) == len(one.scores)
        and all(type(count) is int and 0 <= count < _LARGEST for count in counts)
    )


def _ended(one: ScoredList) -> list[bool]:
    """Whether each answer was ended by the policy; [] where the row does not say."""
    values = one.fields.get(_ENDED)
    if not isinstance(values, list) or len(values) != len(one.scores):
        return []
    return values if all(isinstance(value, bool) for value in values) else []


def _text_of(response: Any) -> str:
    if isinstance(response, dict) and isinstance(response.get("content"), str):
        return str(response["content"])
    return response if isinstance(response, str) else _json(response)


def _prompt_text(one: ScoredList) -> str:
    """The turns of a prompt, for a reader."""
    try:
        conversation = prompt_of(make_handler(RESPONSES_HANDLER, None), one.fields)
    except RecordError:
        return _text_of(one.fields.get(_PROMPT))
    turns = conversation.prompt
    if len(turns) == 1 and not conversation.system:
        return turns[0].content
    system = [f"system: {conversation.system}"] if conversation.system else []
    return "\n".join([*system, *(f"{turn.role}: {turn.content}" for turn in turns)])


def _range(config: StudyConfig) -> tuple[float, float] | None:
    """The lowest and the highest score of --training-scores; None without that flag.

    Raises:
        UserError: no row has a score, or one has a score that no model gives.
    """
    if not config.training_scores:
        return None
    path = " ".join(config.training_scores)
    found: list[int | float] = []
    counts = Counts()
    for row in rows_of(read_records(config.training_scores, config, flag="--training-scores"), counts):
        several = row.fields.get(SCORES)
        values = [row.fields.get(name) for name in (SCORE, CHOSEN, REJECTED)]
        values += several if isinstance(several, list) else []
        found += [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
    if not found:
        raise UserError(f"--training-scores {path} holds no score")
    _tell_dropped("--training-scores", counts)
    _check_size(found, f"--training-scores {path}")
    return float(min(found)), float(max(found))


def _check_size(scores: Iterable[float], what: str) -> None:
    """No score is larger than a model's.

    Raises:
        UserError: one is.
    """
    largest = max(scores, key=abs)
    if abs(largest) > _LARGEST:
        raise UserError(f"{what} holds the score {largest:g}, which no model gives: it is damaged")


def files_of_study(config: StudyConfig) -> list[Path]:
    """The files that a study reads."""
    answers = [path for _, path in config.named_answers]
    return [
        *input_files(answers, flag="--answers"),
        *input_files(config.training_scores, flag="--training-scores"),
    ]
