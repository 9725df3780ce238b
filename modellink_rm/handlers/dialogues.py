r"""Dialogues stored as one text, in the forms of published data sets.

Anthropic/hh-rlhf and berkeley-nest/Nectar write "\n\nHuman: ...\n\nAssistant: ..."; a prompt of Nectar ends
with "\n\nAssistant: ". nvidia/HelpSteer and nvidia/HelpSteer2 write the first user's turn bare and a mark
before each later one: "...\n<extra_id_1>Assistant\n...\n<extra_id_1>User\n...". Source: the data sets' cards.
"""

import re

from modellink_rm.conversation import Message, Role

_HUMAN_ASSISTANT = re.compile(r"\n\n(Human|Assistant):")
_EXTRA_ID = re.compile(r"(?:\n|\A)<extra_id_1>(User|Assistant)\n")
_ROLES: dict[str, Role] = {"Human": "user", "User": "user", "Assistant": "assistant"}
_OPENER = Message("assistant", "")


def prompt_turns(text: str) -> tuple[Message, ...]:
    """The turns of a prompt: several if the text has a published form, else one user turn."""
    if text.startswith("\n\nHuman:"):
        turns = human_assistant_turns(text)
        return turns[:-1] if turns[-1] == _OPENER else turns
    if "<extra_id_1>" in text and _EXTRA_ID.search(text):
        return _turns_between_extra_ids(text)
    return (Message("user", text),)


def human_assistant_turns(text: str) -> tuple[Message, ...]:
    """The turns of a dialogue of Human and Assistant; empty if the text is not such a dialogue.

    White space around a turn is removed, and the first mark may lack its empty lines.
    """
    before, *parts = _HUMAN_ASSISTANT.split("\n\n" + text.lstrip())
    if before.strip():
        return ()
    return tuple(
        Message(_ROLES[speaker], content.strip())
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    )


def _turns_between_extra_ids(text: str) -> tuple[Message, ...]:
    first, *parts = _EXTRA_ID.split(text)
    turns = [("User", first)] if first else []
    turns += zip(parts[::2], parts[1::2], strict=True)
    return tuple(Message(_ROLES[speaker], content.strip("\n")) for speaker, content in turns)
