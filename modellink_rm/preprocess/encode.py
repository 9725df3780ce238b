"""Records to rows of token ids: the work that each worker does on a block of records."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modellink_rm.base.errors import UserError
from modellink_rm.config.preprocess import CHECKS, PreprocessConfig, placeholder_text
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversation import Conversation, Rated, Stepwise, Unranked
from modellink_rm.handlers import conversation_of, make_handler
from modellink_rm.handlers.fields import rated_attributes
from modellink_rm.preprocess import checks
from modellink_rm.preprocess.rows import Refused, Rows, to_bytes
from modellink_rm.records import BadRecord, RawRecord, RecordError, parse_record, text_crc32
from modellink_rm.templates.choice import find_template
from modellink_rm.templates.encode import TokenizedResponses, num_closing_tokens, tokenize_responses
from modellink_rm.templates.steps import tokenize_steps
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.word_cache import with_word_cache


class RecordEncoder:
    """A handler, a template, a tokenizer and the checks, applied to blocks of records."""

    def __init__(self, config: PreprocessConfig, tokenizer_config: TokenizerConfig) -> None:
        self._handler = make_handler(config.handler_name, config.map_keys)
        self._attributes = rated_attributes(self._handler)
        self.tokenizer = with_word_cache(load_tokenizer(tokenizer_config))
        self.template = find_template(
            config.prompt_type,
            self.tokenizer,
            path=config.prompt_type_path,
            enable_thinking=config.enable_thinking,
            reward_token=config.reward_token or "",
        )
        self._seq_length = config.seq_length
        self._placeholder = placeholder_text(config.placeholder_token)
        # Prepares the template, so that a token missing in the tokenizer is found before any input is read.
        num_closing_tokens(self.template, self.tokenizer)
        self._checks = checks.RowChecks(
            max_prompt_length=config.max_prompt_length,
            max_answer_length=config.max_answer_length,
            special=checks.special_token_pattern(self.tokenizer),
        )
        self._dropped_flags = checks.mask_of(config.drop)
        self._keeps_refused_text = config.rejects is not None
        self._keeps_all_texts = self._keeps_refused_text and "duplicate" in config.drop

    def __call__(self, block: Sequence[RawRecord]) -> bytes:
        """The rows and the refused records of a block, as written by `to_bytes`."""
        refused: list[Refused] = []
        rows: list[_Row] = []
        kept: list[RawRecord] = []
        for raw in block:
            row = self._row(raw, len(rows))
            if isinstance(row, Refused):
                refused.append(row)
                continue
            rows.append(row)
            kept.append(raw)
        parts = [ids for row in rows for ids in (row.tokens.prompt_ids, *row.tokens.response_ids)]
        lengths = np.array([len(ids) for ids in parts], np.int32)
        ids = np.frombuffer(b"".join(parts), np.int32)
        num_responses = np.array([len(row.tokens.response_ids) for row in rows], np.int32)
        has_sources = any(row.source for row in rows)
        return to_bytes(
            Rows(
                num_bytes=sum(len(raw.text) for raw in block),
                num_records=len(block),
                crc32=text_crc32(block),
                refused=refused,
                num_responses=num_responses,
                lengths=lengths,
                digests=_digests(ids, lengths, num_responses),
                flags=np.array([row.flags for row in rows], np.uint8),
                ranks=np.array([rank for row in rows for rank in row.ranks], np.int32),
                margins=np.array([value for row in rows for value in row.margins], np.float32),
                probabilities=np.array([value for row in rows for value in row.probabilities], np.float32),
                num_steps=np.array([len(row.step_ends) for row in rows], np.int32),
                step_ends=np.array([value for row in rows for value in row.step_ends], np.int32),
                step_labels=np.array([value for row in rows for value in row.step_labels], np.float32),
                ids=ids,
                attributes=list(self._attributes),
                ratings=np.array([value for row in rows for value in row.ratings], np.float32),
                sources=[row.source for row in rows] if has_sources else [],
                places=[raw.place for raw in kept] if self._keeps_all_texts else [],
                texts=[raw.text.decode("latin-1") for raw in kept] if self._keeps_all_texts else [],
            )
        )

    def _row(self, raw: RawRecord, index: int) -> "_Row | Refused":
        """Token ids of a record with the findings of its checks, or why it is refused."""
        text = raw.text.decode("latin-1") if self._keeps_refused_text else None
        record = parse_record(raw)
        if isinstance(record, BadRecord):
            return Refused(raw.place, record.reason, record.message, index=index, text=text)
        try:
            example = conversation_of(self._handler, record.fields)
            if isinstance(example, Unranked):
                raise RecordError("no response is preferred")
            ratings = self._ratings(example)
            step_labels = _step_labels(example)
            tokens, step_ends = self._tokens(example)
        except RecordError as error:
            return Refused(raw.place, error.reason, str(error), index=index, text=text)
        flags = self._checks(example, tokens)
        longest = len(tokens.prompt_ids) + max(map(len, tokens.response_ids))
        if self._seq_length is not None and longest >= self._seq_length:
            reason = f"not shorter than --seq-length {self._seq_length}"
            return Refused(raw.place, reason, f"{longest} tokens, {reason}", False, flags, index, text)
        dropped = checks.names_in(flags & self._dropped_flags)
        if dropped:
            reason = CHECKS[dropped[0]]
            message = "; ".join(CHECKS[name] for name in dropped)
            return Refused(raw.place, reason, message, False, flags, index, text)
        source = (example.source or "").encode(errors="backslashreplace").decode()
        others = len(example.responses) - 1
        return _Row(
            tokens=tokens,
            flags=flags,
            ranks=example.ranks,
            margins=example.margins or (math.nan,) * others,
            probabilities=example.probabilities or (math.nan,) * others,
            ratings=ratings,
            step_ends=step_ends,
            step_labels=step_labels,
            source=source,
        )

    def _ratings(self, example: Conversation) -> tuple[float, ...]:
        """The ratings of a conversation, one for each attribute of the handler.

        Raises:
            RecordError: there is none, or there are others than the handler's.
        """
        ratings = example.ratings if isinstance(example, Rated) else ()
        if len(ratings) != len(self._attributes):
            raise RecordError("not one rating for each attribute of the handler")
        if ratings and all(map(math.isnan, ratings)):
            raise RecordError("no attribute is rated", f"none of {', '.join(self._attributes)} is rated")
        return ratings

    def _tokens(self, example: Conversation) -> tuple[TokenizedResponses, tuple[int, ...]]:
        """Token ids, and where the steps of a response in steps end.

        Raises:
            RecordError: the template has no form for a part of the record, or a response has no token.
            UserError: --reward-token is given, and the response is in steps.
        """
        if not isinstance(example, Stepwise):
            return tokenize_responses(example, self.template, self.tokenizer), ()
        if self.template.reward_token:
            raise UserError(
                f"--reward-token {self.template.reward_token} is for responses that are scored as a whole: "
                "steps are scored at --placeholder-token; leave it out"
            )
        return tokenize_steps(example, self.template, self.tokenizer, placeholder=self._placeholder)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row before it joins the arrays; NaN stands for a number that is not given."""

    tokens: TokenizedResponses
    flags: int
    ranks: tuple[int, ...]
    margins: tuple[float, ...]
    probabilities: tuple[float, ...]
    ratings: tuple[float, ...]
    step_ends: tuple[int, ...]
    step_labels: tuple[float, ...]
    source: str


def _step_labels(example: Conversation) -> tuple[float, ...]:
    """The labels of a response in steps, NaN for none; () of other conversations.

    Raises:
        RecordError: no step has one.
    """
    if not isinstance(example, Stepwise):
        return ()
    labels = tuple(math.nan if label is None else label for label in example.labels or ())
    if all(map(math.isnan, labels)):
        raise RecordError("no step has a label")
    return labels


def _digests(ids: np.ndarray, lengths: np.ndarray, num_responses: np.ndarray) -> np.ndarray:
    """uint64 per row: 8 bytes of a hash over its ids and the ends of its parts."""
    data = ids.view(np.uint8).data
    part_ends = np.cumsum(lengths, dtype=np.int64) * ids.itemsize
    last_parts = np.cumsum(num_responses + 1)
    heads = lengths.tobytes()
    width = lengths.itemsize
    starts = zip([0, *last_parts.tolist()], [0, *part_ends[last_parts - 1].tolist()], strict=True)
    found = []
    for (part, start), (last, end) in itertools.pairwise(starts):
        digest = hashlib.blake2b(data[start:end], digest_size=8)
        digest.update(heads[part * width : last * width])
        found.append(digest.digest())
    return np.frombuffer(b"".join(found), "<u8")
