"""A comparison of the ids of a directory's two tokenizer files."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.records import RawRecord, Record, parse_record
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.sentencepiece_tokenizer import is_sentencepiece_model
from modellink_rm.tokenizers.tokenizer import Tokenizer

_NUM_RECORDS = 100
# Texts for which the two kinds of files are known to differ: spaces, line breaks, control tokens.
_FIXED_SAMPLES = (
    "a  b   c",
    " a",
    "a ",
    "a\n\nb\n",
    "\ta\r\n",
    "<s>a</s>",
    "你好，世界。",
    "é e\u0301 ﬁ",
    "🙂",
    "1234567",
)
_SHOWN_CHARACTERS = 60
_SHOWN_IDS = 12


def warn_if_files_differ(tokenizer: Tokenizer, config: TokenizerConfig, records: Iterable[RawRecord]) -> None:
    """Warn if tokenizer.json and tokenizer.model of a directory give different ids.

    Args:
        tokenizer: the one in use.
        config: the flags it was loaded with.
        records: the first of them are the sample, with a few fixed texts.
    """
    directory = Path(config.tokenizer_name_or_path or "")
    model = directory / "tokenizer.model"
    is_of_directory = config.tokenizer_name_or_path and config.tokenizer_type == "PretrainedFromHF"
    if not is_of_directory or not (directory / "tokenizer.json").is_file() or not model.is_file():
        return
    if not is_sentencepiece_model(model):
        return
    used, other_name = "tokenizer.json", "tokenizer.model"
    if config.tokenizer_not_use_fast:
        used, other_name = other_name, used
    flipped = dataclasses.replace(config, tokenizer_not_use_fast=not config.tokenizer_not_use_fast)
    try:
        other = load_tokenizer(flipped)
    except UserError as error:
        warn_once(f"{directory}: {used} is used; {other_name} could not be compared with it: {error}")
        return
    texts = list(dict.fromkeys([*_FIXED_SAMPLES, *_sample_texts(records)]))
    differing = [text for text in texts if tokenizer.encode(text) != other.encode(text)]
    if differing:
        text = _shortest(differing, tokenizer, other)
        warn_once(
            f"{directory}: {used}, which is used, and {other_name} differ in {len(differing):,} of "
            f"{len(texts):,} sample texts; the first: {_shown(text)} is {_ids(tokenizer, text)} and not "
            f"{_ids(other, text)}. --tokenizer-not-use-fast chooses tokenizer.model"
        )


def _sample_texts(records: Iterable[RawRecord]) -> Iterator[str]:
    for raw in itertools.islice(records, _NUM_RECORDS):
        record = parse_record(raw)
        if isinstance(record, Record):
            yield from _strings(record.fields)


def _strings(value: Any) -> Iterator[str]:
    """Every text inside a JSON value."""
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, str) and value:
            yield value
        elif isinstance(value, dict):
            values += reversed(value.values())
        elif isinstance(value, list):
            values += reversed(value)


def _shortest(differing: list[str], tokenizer: Tokenizer, other: Tokenizer) -> str:
    """The first line of the text whose ids differ by themselves, else the whole text."""
    lines = (line for line in differing[0].splitlines() if tokenizer.encode(line) != other.encode(line))
    return next(lines, differing[0])


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def _ids(tokenizer: Tokenizer, text: str) -> str:
    ids = tokenizer.encode(text)
    return f"[{', '.join(map(str, ids[:_SHOWN_IDS]))}{', ...' if len(ids) > _SHOWN_IDS else ''}]"
