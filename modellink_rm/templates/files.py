"""Templates from a JSON or YAML file, in the format of ModelLink's and MindSpeed-LLM's templates.json.

A file holds one object, or a list of them:

    {"name": "mine", "format_user": {"slots": ["<|user|>{{content}}", {"token": "<|bot|>"}]},
     "format_prefix": {"slots": [["bos_token"]]}, "stop_words": ["<|end|>"], "replace_eos": true}
"""

import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.records import RecordError, check_unicode
from modellink_rm.records.duplicate_keys import DuplicateKeyError, parsed_by_key
from modellink_rm.templates.calls import CALL_FORMATS
from modellink_rm.templates.table import (
    BOS,
    CONTENT,
    EOS,
    ROUND,
    SYSTEM_RULES,
    Bos,
    Eos,
    Slot,
    Template,
    Token,
)
from modellink_rm.templates.tools import SYSTEM_FORMATS

_SLOTS = ("user", "assistant", "system", "observation", "prefix", "separator")
_TEXTS = ("name", "default_system", "chat_template", "call_format", "system_rule", "reward_token")
_ADDED_TEXTS = ("call_format", "system_rule", "reward_token")  # written only if not empty
_SWITCHES = ("efficient_eos", "replace_eos", "system_in_user", "strip_thoughts", "thinking")
_CLASSES = {"Llama2Template": "system_in_user", "ReasoningTemplate": "strip_thoughts"}
_IGNORED = {
    "format_function": "a call is written unchanged, as an answer",
    "force_system": "an empty system text is not written",
}
_KEYS = (
    *(f"format_{name}" for name in (*_SLOTS, "tools")),
    *_TEXTS,
    *_SWITCHES,
    *_IGNORED,
    "stop_words",
    "template_class",
)
_BESIDE_CHAT_TEMPLATE = ("name", "chat_template", "thinking", "reward_token", *_IGNORED)
_FIELDS = {"{{content}}": CONTENT, "{{idx}}": ROUND}


def template_in_file(path: str, name: str) -> Template:
    """The template of that name in a file.

    Raises:
        UserError: the file does not exist, or the template is not in it, is in it twice, or is not valid.
    """
    entries = _entries(Path(path))
    names = [entry["name"] for entry in entries]
    if names.count(name) > 1:
        raise UserError(f"--prompt-type-path {path} holds {names.count(name)} templates named {name}")
    if name not in names:
        raise UserError(unknown_name_message(f"--prompt-type in {path}", name, names))
    return template_of_definition(entries[names.index(name)], where=f"{path}, template {name}")


def template_of_definition(entry: Mapping[str, Any], *, where: str) -> Template:
    """The template that an object of such a file defines.

    Args:
        entry: the object.
        where: where it is, for messages.

    Raises:
        UserError: it is not valid.
    """
    for key in entry:
        if key not in _KEYS:
            raise UserError(f"{where}: {unknown_name_message('key', key, _KEYS)}")
        if key in _IGNORED:
            warn_once(f"{where}: {key} is ignored: {_IGNORED[key]}")
    values: dict[str, Any] = {}
    for name in _SLOTS:
        if f"format_{name}" in entry:
            values[name] = _slots(entry[f"format_{name}"], f"{where}: format_{name}")
    for name in _TEXTS:
        values[name] = _of_type(entry.get(name, ""), str, "a text", f"{where}: {name}")
    for name in _SWITCHES:
        if entry.get(name) is not None:
            values[name] = _of_type(entry[name], bool, "true or false", f"{where}: {name}")
    stop_words = _of_type(entry.get("stop_words", []), list, "a list", f"{where}: stop_words")
    values["stop_words"] = tuple(
        _of_type(word, str, "a list of texts", f"{where}: stop_words") for word in stop_words
    )
    values |= _class_and_tools(entry, where)
    if values["chat_template"]:
        _check_alone(entry, where)
    else:
        _check(values, where)
    return Template(**{"user": (), **values})  # a chat template has no slots


def definition_of(template: Template) -> dict[str, Any]:
    """The object that defines a template, to store with data and checkpoints that use it."""
    if template.chat_template:
        entry: dict[str, Any] = {"name": template.name, "chat_template": template.chat_template}
        entry |= {"reward_token": template.reward_token} if template.reward_token else {}
        return entry if template.thinking is None else entry | {"thinking": template.thinking}
    entry = {"name": template.name}
    for name in _SLOTS:
        slots = getattr(template, name)
        if slots is not None:
            entry[f"format_{name}"] = {"slots": [_written(slot) for slot in slots]}
    if template.tool_format:
        entry["format_tools"] = {"tool_format": template.tool_format}
    if template.tools_slots:
        entry["format_tools"] = {"slots": [_written(slot) for slot in template.tools_slots]}
    entry |= {"default_system": template.default_system, "stop_words": list(template.stop_words)}
    entry |= {name: getattr(template, name) for name in _ADDED_TEXTS if getattr(template, name)}
    switches = {name: getattr(template, name) for name in _SWITCHES}
    return entry | {name: value for name, value in switches.items() if value is not None}


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"--prompt-type-path {path} does not exist")
    try:
        is_yaml = path.suffix.lower() in (".yaml", ".yml")
        value = _yaml_value(path.read_bytes()) if is_yaml else parsed_by_key(path.read_bytes())
    except DuplicateKeyError as error:
        raise UserError(f"--prompt-type-path {path}: {error.key!r} is twice in one object") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--prompt-type-path {path} cannot be read: {error}") from None
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
            raise UserError(f"--prompt-type-path {path}: every template is an object with a name")
    return entries


def _yaml_value(content: bytes) -> Any:
    """The value of a YAML text.

    Raises:
        DuplicateKeyError: a key is twice in one mapping, of which PyYAML keeps one value.
        ValueError: it is no YAML.
    """
    import yaml

    try:
        for node in _yaml_nodes(yaml.compose(content, yaml.SafeLoader)):
            keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
            for key in keys:
                if keys.count(key) > 1:
                    raise DuplicateKeyError(str(key))
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from None


def _yaml_nodes(first: Any) -> Iterator[Any]:
    """Each node of a YAML text once, however often aliases name it."""
    waiting, seen = [first], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if node is not None and isinstance(node.value, list):
            waiting += [
                part for item in node.value for part in (item if isinstance(item, tuple) else (item,))
            ]


def _slots(value: Any, where: str) -> tuple[Slot, ...]:
    slots = value.get("slots") if isinstance(value, dict) else value
    return tuple(_slot(slot, where) for slot in _of_type(slots, list, "a list of slots", where))


def _slot(slot: Any, where: str) -> Slot:
    if isinstance(slot, dict) and list(slot) == ["token"] and isinstance(slot["token"], str):
        return Token(_unicode(slot["token"], where))
    if slot in (["bos_token"], ["eos_token"]):
        return BOS if slot == ["bos_token"] else EOS
    if not isinstance(slot, str):
        raise UserError(
            f'{where}: a slot is a text, {{"token": "..."}}, ["bos_token"] or ["eos_token"]; got '
            f"{_quoted(slot)}"
        )
    slot = _unicode(slot, where)
    for field in (*_FIELDS.values(), "{system}"):
        if field in slot.replace("{" + field + "}", ""):
            raise UserError(f"{where}: write {{{field}}} for the field, with two braces; got {slot!r}")
    for written, field in _FIELDS.items():
        slot = slot.replace(written, field)
    return str(slot)


def _written(slot: Slot) -> Any:
    if isinstance(slot, Token):
        return {"token": slot.name}
    if isinstance(slot, Bos | Eos):
        return ["bos_token" if isinstance(slot, Bos) else "eos_token"]
    for written, field in _FIELDS.items():
        slot = slot.replace(field, written)
    return slot


def _class_and_tools(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "template_class" in entry:
        given = _of_type(entry["template_class"], str, "a text", f"{where}: template_class")
        if given not in _CLASSES:
            raise UserError(f"{where}: {unknown_name_message('template_class', given, _CLASSES)}")
        values[_CLASSES[given]] = True
    tools = entry.get("format_tools", {})
    if isinstance(tools, dict) and "tool_format" in tools:
        given = _of_type(tools["tool_format"], str, "a text", f"{where}: tool_format")
        if given not in SYSTEM_FORMATS:
            raise UserError(f"{where}: {unknown_name_message('tool_format', given, SYSTEM_FORMATS)}")
        values["tool_format"] = given
    elif tools:
        values["tools_slots"] = _slots(tools, f"{where}: format_tools")
    return values


def _check_alone(entry: Mapping[str, Any], where: str) -> None:
    """Refuse what says something beside a chat template, which replaces all of it."""
    for key, value in entry.items():
        if value and key not in _BESIDE_CHAT_TEMPLATE:
            raise UserError(f"{where}: {key} has no meaning beside chat_template: leave one of them out")


def _check(values: Mapping[str, Any], where: str) -> None:
    """Refuse a template of slots that cannot be rendered, or not be read back from its definition."""
    if "user" not in values:
        raise UserError(f"{where}: format_user is missing")
    for name in ("user", "assistant", "system", "observation", "tools_slots"):
        places = sum(slot.count(CONTENT) for slot in values.get(name, (CONTENT,)) if isinstance(slot, str))
        if places != 1:
            raise UserError(f"{where}: format_{name} must hold {{{{content}}}} once, it does {places} times")
    for name, choices in (("call_format", ("", *CALL_FORMATS)), ("system_rule", SYSTEM_RULES)):
        if values.get(name) not in choices:
            raise UserError(f"{where}: {unknown_name_message(name, values[name], choices)}")
    if values.get("replace_eos") and not values["stop_words"]:
        raise UserError(f"{where}: replace_eos needs stop_words, the first of which is the EOS")
    if values.get("tool_format") and values.get("system_in_user"):
        raise UserError(f"{where}: tools are in system messages, which system_in_user does not have")


def _of_type(value: Any, wanted: type, described: str, where: str) -> Any:
    if not isinstance(value, wanted):
        raise UserError(f"{where} must be {described}, got {_quoted(value)}")
    return _unicode(value, where) if isinstance(value, str) else value


def _unicode(text: str, where: str) -> str:
    """The text, which a tokenizer takes.

    Raises:
        UserError: it has half of a surrogate pair.
    """
    try:
        check_unicode(text)
    except RecordError as error:
        raise UserError(f"{where}: {error}") from None
    return text


def _quoted(value: Any) -> str:
    """The beginning of a value: with aliases a few lines of YAML stand for billions of texts."""
    shortening = reprlib.Repr()
    shortening.maxlevel, shortening.maxstring = 2, 100
    return shortening.repr(value)
