"""What a chat template may not do, seen before it is rendered."""

from typing import TYPE_CHECKING

from modellink_rm.base.errors import UserError
from modellink_rm.records import shortened

if TYPE_CHECKING:
    from jinja2 import nodes

_CHANGING = {"strftime_now": "reads today's date", "lipsum": "writes random text"}


def check_chat_template(text: str, *, place: str) -> None:
    """Refuse a template that cannot be parsed, cannot be stopped, or writes something else every time.

    Args:
        text: the template, in which today's date has been replaced where it could be.
        place: the template, as messages call it.

    Raises:
        UserError: it cannot be parsed, uses powers, which no time limit can interrupt, or reads the date or
            random numbers.
    """
    from jinja2 import nodes
    from jinja2.exceptions import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template  # transformers 5.23

    # The environment of an empty template: compiling this one would already compute its constants.
    environment = _compile_jinja_template("").environment
    try:
        parsed = environment.parse(text)
        has_powers = parsed.find(nodes.Pow) is not None
        changing = _what_changes(parsed)
    except (TemplateSyntaxError, RecursionError) as error:
        problem = str(error) or type(error).__name__
        raise UserError(f"{place} cannot be read: {shortened(problem)}") from None
    if has_powers:
        raise UserError(f"{place} uses **, which is not allowed")
    if changing:
        raise UserError(f"{place} {changing}, so that the ids would change; give another --prompt-type")


def _what_changes(parsed: "nodes.Template") -> str:
    """How the text of the template depends on when it is rendered; "" if it does not."""
    from jinja2 import nodes

    if any(found.name == "random" for found in parsed.find_all(nodes.Filter)):
        return "uses random numbers"
    # `strftime_now is defined` reads no date.
    tested = {id(found.node) for found in parsed.find_all(nodes.Test)}
    names = {found.name for found in parsed.find_all(nodes.Name) if id(found) not in tested}
    return next((effect for name, effect in _CHANGING.items() if name in names), "")
