"""Templates of slots as chat templates in Jinja, for programs that render messages with transformers.

A chat template renders one text that is tokenised as a whole, whereas slots are tokenised one by one. The ids
are equal where the tokenizer cuts the text at the slots' ends; who writes a chat template compares them.
"""

from collections.abc import Sequence
from typing import Literal

from modellink_rm.templates.calls import CALL_FORMATS
from modellink_rm.templates.renderer import (
    EMPTY_THOUGHT,
    SYSTEM,
    eos_id_of,
    split_at_control_tokens,
    with_system_inside,
)
from modellink_rm.templates.table import CONTENT, ROUND, Bos, Eos, Slot, Template, Token
from modellink_rm.tokenizers.tokenizer import Tokenizer

# A sentencepiece tokenizer puts a space before every text that it is given. Where transformers does not do so
# inside of a longer text, the chat template writes the space: never, after another text, or after control
# tokens too.
Spaces = Literal["none", "after text", "after text and control tokens"]
SPACES: tuple[Spaces, ...] = ("none", "after text", "after text and control tokens")

# Messages without the system's, whose text is in `system`.
_START = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set given = messages[0]['content'] -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set given = '' -%}
{%- set turns = messages -%}
{%- endif -%}
"""
_REFUSE_TOOLS = """\
{%- if tools -%}
{{- raise_exception('this chat template has no form for tools') -}}
{%- endif -%}
"""
_REFUSE_SYSTEM = """\
{%- if given -%}
{{- raise_exception('this chat template has no form for a system message') -}}
{%- endif -%}
"""
_LAST_USER = """\
{%- set ns = namespace(last_user=0, last='') -%}
{%- for message in turns -%}
{%- if message['role'] == 'user' -%}
{%- set ns.last_user = loop.index0 -%}
{%- endif -%}
{%- endfor -%}
"""
_CHECK_TURN = """\
{%- set is_answer = message['role'] == 'assistant' -%}
{%- if message['role'] not in ['user', 'tool', 'assistant'] or is_answer != (loop.index0 % 2 == 1) -%}
{{- raise_exception('turns must alternate: user or tool, assistant, user or tool, ...') -}}
{%- endif -%}
{%- if message['tool_calls'] is defined and message['tool_calls'] -%}
{{- raise_exception('this chat template has no form for tool calls') -}}
{%- endif -%}
{%- set content = message['content'] -%}
"""
_IS_OBSERVATION = "message['role'] == 'tool'"
# What encode.py removes: each thought, with the line breaks after it.
_STRIP_THOUGHTS = """\
{%- set parts = content.split('<think>') -%}
{%- set kept = namespace(text=parts[0]) -%}
{%- for part in parts[1:] -%}
{%- if '</think>' in part -%}
{%- set kept.text = kept.text + '</think>'.join(part.split('</think>')[1:]).lstrip('\\n') -%}
{%- else -%}
{%- set kept.text = kept.text + '<think>' + part -%}
{%- endif -%}
{%- endfor -%}
{%- set content = kept.text -%}
"""


def jinja_of(template: Template, tokenizer: Tokenizer, spaces: Spaces = "none") -> str:
    """The chat template that writes what the slots of a template write.

    It has no form for tools. A last message of the assistant is the answer that is scored.

    Raises:
        UserError: the tokenizer has not the template's EOS.
    """
    if template.chat_template:
        return _with_thinking(template) + _reward_token_after(template)
    writer = _Writer(template, tokenizer, spaces)
    user, assistant = writer.slots(template.user), writer.slots(template.assistant)
    observation = user if template.observation is None else writer.slots(template.observation)
    with_system = writer.slots(with_system_inside(template.user, template.system))
    if template.observation is not None:
        inside = writer.slots(with_system_inside(template.observation, template.system))
        with_system = _if(_IS_OBSERVATION, inside, with_system)
    system_turn = ""
    if template.system_rule == "last_user":
        system_turn = "ns.last_user"
    elif template.system_in_user:
        system_turn = "0"
    return "".join(
        [
            _START,
            _REFUSE_TOOLS,
            _REFUSE_SYSTEM if template.system_rule == "refused" else "",
            _LAST_USER,
            f"{{%- set system = given or {_quoted(template.default_system)} -%}}\n",
            writer.slots(template.prefix),
            "" if system_turn else _if("system", writer.slots(template.system, content="system")),
            "{%- for message in turns -%}\n",
            _CHECK_TURN,
            "{%- if is_answer -%}\n",
            _answer(template, writer, assistant),
            "{%- else -%}\n",
            _if("loop.index0", writer.slots(template.separator)),
            _if(
                f"system and loop.index0 == {system_turn}" if system_turn else "false",
                with_system,
                _if(_IS_OBSERVATION, observation, user),
            ),
            # The turn before the answer that is scored, whether that follows or not.
            _if("loop.revindex0 < 2", writer.slots((EMPTY_THOUGHT,))) if template.thinking is False else "",
            "{%- endif -%}\n",
            "{%- endfor -%}",
            _reward_token_after(template),
        ]
    )


def _answer(template: Template, writer: "_Writer", assistant: str) -> str:
    """The Jinja of an answer, of an earlier one or the last."""
    earlier = ""
    if template.strip_thoughts:
        calls = CALL_FORMATS.get(template.call_format)
        keeps = calls is not None and calls.keeps_thoughts
        earlier = _if("loop.index0 < ns.last_user", _STRIP_THOUGHTS) if keeps else _STRIP_THOUGHTS
    last = ""
    if template.thinking is False:
        last = _STRIP_THOUGHTS
    elif template.thinking:
        last = _if("'<think>' not in content and '</think>' not in content", writer.slots((EMPTY_THOUGHT,)))
    end = writer.slots((Eos(),)) if template.efficient_eos else ""
    return _if("loop.last", last, earlier) + assistant + _if("loop.last", end)


def _reward_token_after(template: Template) -> str:
    """What is written after a conversation that ends with an answer."""
    if not template.reward_token:
        return ""
    token = "{{- " + _quoted(template.reward_token) + " -}}\n"
    return "\n" + _if("messages and messages[-1]['role'] == 'assistant'", token)


def _with_thinking(template: Template) -> str:
    """A tokenizer's own chat template, with the value of enable_thinking that it was rendered with."""
    if template.thinking is None:
        return template.chat_template
    return f"{{%- set enable_thinking = {str(template.thinking).lower()} -%}}{template.chat_template}"


class _Writer:
    """Slots as Jinja expressions."""

    def __init__(self, template: Template, tokenizer: Tokenizer, spaces: Spaces) -> None:
        names = {index: token for token, index in tokenizer.special_tokens.items()}
        self._eos_token = names.get(eos_id_of(template, tokenizer) or -1, "")
        self._tokenizer = tokenizer
        # `ns.last` is what was written last: nothing, a text or a control token.
        conditions = {"after text": "ns.last == 'text'", "after text and control tokens": "ns.last"}
        self._space_if = conditions.get(spaces)

    def slots(self, slots: Sequence[Slot], *, content: str = "content") -> str:
        """The Jinja that writes them, with the value of the variable `content` as their text."""
        return "".join(self._slot(slot, content) for slot in slots)

    def _slot(self, slot: Slot, content: str) -> str:
        if isinstance(slot, Bos):
            return self._control("bos_token") if self._tokenizer.bos_id is not None else ""
        if isinstance(slot, Eos):
            return self._control(_quoted(self._eos_token))
        if isinstance(slot, Token):
            return self._control(_quoted(slot.name))
        values = {CONTENT: content, ROUND: "(loop.index0 // 2)|string", SYSTEM: "system"}
        written = ""
        words: list[str] = []
        for part in split_at_control_tokens(slot, self._tokenizer):
            if part not in values and self._tokenizer.token_to_id(part) is not None:
                written += self._text(words) + self._control(_quoted(part))
                words = []
            else:
                words.append(values.get(part) or _quoted(part))
        return written + self._text(words)

    def _control(self, expression: str) -> str:
        return "{{- " + expression + " -}}\n" + self._now("control")

    def _text(self, words: Sequence[str]) -> str:
        if not words:
            return ""
        space = _if(self._space_if, "{{- ' ' -}}\n") if self._space_if is not None else ""
        return space + "{{- " + " + ".join(words) + " -}}\n" + self._now("text")

    def _now(self, last: str) -> str:
        return f"{{%- set ns.last = '{last}' -%}}\n" if self._space_if is not None else ""


def _quoted(text: str) -> str:
    """A Jinja string; its escapes are those of Python."""
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "'" + "".join(escapes.get(character, character) for character in text) + "'"


def _if(condition: str, then: str, otherwise: str = "") -> str:
    if not then and not otherwise:
        return ""
    alternative = "{%- else -%}\n" + otherwise if otherwise else ""
    return f"{{%- if {condition} -%}}\n{then}{alternative}{{%- endif -%}}\n"
