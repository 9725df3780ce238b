"""The tokenizer of a written directory: its files, with the padding token and the chat template."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modellink_rm.base.errors import UserError
from modellink_rm.conversion.padding import PadToken
from modellink_rm.conversion.samples import Sample

CHAT_TEMPLATE_FILE = "chat_template.jinja"
_CONFIG, _TOKENIZER, _MAP = "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"
_OLD_TEMPLATES = (CHAT_TEMPLATE_FILE, "chat_template.json")


def with_pad_token(files: Mapping[str, bytes], pad: PadToken) -> dict[str, bytes]:
    """The tokenizer's files with `pad` declared, and added to the vocabulary if it is new.

    Raises:
        UserError: a file is not JSON.
    """
    config = _json(files, _CONFIG)
    config["pad_token"] = pad.token
    changed = {**files}
    entry = {
        "content": pad.token,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
    }
    entry["special"] = True
    if pad.is_new and _TOKENIZER in files:
        tokenizer = _json(files, _TOKENIZER)
        tokenizer["added_tokens"] = [*tokenizer.get("added_tokens", []), {"id": pad.index, **entry}]
        changed[_TOKENIZER] = _bytes(tokenizer)
    if pad.is_new and (_TOKENIZER not in files or "added_tokens_decoder" in config):
        added = config.get("added_tokens_decoder", {})
        config["added_tokens_decoder"] = {**added, str(pad.index): entry}
    if _MAP in files:
        changed[_MAP] = _bytes({**_json(files, _MAP), "pad_token": pad.token})
    return {**changed, _CONFIG: _bytes(config)}


def with_chat_template(files: Mapping[str, bytes], jinja: str | None) -> dict[str, bytes]:
    """The files with this chat template and no other; None for none at all."""
    kept = {name: content for name, content in files.items() if name not in _OLD_TEMPLATES}
    config = _json(files, _CONFIG)
    config.pop("chat_template", None)
    template = {CHAT_TEMPLATE_FILE: jinja.encode()} if jinja is not None else {}
    return {**kept, _CONFIG: _bytes(config), **template}


def with_added_bos(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a tokenizer that puts BOS before a text of its own accord, where its class can."""
    return {**files, _CONFIG: _bytes({**_json(files, _CONFIG), "add_bos_token": True})}


def without_added_tokens(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a tokenizer that puts no BOS or EOS around a text of its own accord."""
    changed = {
        **files,
        _CONFIG: _bytes({**_json(files, _CONFIG), "add_bos_token": False, "add_eos_token": False}),
    }
    if _TOKENIZER in files:
        changed[_TOKENIZER] = _bytes({**_json(files, _TOKENIZER), "post_processor": None})
    return changed


@dataclass(frozen=True)
class Rendering:
    """What transformers makes of the files.

    Attributes:
        different: indices of the samples with other ids than training's.
        by_itself: what a rendered text becomes that a client sends without its BOS: training's ids; these
            without their BOS; or others, as the tokenizer adds what training did not have.
    """

    different: tuple[int, ...]
    by_itself: Literal["equal", "without BOS", "other"]


def render_with_transformers(
    files: Mapping[str, bytes], config: Mapping[str, Any], samples: Sequence[Sample], pad: PadToken
) -> Rendering:
    """Read the files with transformers and render the samples by their chat template.

    Raises:
        UserError: transformers cannot read the tokenizer, or gives the padding token another id.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as directory:
        for name, content in {**files, "config.json": _bytes(dict(config))}.items():
            Path(directory, name).write_bytes(content)
        try:
            own = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises whatever the files make it raise
            reason = " ".join(str(error).split())
            raise UserError(f"transformers cannot read the tokenizer's files: {reason}") from None
    if own.pad_token_id != pad.index:
        raise UserError(
            f"transformers gives the padding token {pad.token} the id {own.pad_token_id}, the vocabulary "
            f"{pad.index}: the tokenizer's files disagree with each other"
        )
    different = []
    by_itself: Literal["equal", "without BOS", "other"] = "equal"
    for index, sample in enumerate(samples):
        text = _rendered(own, sample)
        if text is None or own(text, add_special_tokens=False)["input_ids"] != list(sample.input_ids):
            different.append(index)
            continue
        bare = text.removeprefix(own.bos_token or "")
        ids = own(bare)["input_ids"]
        if ids != list(sample.input_ids):
            by_itself = "without BOS" if [own.bos_token_id, *ids] == list(sample.input_ids) else "other"
    return Rendering(tuple(different), by_itself)


def _rendered(tokenizer: Any, sample: Sample) -> str | None:
    """The sample's text; None if the chat template refuses it."""
    try:
        text: str = tokenizer.apply_chat_template(list(sample.messages), tokenize=False)
    except Exception:  # jinja2's, or whatever the template's own code raises
        return None
    return text


def declared_pad_token(files: Mapping[str, bytes]) -> str | None:
    """pad_token of the files."""
    for name in (_CONFIG, _MAP):
        token = _json(files, name).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return None


def own_chat_template(files: Mapping[str, bytes]) -> str | None:
    """The chat template that the files have, if they have one."""
    if CHAT_TEMPLATE_FILE in files:
        return files[CHAT_TEMPLATE_FILE].decode()
    template = _json(files, _CONFIG).get("chat_template")
    return template if isinstance(template, str) else None


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The object in one of the files; empty if it is not there."""
    try:
        value = json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise UserError(f"{name} of the tokenizer is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{name} of the tokenizer must hold a JSON object")
    return value


def _bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
