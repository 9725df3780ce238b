"""Conversations as records hold them, and what handlers make of them."""

import json

from modellink_rm.conversation import Message, Pair
from modellink_rm.handlers import make_handler

MESSAGES = "OpenAiMessagesPairwiseHandler"


def made(handler, record, **map_keys):
    return make_handler(handler, json.dumps(map_keys))(record)


def message(role, content):
    return {"role": role, "content": content}


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


Q, A, B = message("user", "q"), message("assistant", "a"), message("assistant", "b")
ONE_TURN = Pair(None, "", (user("q"),), assistant("a"), assistant("b"))
