"""Command-line flags from dataclasses: each field is a flag, and its help is the only text about it.

A group of flags is a frozen, keyword-only dataclass whose fields are made with `flag`:
`seq_length` becomes `--seq-length`, a bool that defaults to True becomes `--no-x`, a tuple takes
several values. `__post_init__` of the group checks its values; rules across groups are checked where
their values meet.
"""

import argparse
import dataclasses
import difflib
import math
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.base.terminal import num_columns

Group = TypeVar("Group")
# No real count, size or seed is this large; a mistyped one would loop forever or fill the memory.
LARGEST_NUMBER = 2**31
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*")
# As float() reads it; argparse takes one with an exponent, as scores are written, for a flag.
_NEGATIVE_NUMBER = re.compile(r"-(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$")


def flag(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
    minimum: int | None = None,
    above: int | None = None,
    level: Literal["common", "rare", "hidden"] = "common",
    accumulates: bool = False,
) -> Any:
    """A dataclass field that is a command-line flag; without a default it is required.

    Args:
        minimum: least value, which `check_minimums` checks; None, for a flag that is not given, passes.
        above: likewise, a number that the value must be above.
        accumulates: the flag may be given several times, and its values add up; otherwise the last ones
            count. For a tuple whose default is ().
        level: where --help lists it: "common" with its group, "rare" after all groups, "hidden" nowhere,
            because the flag changes nothing.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "metavar": metavar,
        "minimum": minimum,
        "above": above,
        "level": level,
        "accumulates": accumulates,
    }
    return dataclasses.field(default=default, metadata=metadata)


def check_minimums(group: Any) -> None:
    """Check that every value of a group is as large as its flag says; for its `__post_init__`.

    Raises:
        UserError: the first one that is not.
    """
    for field in dataclasses.fields(group):
        value, minimum, above = getattr(group, field.name), field.metadata["minimum"], field.metadata["above"]
        if value is None:
            continue
        if minimum is not None and not value >= minimum:
            rule = f"be at least {minimum}" if minimum else "not be negative"
            raise UserError(f"{flag_name(field.name)} must {rule}, got {value}")
        if above is not None and not value > above:
            raise UserError(f"{flag_name(field.name)} must be above {above}, got {value}")


def groups_of(kind: type[Any]) -> dict[str, type[Any]]:
    """The groups of flags that are the fields of a dataclass, by name, in its order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@dataclasses.dataclass(frozen=True)
class IgnoredFlag:
    """A flag of another tool that has no effect here: accepted with one warning.

    Attributes:
        takes_value: whether a value follows the flag.
        reason: why it has no effect; completes "--x is ignored: ".
    """

    takes_value: bool
    reason: str


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are `UserError`s, and whose @files hold words and comments."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._negative_number_matcher = _NEGATIVE_NUMBER

    def error(self, message: str) -> typing.NoReturn:
        if message.startswith("[Errno"):  # of an @file
            message = f"an @file of flags cannot be read: {message.split('] ', 1)[1]}"
        message = re.sub(r"^argument (\S+?)(?:/\S+)?: (must|expected) ", r"\1 \2 ", message)
        raise UserError(message)

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """The words of a line; as in a shell, a # begins a comment where it begins a word."""
        return _COMMENT.sub("", arg_line.removeprefix("\ufeff")).split()


class _HelpFormatter(argparse.HelpFormatter):
    """argparse's, except that no flag is broken at its hyphens: a broken one cannot be found or copied."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.fill(
            " ".join(text.split()),
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )


def flag_name(field_name: str, *, negated: bool = False) -> str:
    """`seq_length` -> `--seq-length`, or `--no-seq-length`."""
    return ("--no-" if negated else "--") + field_name.replace("_", "-")


def with_first_flag(argv: Sequence[str], name: str) -> list[str]:
    """The words, with the flag of that name before values that stand first."""
    return [name, *argv] if argv and not argv[0].startswith(("-", "@")) else list(argv)


def parse_flags(
    argv: Sequence[str],
    groups: Sequence[type[Any]],
    *,
    prog: str,
    description: str,
    usage: str = "",
    example: str = "",
    ignored: Mapping[str, IgnoredFlag] | None = None,
) -> dict[type[Any], Any]:
    """One instance of each group, made from the command line.

    Args:
        argv: the words after the program's name; `@file` stands for the words of a file.
        groups: dataclasses made of `flag` fields, in the order of --help; no field name is in two groups.
        usage: the required flags, which --help begins with.
        example: the shortest useful command.
        ignored: flags of other tools to accept with a warning, by name ("--use-flash-attn").

    Raises:
        UserError: an unknown flag, a missing one, or a value that the group refuses.
    """
    parser = build_parser(groups, prog=prog, description=description, usage=usage, example=example)
    ignored = ignored or {}
    for name, entry in ignored.items():
        options: dict[str, Any] = {"help": argparse.SUPPRESS, "dest": name, "default": None}
        if entry.takes_value:
            parser.add_argument(name, **options)
        else:
            parser.add_argument(name, action="store_true", **options)
    try:
        namespace, unknown = parser.parse_known_args(list(argv))
    except RecursionError:
        raise UserError("an @file of flags names itself, or another one that names it") from None
    except UnicodeDecodeError:
        raise UserError("an @file of flags is no text in UTF-8; write it anew as such") from None
    if unknown:
        raise UserError(_unknown_flag_message(parser, unknown[0]))
    values = vars(namespace)
    for name, entry in ignored.items():
        if values[name] is not None:
            warn_once(f"{name} is ignored: {entry.reason}")
    for field in (field for group in groups for field in dataclasses.fields(group)):
        _check_value(field, values[field.name])
    return {
        group: group(**{field.name: _given(field, values[field.name]) for field in dataclasses.fields(group)})
        for group in groups
    }


def _given(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """The value, or the default "" that argparse does not know: it converts texts, and "" is refused."""
    return "" if value is None and field.default == "" else value


def _check_value(field: "dataclasses.Field[Any]", value: Any) -> None:
    choices = field.metadata["choices"]
    if choices is not None and value is not None and value not in choices:
        raise UserError(unknown_name_message(f"{flag_name(field.name)}", value, choices))


def build_parser(
    groups: Sequence[type[Any]], *, prog: str, description: str, usage: str = "", example: str = ""
) -> argparse.ArgumentParser:
    """A parser for the flags of `groups`, each group titled with the first line of its docstring.

    Rarely needed flags come after all groups, again by group.
    """
    form = _command_lines(" ".join(filter(None, [prog, usage, "[flag ...]"])), label="usage: ")
    if example:
        form += f"\nexample: {_command_lines(example, label='example: ')}"
    parser = _Parser(
        prog=prog,
        usage=form.replace("%", "%%"),
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        fromfile_prefix_chars="@",
    )
    for levels in (("common", "hidden"), ("rare",)):
        for group in groups:
            hints = typing.get_type_hints(group)
            fields = [field for field in dataclasses.fields(group) if field.metadata["level"] in levels]
            title = (group.__doc__ or group.__name__).splitlines()[0].rstrip(".")
            section = parser.add_argument_group(title if "common" in levels else f"{title}, rarely needed")
            for field in fields:
                _add_flag(section, field, hints[field.name])
    return parser


def _command_lines(command: str, *, label: str) -> str:
    """A command that fits the terminal after the label, in lines that begin with a flag and can be pasted."""
    lines: list[str] = []
    for words in re.split(r" (?=\[?--)", command):
        width = num_columns() - (len(label) if len(lines) == 1 else 0) - len(" \\")
        if lines and len(lines[-1]) + 1 + len(words) <= width:
            lines[-1] += f" {words}"
        else:
            lines.append(f"    {words}" if lines else words)
    return " \\\n".join(lines)


def _add_flag(section: Any, field: "dataclasses.Field[Any]", hint: Any) -> None:
    value_type, takes_many = _value_type(hint)
    metadata = field.metadata
    required = field.default is dataclasses.MISSING
    help_text = metadata["help"].replace("%", "%%")
    if metadata["level"] == "hidden":
        help_text = argparse.SUPPRESS
    if value_type is bool and not takes_many:
        default = False if required else field.default
        name = flag_name(field.name, negated=default is True)
        action = "store_false" if default is True else "store_true"
        section.add_argument(name, dest=field.name, action=action, default=default, help=help_text)
        return
    options: dict[str, Any] = {
        "dest": field.name,
        "type": _CONVERTERS[value_type],
        "help": help_text
        if required or field.default in (None, (), "") or help_text == argparse.SUPPRESS
        else f"{help_text} (default: %(default)s)",
        "metavar": metadata["metavar"] or _METAVARS.get(value_type) or _METAVARS_OF_NAMES.get(field.name),
        "required": required,
        "default": None if required or field.default == "" else field.default,
    }
    if metadata["choices"] is not None:
        options["metavar"] = metadata["metavar"] or "{" + ",".join(metadata["choices"]) + "}"
    if takes_many:
        options["nargs"] = "+"
        options["action"] = _AddingAction if metadata["accumulates"] else _TupleAction
    section.add_argument(flag_name(field.name), **options)


def _text(word: str) -> str:
    if not word.strip():
        raise argparse.ArgumentTypeError(f"must not be empty, got {word!r}")
    return word


def _whole_number(word: str) -> int:
    try:
        value = int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {_shortened(word)}") from None
    if abs(value) >= LARGEST_NUMBER:
        raise argparse.ArgumentTypeError(f"must be below {LARGEST_NUMBER}, got {_shortened(word)}")
    return value


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {_shortened(word)}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {_shortened(word)}")
    return value


def _shortened(word: str) -> str:
    return repr(word if len(word) <= 40 else f"{word[:40]}...")


_METAVARS = {int: "N", float: "X"}
# Of flags that several commands have.
_METAVARS_OF_NAMES = {
    "load": "DIR",
    "save": "DIR",
    "output": "FILE",
    "png": "DIR",
    "handler_name": "NAME",
    "map_keys": "JSON",
    "prompt_type": "NAME",
    "prompt": "FIELD",
    "responses": "FIELD",
    "response": "FIELD",
}
_CONVERTERS = {str: _text, int: _whole_number, float: _number}


class _TupleAction(argparse.Action):
    """Keep several values as a tuple, as the frozen groups do; say so where they replace others."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before, now = getattr(namespace, self.dest), tuple(values)
        if before is not self.default and before != now:
            name = flag_name(self.dest)
            warn_once(
                f"{name} is given twice: {' '.join(map(str, now))} takes the place of "
                f"{' '.join(map(str, before))}; to have all, name them after one {name}"
            )
        setattr(namespace, self.dest, now)


class _AddingAction(argparse.Action):
    """Add several values to those of the same flag before."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), *values))


def _value_type(hint: Any) -> tuple[type, bool]:
    """(type of one value, whether the flag takes several values): `int | None` -> (int, False)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    assert isinstance(hint, type), f"a flag cannot be of type {hint}"
    return hint, False


def _unknown_flag_message(parser: argparse.ArgumentParser, word: str) -> str:
    name = word.split("=", 1)[0]
    if not name.startswith("-"):
        return f"unexpected argument {word!r}: every value follows a flag"
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; --help lists them"
    return f"unknown flag {name}{hint}"
