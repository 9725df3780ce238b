"""LLaMA-Factory's dataset_info.json: its entries with `ranking: true`, translated to our flags."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_files import read_json_object
from modellink_rm.base.log import warn_once
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.handlers import HANDLERS

_HANDLERS = {
    "alpaca": "AlpacaStylePairwiseHandler",
    "sharegpt": "SharegptStylePairwiseHandler",
    "openai": "SharegptStylePairwiseHandler",
}
# The meaning of "formatting": "openai" in LLaMA-Factory.
_OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "system_tag": "system",
}
_KNOWN = ("file_name", "hf_hub_url", "formatting", "ranking", "columns", "tags")
_WITHOUT_EFFECT = ("file_sha1", "ms_hub_url", "om_hub_url")


def with_dataset_info(config: PreprocessConfig) -> PreprocessConfig:
    """The flags, with --dataset-dir and the names in --input replaced by files, handler and fields.

    Raises:
        UserError: there is no such entry, or it does not describe preference pairs.
    """
    if config.dataset_dir is None:
        return config
    path = Path(config.dataset_dir) / "dataset_info.json"
    entries = _entries(path)
    inputs, meanings = [], []
    for name in config.input:
        if name not in entries:
            raise UserError(unknown_name_message(f"--input in {path}", name, entries))
        entry, where = entries[name], f"{path}, entry {name}"
        inputs.append(_input_of(entry, path.parent, where))
        meanings.append(_handler_and_keys(entry, where))
    if any(meaning != meanings[0] for meaning in meanings):
        given = " ".join(config.input)
        raise UserError(f"--input {given}: the entries differ in their columns; preprocess them one by one")
    handler_name, map_keys = meanings[0]
    return dataclasses.replace(
        config,
        input=tuple(inputs),
        dataset_dir=None,
        handler_name=handler_name,
        map_keys=json.dumps(map_keys) if map_keys else None,
    )


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"--dataset-dir: {path} does not exist")
    entries = read_json_object(path, expected="an object of objects")
    if not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path} must hold an object of objects")
    return entries


def _input_of(entry: Mapping[str, Any], directory: Path, where: str) -> str:
    if isinstance(entry.get("file_name"), str):
        return str(directory / entry["file_name"])
    if isinstance(entry.get("hf_hub_url"), str):
        return str(entry["hf_hub_url"])
    raise UserError(f"{where} names neither file_name nor hf_hub_url")


def _handler_and_keys(entry: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Name of the handler and its --map-keys."""
    for key, value in entry.items():
        if key in _WITHOUT_EFFECT:
            warn_once(f"{where}: {key} is ignored")
        elif key not in _KNOWN and (key, value) != ("split", "train"):
            raise UserError(f"{where}: {key} is not supported; known are {', '.join(_KNOWN)}")
    if entry.get("ranking") is not True:
        raise UserError(f'{where} has no "ranking": true: it does not hold preference pairs')
    formatting = str(entry.get("formatting", "alpaca"))
    if formatting not in _HANDLERS:
        raise UserError(f"{where}: {unknown_name_message('formatting', formatting, _HANDLERS)}")
    known = [field.name for field in dataclasses.fields(HANDLERS[_HANDLERS[formatting]])]
    columns = _object(entry, "columns", where)
    # null switches a column off; a column unknown to the handler is off anyway.
    keys = {key: value for key, value in columns.items() if value is not None or key in known}
    tags = _object(entry, "tags", where)
    if formatting == "openai":
        tags = _OPENAI_TAGS | tags
    if tags:
        keys["tags"] = tags
    return _HANDLERS[formatting], keys


def _object(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = entry.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key} must be an object")
    return value
