"""tokenizer.model, read by sentencepiece, with sentencepiece's own ids."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from modellink_rm.base.errors import UserError
from modellink_rm.tokenizers.protobuf import message_fields
from modellink_rm.tokenizers.settings_files import read_tokenizer_settings
from modellink_rm.tokenizers.tokenizer import Tokenizer, fingerprint_of, is_bracketed

# SentencePiece.Type in sentencepiece_model.proto (sentencepiece 0.2)
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece vocabulary, with control tokens inside and after it.

    Args:
        model: content of a tokenizer.model.
        added_tokens: token -> id of the tokens declared beside the model.
        flagged: tokens declared special; `encode` reads them as text, even if they are user-defined
            symbols of the model.
        bos_id: None if there is no BOS.
        eos_id: None if there is no EOS.
        name: for messages.
        files: files to copy into a checkpoint, the model first.
    """

    vocabulary_name = "tokenizer.model"

    def __init__(
        self,
        model: bytes,
        *,
        added_tokens: Mapping[str, int],
        flagged: frozenset[str],
        bos_id: int | None,
        eos_id: int | None,
        name: str,
        files: tuple[Path, ...],
    ) -> None:
        pieces = list(_marked_pieces(model))
        own = {piece.text: piece.index for piece in pieces}
        self._model = model
        self._added_tokens = dict(added_tokens)
        self._flagged = flagged
        self._user_defined = {piece.text for piece in pieces if piece.type == _USER_DEFINED}
        self._processor = open_processor(_with_controls(model, pieces, flagged), name)
        self.name = name
        self.files = files
        self.special_tokens = {**own, **self._added_tokens}
        self.vocab_size = max([self._processor.get_piece_size() - 1, *self._added_tokens.values()]) + 1
        self.bos_id = bos_id
        self.eos_id = eos_id
        settings = {
            "special": self.special_tokens,
            "flagged": sorted(flagged & self._user_defined),
            "bos": bos_id,
            "eos": eos_id,
        }
        self.fingerprint = fingerprint_of("sentencepiece", model, settings)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text, sentencepiece's own."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; tokens after the sentencepiece vocabulary are spelled out."""
        after = {index: token for token, index in self._added_tokens.items()}
        parts: list[str] = []
        stretch: list[int] = []
        for index in ids:
            if index in after:
                parts += [self._processor.decode(stretch), after[index]]
                stretch = []
            else:
                stretch.append(index)
        return "".join([*parts, self._processor.decode(stretch)])

    def with_control_tokens(self, tokens: Collection[str]) -> "SentencePieceTokenizer":
        """This tokenizer with an `encode` that also reads `tokens` as text."""
        if not self._user_defined.intersection(tokens) - self._flagged:
            return self
        derived = SentencePieceTokenizer(
            self._model,
            added_tokens=self._added_tokens,
            flagged=self._flagged.union(tokens),
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            name=self.name,
            files=self.files,
        )
        derived.fingerprint = self.fingerprint
        return derived


def is_sentencepiece_model(path: Path) -> bool:
    """Whether the file is a sentencepiece model; tiktoken vocabularies are also called tokenizer.model."""
    try:
        open_processor(path.read_bytes(), str(path))
    except UserError:
        return False
    return True


def load_sentencepiece_tokenizer(path: Path) -> SentencePieceTokenizer:
    """The tokenizer of a tokenizer.model and of the json files beside it."""
    model = path.read_bytes()
    processor = open_processor(model, str(path))
    settings = read_tokenizer_settings(path.parent)

    def named_id(name: str, own: int) -> int | None:
        """Id of the token that the files beside the model name, else the model's own (-1 for none)."""
        token = settings.named.get(name)
        if token is None:
            return own if own >= 0 else None
        if token in settings.added:
            return settings.added[token]
        index: int = processor.piece_to_id(token)
        return index if processor.id_to_piece(index) == token else None

    return SentencePieceTokenizer(
        model,
        added_tokens=settings.added,
        flagged=settings.special,
        bos_id=named_id("bos_token", processor.bos_id()),
        eos_id=named_id("eos_token", processor.eos_id()),
        name=str(path),
        files=(path, *settings.files),
    )


def open_processor(model: bytes, name: str) -> "sentencepiece.SentencePieceProcessor":
    """The sentencepiece processor of a tokenizer.model's content.

    Raises:
        UserError: it is not a sentencepiece model.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
    except RuntimeError:
        raise UserError(f"{name} is not a sentencepiece model") from None
    return processor


@dataclass(frozen=True, slots=True)
class _MarkedPiece:
    """A control piece, and the position of its type (one byte) in the model."""

    index: int
    text: str
    type: int
    type_offset: int


def _marked_pieces(model: bytes) -> Iterator[_MarkedPiece]:
    """The control pieces, the unknown piece and the bracketed user-defined pieces of a model.

    The Python package identifies control pieces but not user-defined ones, so this reads the protobuf
    message: field 1 of ModelProto is a piece, whose field 1 is its text and field 3 its type.
    """
    pieces = (field for field in message_fields(model, 0, len(model)) if field.number == 1)
    for index, piece in enumerate(pieces):
        text, kind, offset = b"", 1, 0
        for field in message_fields(model, piece.start, piece.end):
            if field.number == 1:
                text = model[field.start : field.end]
            elif field.number == 3:
                kind, offset = model[field.start], field.start
        if kind in (_UNKNOWN, _CONTROL) or (kind == _USER_DEFINED and is_bracketed(text.decode())):
            yield _MarkedPiece(index, text.decode(), kind, offset)


def _with_controls(model: bytes, pieces: list[_MarkedPiece], flagged: frozenset[str]) -> bytes:
    """The model, with those user-defined pieces that are in `flagged` turned into control pieces.

    sentencepiece finds user-defined pieces in any text, but never control pieces.
    """
    changed = bytearray(model)
    for piece in pieces:
        if piece.type == _USER_DEFINED and piece.text in flagged:
            changed[piece.type_offset] = _CONTROL
    return bytes(changed)
