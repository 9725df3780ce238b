"""What is fixed in a chat template before it is used: today's date, and where an answer ends."""

import datetime
import json
import re

from modellink_rm.base.errors import UserError

# The date that Llama 3.1's own template has instead of today's: ids must not depend on the day.
DATE = datetime.date(2024, 7, 26)
_TODAY = re.compile(r"""\bstrftime_now\s*\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")


def with_fixed_date(chat_template: str, *, where: str) -> str:
    """The template with `DATE` for today's date.

    Args:
        where: the template's place, for messages.

    Raises:
        UserError: it computes the date's format.
    """
    text = _TODAY.sub(
        lambda call: json.dumps(DATE.strftime(call[1] or call[2] or ""), ensure_ascii=False), chat_template
    )
    if re.search(r"\bstrftime_now\s*\(", text):
        raise UserError(
            f"the chat template of {where} computes the format of today's date, so that the ids would change "
            "from day to day; give another --prompt-type"
        )
    return text


def ending_with_the_answer(chat_template: str, closing: str, end: int) -> str:
    """The template without what it writes after the end of the last answer.

    Args:
        closing: what it writes after the text of the last answer.
        end: how many characters of it belong to the answer.
    """
    if end == len(closing):
        return chat_template
    # + keeps the line breaks beside these two blocks; jinja2 itself removes the last one of a template.
    inner = re.sub(r"\r\n?", "\n", chat_template).removesuffix("\n")
    ends_so = f"conversation.endswith({json.dumps(closing, ensure_ascii=False)})"
    return (
        f"{{% set conversation +%}}{inner}{{%+ endset %}}"
        f"{{{{ conversation[:-{len(closing) - end}] if not add_generation_prompt and {ends_so} "
        "else conversation }}"
    )
