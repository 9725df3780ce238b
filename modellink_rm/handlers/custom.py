"""Handlers of users: a class in a Python file, or one that an installed package offers."""

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any, get_args

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Conversation, Message, Pair, Ranking, Rated, Role, Stepwise, Unranked
from modellink_rm.handlers.fields import Handler, answer_fields, are_attributes, rated_attributes
from modellink_rm.handlers.messages import alternating
from modellink_rm.records import shortened

_ROLES = get_args(Role)
_ROLES_OF_ANSWERS = ("assistant", "function_call")


def is_file_and_class(name: str) -> bool:
    """Whether --handler-name has the form path/to/file.py:ClassName."""
    return ".py:" in name


def files_of_handler(name: str | None) -> list[Path]:
    """The file of path/to/file.py:ClassName; none for another name, or None."""
    return [] if name is None or not is_file_and_class(name) else [Path(name.rpartition(":")[0])]


def class_in_file(name: str) -> type[Any]:
    """The class that path/to/file.py:ClassName names; imports the file.

    Raises:
        UserError: the file does not exist, or has no such class.
    """
    (path,), class_name = files_of_handler(name), name.rpartition(":")[2]
    if not path.is_file():
        raise UserError(f"--handler-name {name}: {path} does not exist")
    spec = importlib.util.spec_from_file_location(f"modellink_rm_handler_{path.stem}", path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise UserError(f"--handler-name {name}: {path} has no class {class_name}")
    return found


def is_foreign(handler: object) -> bool:
    """Whether a handler is not one of this package, so that its results must be checked."""
    return not getattr(handler, "__module__", "").startswith(f"{__package__}.")


class CheckedHandler:
    """A user's handler whose results are checked.

    Attributes:
        handler: the user's own.
        answer_fields: the fields that hold responses; () if its class has no `answer_keys`.
        rated_attributes: what its ratings are of; () if it has none.

    Raises:
        UserError: its ratings are of what cannot be names of metrics.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.answer_fields = answer_fields(handler)
        self.rated_attributes = rated_attributes(handler)
        if self.rated_attributes and not are_attributes(self.rated_attributes):
            raise UserError(
                f"{type(handler).__name__}: rated_attributes are different names of letters, digits, _ and "
                f"-, got {self.rated_attributes!r}"
            )

    def __call__(self, record: Mapping[str, Any]) -> Conversation:
        """The conversation of a record.

        Raises:
            RecordError: the handler says that the record cannot be used; or the turns of its prompt do not
                alternate.
            UserError: the handler returned something else, or a contradictory conversation.
        """
        made = self.handler(record)
        name = type(self.handler).__name__
        if not isinstance(made, Pair | Ranking | Unranked | Rated | Stepwise):
            raise UserError(
                f"{name} returned {type(made).__name__} instead of a Pair, a Ranking, a Rated, a "
                "Stepwise or an Unranked; a record that cannot be used raises RecordError"
            )
        if isinstance(made, Rated) and len(made.ratings) != len(self.rated_attributes):
            raise UserError(
                f"{name} returned {len(made.ratings)} ratings for its {len(self.rated_attributes)} "
                "rated_attributes: each has one, NaN if it is not given"
            )
        _check_texts(made, name)
        _check_numbers(made, name)
        if isinstance(made, Ranking):
            _check_ranking(made, name)
        if isinstance(made, Stepwise):
            _check_steps(made, name)
        if not made.responses:
            raise UserError(f"{name} returned an Unranked without a response")
        _check_turns(made, name)
        return made


def _check_texts(made: Conversation, name: str) -> None:
    """What becomes tokens, or is written beside them, is text."""
    texts: dict[str, object] = {
        "system": made.system or "",
        "tools": made.tools,
        "source": made.source or "",
    }
    if isinstance(made, Stepwise):
        if isinstance(made.steps, str):  # whose characters would be steps
            raise UserError(f"{name} returned a Stepwise whose steps are one text: {_quoted(made.steps)}")
        texts |= {f"step {number}": step for number, step in enumerate(made.steps, start=1)}
    for what, text in texts.items():
        if not isinstance(text, str):
            kind = type(made).__name__
            raise UserError(f"{name} returned a {kind} whose {what} is no text: {_quoted(text)}")


def _check_turns(made: Conversation, name: str) -> None:
    """Templates know what to write of every turn: of an unknown role they would write another one's.

    Raises:
        UserError: a turn is no message, or of a role that there is not; or a response is not an answer.
        RecordError: the turns of the prompt do not alternate.
    """
    for what, turns, roles in (
        ("prompt", made.prompt, _ROLES),
        ("responses", made.responses, _ROLES_OF_ANSWERS),
    ):
        is_sequence = isinstance(turns, tuple | list)
        if not is_sequence or not all(_is_message(turn, roles) for turn in turns):
            raise UserError(
                f"{name} returned a {type(made).__name__} with the {what} {_quoted(turns)}: each turn is a "
                f"Message with a text and one of the roles {', '.join(roles)}"
            )
    alternating(made.prompt, "prompt")


def _is_message(turn: object, roles: tuple[str, ...]) -> bool:
    return isinstance(turn, Message) and isinstance(turn.content, str) and turn.role in roles


def _quoted(value: object) -> str:
    return shortened(repr(value))


def _check_numbers(made: Conversation, name: str) -> None:
    kind = type(made).__name__
    for what in ("margins", "probabilities", "ratings", "labels", "ranks"):
        for number in getattr(made, what, None) or ():
            if not isinstance(number, Real) and (what, number) != ("labels", None):
                raise UserError(f"{name} returned a {kind} whose {what} are no numbers: {_quoted(number)}")
    for margin in made.margins or ():
        if margin < 0:
            raise UserError(f"{name} returned a {kind} with the margin {margin}: it is not below 0")
    for probability in made.probabilities or ():
        if not 0.5 <= probability <= 1:  # or it is NaN
            raise UserError(
                f"{name} returned a {kind} with the probability {probability}: it lies between 0.5 and 1"
            )


def _check_ranking(made: Ranking, name: str) -> None:
    ranks = list(made.ranks)
    is_dense = ranks[:1] == [1] and all(after - before in (0, 1) for before, after in pairwise(ranks))
    if len(made.responses) < 2 or len(ranks) != len(made.responses) or not is_dense or ranks[-1] == 1:
        raise UserError(
            f"{name} returned a Ranking of {len(made.responses)} responses with the ranks {ranks}: they go "
            "from 1, best first, without gaps, to more than 1"
        )
    if made.margins is not None and len(made.margins) != len(ranks) - 1:
        raise UserError(
            f"{name} returned a Ranking with {len(made.margins)} margins: each response but the first has one"
        )
    if made.places is not None and sorted(made.places) != list(range(len(ranks))):
        raise UserError(
            f"{name} returned a Ranking with the places {list(made.places)}: they are the indices of its "
            f"{len(ranks)} responses in the record"
        )


def _check_steps(made: Stepwise, name: str) -> None:
    labels = made.labels
    if not made.steps or (labels is not None and len(labels) != len(made.steps)):
        given = "no" if labels is None else len(labels)
        raise UserError(
            f"{name} returned a Stepwise of {len(made.steps)} steps with {given} labels: it has at least one "
            "step, and a label for each or none at all"
        )
    if not all(label is None or 0 <= label <= 1 for label in labels or ()):
        raise UserError(f"{name} returned a Stepwise with the labels {labels}: they lie between 0 and 1")
