"""Values read from JSON as the fields of a dataclass: their names and their types."""

import dataclasses
import types
import typing
from typing import Any

from modellink_rm.base.log import warn_once


def has_type(value: Any, hint: Any) -> bool:
    """Whether a JSON value can stand where `hint` is declared; a hint that JSON has no type for accepts all.

    An int stands for a float, a list for a tuple; a bool does not stand for an int.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(has_type(value, argument) for argument in arguments)
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            return all(has_type(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(has_type, value, arguments))
    if origin is list and isinstance(value, list):
        return all(has_type(item, arguments[0]) for item in value)
    if origin is dict and isinstance(value, dict):
        return all(isinstance(name, str) and has_type(item, arguments[1]) for name, item in value.items())
    if hint is float:
        return type(value) in (int, float)
    if hint in (int, bool, str, type(None)):
        return type(value) is hint
    if dataclasses.is_dataclass(hint):
        return isinstance(value, dict | hint)
    if origin is typing.Literal:
        return value in arguments
    return origin not in (tuple, list, dict)


def check_types(kind: type, values: dict[str, Any]) -> None:
    """The values have the types of the fields of a dataclass.

    Raises:
        TypeError: names the first that has another.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in values and not has_type(values[field.name], hints[field.name]):
            raise TypeError(f"{field.name} is {repr(values[field.name])[:60]}")


def known_fields(kind: type, values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values of the fields of a dataclass; others, of a later package, cause a warning and are ignored.

    A list becomes a tuple where the field is one, and an object a dataclass, in the same way.

    Args:
        where: the file, as the warning calls it.

    Raises:
        TypeError: a value is of another type than its field, or an object lacks a field.
    """
    check_types(kind, values)
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    unknown = ", ".join(sorted(set(values) - names))
    if unknown:
        warn_once(
            f"{where}: {' '.join(unknown.split())} is unknown to this version of modellink-rm and is ignored"
        )
    return {name: _converted(value, hints[name], where) for name, value in values.items() if name in names}


def _converted(value: Any, hint: Any, where: str) -> Any:
    for kind in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        if isinstance(value, list) and typing.get_origin(kind) is tuple:
            return tuple(value)
        if isinstance(value, dict) and isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return kind(**known_fields(kind, value, where))
    return value
