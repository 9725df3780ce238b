"""Records to rows of token ids: what every worker does with a chunk of records."""

import hashlib
from array import array
from collections.abc import Sequence
from itertools import chain

import numpy as np

from modellink_rm.config.preprocess import CHECKS, PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.data import checks
from modellink_rm.data.handlers import make_handler
from modellink_rm.data.pair import Pair, TokenizedPair
from modellink_rm.data.records import BadRecord, RawRecord, RecordError, parse_record
from modellink_rm.data.rows import Refused, Rows, to_bytes
from modellink_rm.data.template_choice import find_template
from modellink_rm.data.templates import num_closing_tokens, tokenize_pair
from modellink_rm.data.tokenizer import load_tokenizer
from modellink_rm.data.word_cache import with_word_cache


class PairTokenizer:
    """A handler, a template, a tokenizer and the checks, at hand for one chunk after the other."""

    def __init__(self, config: PreprocessConfig, tokenizer_config: TokenizerConfig) -> None:
        self._handler = make_handler(config.handler_name, config.map_keys)
        self.tokenizer = with_word_cache(load_tokenizer(tokenizer_config))
        self.template = find_template(
            config.prompt_type,
            self.tokenizer,
            path=config.prompt_type_path,
            enable_thinking=config.enable_thinking,
        )
        self._seq_length = config.seq_length
        # Prepares the template, so that a token which the tokenizer lacks is known before any input.
        num_closing_tokens(self.template, self.tokenizer)
        self._checks = checks.PairChecks(
            max_prompt_length=config.max_prompt_length,
            max_answer_length=config.max_answer_length,
            special=checks.special_token_pattern(self.tokenizer),
        )
        self._dropped_flags = checks.mask_of(config.drop)
        self._keeps_refused_text = config.rejects is not None
        self._keeps_all_texts = self._keeps_refused_text and "duplicate" in config.drop

    def __call__(self, chunk: Sequence[RawRecord]) -> bytes:
        """The rows of a chunk's pairs and what was refused of it, as `to_bytes` writes them."""
        refused: list[Refused] = []
        pairs: list[TokenizedPair] = []
        flags: list[int] = []
        kept: list[RawRecord] = []
        for raw in chunk:
            row = self._row(raw, len(pairs))
            if isinstance(row, Refused):
                refused.append(row)
                continue
            pairs.append(row[0])
            flags.append(row[1])
            kept.append(raw)
        parts = [ids for pair in pairs for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)]
        lengths = np.array([len(ids) for ids in parts], np.int32).reshape(-1, 3)
        ids = np.frombuffer(array("i", chain.from_iterable(parts)), np.int32)
        return to_bytes(
            Rows(
                num_bytes=sum(len(raw.text) for raw in chunk),
                num_records=len(chunk),
                refused=refused,
                lengths=lengths,
                digests=_digests(ids, lengths),
                flags=np.array(flags, np.uint8),
                ids=ids,
                places=[raw.place for raw in kept] if self._keeps_all_texts else [],
                texts=[raw.text.decode("latin-1") for raw in kept] if self._keeps_all_texts else [],
            )
        )

    def _row(self, raw: RawRecord, index: int) -> tuple[TokenizedPair, int] | Refused:
        """Token ids of a record's pair with the flags of its checks, or why there are none."""
        text = raw.text.decode("latin-1") if self._keeps_refused_text else None
        record = parse_record(raw)
        if isinstance(record, BadRecord):
            return Refused(raw.place, record.reason, record.message, index=index, text=text)
        try:
            pair: Pair = self._handler(record.fields)
            tokens = tokenize_pair(pair, self.template, self.tokenizer)
            longest = len(tokens.prompt_ids) + max(len(tokens.chosen_ids), len(tokens.rejected_ids))
            shortest = len(tokens.prompt_ids) + min(len(tokens.chosen_ids), len(tokens.rejected_ids))
            if shortest == 0:
                raise RecordError("no tokens", "prompt and answer have no tokens at all")
        except RecordError as error:
            return Refused(raw.place, error.reason, str(error), index=index, text=text)
        flags = self._checks(pair, tokens)
        if self._seq_length is not None and longest >= self._seq_length:
            reason = f"not shorter than --seq-length {self._seq_length}"
            return Refused(raw.place, reason, f"{longest} tokens, {reason}", False, flags, index, text)
        dropped = checks.names_in(flags & self._dropped_flags)
        if dropped:
            reason = CHECKS[dropped[0]]
            message = "; ".join(CHECKS[name] for name in dropped)
            return Refused(raw.place, reason, message, False, flags, index, text)
        return tokens, flags


def _digests(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of every row, uint64: 8 bytes of a hash over its ids and where its parts end."""
    data = ids.view(np.uint8).data
    ends = (np.cumsum(lengths.sum(axis=1), dtype=np.int64) * ids.itemsize).tolist()
    heads = lengths.tobytes()
    width = lengths.itemsize * 3
    digest = b"".join(
        [
            hashlib.blake2b(data[start:end], digest_size=8, key=heads[i * width : (i + 1) * width]).digest()
            for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
        ]
    )
    return np.frombuffer(digest, "<u8")
