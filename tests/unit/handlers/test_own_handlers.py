"""Handlers of users: in a file, and of an installed package."""

from importlib.metadata import EntryPoint

import pytest

from modellink_rm.base import registry
from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Pair
from modellink_rm.handlers import HANDLERS, make_handler
from modellink_rm.records import RecordError
from tests.unit.handlers.conversations import ONE_TURN, assistant, made, user

CUSTOM = "examples/custom_handler.py:StarsHandler"


def test_a_handler_in_a_file():
    answers = [{"text": "a", "stars": 2}, {"text": "b", "stars": 5}, {"text": "c", "stars": 1}]
    pair = made(CUSTOM, {"q": "why", "answers": answers}, question="q")
    assert pair == Pair(None, "", (user("why"),), assistant("b"), assistant("c"), margin=4)
    with pytest.raises(RecordError, match="question must be a text"):
        made(CUSTOM, {})


def test_a_handler_of_an_entry_point(monkeypatch):
    point = EntryPoint("Mine", "modellink_rm.handlers.hh_rlhf:HhRlhfPairwiseHandler", "modellink_rm.handlers")

    def points(group):
        return [point] if group == "modellink_rm.handlers" else []

    monkeypatch.setattr(registry, "entry_points", points)
    pair = made(
        "Mine", {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    )
    assert pair == ONE_TURN
    with pytest.raises(UserError, match=r"unknown --handler-name 'Min'; did you mean Mine\? .*FILE.py:CLASS"):
        make_handler("Min", None)
    HANDLERS._entries.pop("Mine")


def test_an_entry_point_that_is_no_class_is_an_error(monkeypatch):
    point = EntryPoint("Text", "modellink_rm.version:__version__", "modellink_rm.handlers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(UserError, match=r"--handler-name Text: .* of an installed package is not a class"):
        make_handler("Text", None)


@pytest.mark.parametrize(
    ("name", "map_keys", "message"),
    [
        ("nowhere.py:X", None, "nowhere.py does not exist"),
        ("examples/custom_handler.py:X", None, "has no class X"),
        (CUSTOM, '{"quest": "q"}', "unknown key of --map-keys 'quest'; did you mean question"),
    ],
)
def test_a_wrong_name_of_an_own_handler_is_an_error(name, map_keys, message):
    with pytest.raises(UserError, match=message):
        make_handler(name, map_keys)


def test_an_own_handler_that_returns_no_pair_is_an_error(tmp_path):
    (tmp_path / "own.py").write_text("class Own:\n    def __call__(self, record):\n        return None\n")
    with pytest.raises(UserError, match="Own returned NoneType instead of a Pair"):
        make_handler(f"{tmp_path}/own.py:Own", None)({})


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("margin=-1.0", "a Pair with the margin -1.0: it is not below 0"),
        ("probability=80", "a Pair with the probability 80: it lies between 0.5 and 1"),
        ("probability=0.25", "a Pair with the probability 0.25"),
        ("probability=float('nan')", "a Pair with the probability nan"),
    ],
)
def test_an_own_handler_whose_pair_has_other_numbers_is_an_error(field, message, tmp_path):
    (tmp_path / "own.py").write_text(
        "from modellink_rm.conversation import Message, Pair\n"
        "class Own:\n    def __call__(self, record):\n"
        "        q, a, b = Message('user', 'q'), Message('assistant', 'a'), Message('assistant', 'b')\n"
        f"        return Pair(None, '', (q,), a, b, {field})\n"
    )
    with pytest.raises(UserError, match=message):
        make_handler(f"{tmp_path}/own.py:Own", None)({})


def test_an_own_handler_whose_ranking_has_a_margin_below_0_is_an_error(tmp_path):
    (tmp_path / "own.py").write_text(
        "from modellink_rm.conversation import Message, Ranking\n"
        "class Own:\n    def __call__(self, record):\n"
        "        q, a = Message('user', 'q'), Message('assistant', 'a')\n"
        "        return Ranking(None, '', (q,), (a, a, a), (1, 2, 3), (0.5, -0.5))\n"
    )
    with pytest.raises(UserError, match=r"a Ranking with the margin -0\.5: it is not below 0"):
        make_handler(f"{tmp_path}/own.py:Own", None)({})


@pytest.mark.parametrize("names", [("help.ful",), ("a", "a"), ("",), ("a b",), "quality", (1,)])
def test_an_own_handler_rates_attributes_that_metrics_can_be_called_by(names, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"class Mine:\n    rated_attributes = {names!r}\n    def __call__(self, record): ...")
    with pytest.raises(UserError, match="Mine: rated_attributes are different names of letters"):
        make_handler(f"{path}:Mine", None)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            "Pair(None, '', (Message('human', 'q'),), a, a)",
            r"the prompt .*'human'.* roles user, assi",
        ),
        ("Pair(None, '', (Message('system', 's'), q), a, a)", r"the prompt .*'system'"),
        (
            "Pair(None, '', (Message('user', None),), a, a)",
            r"the prompt .*content=None.*: each turn is",
        ),
        ("Pair(None, '', q, a, a)", r"the prompt Message\("),
        (
            "Pair(None, '', (q,), Message('user', 'a'), a)",
            r"the responses .* one of the roles assistant",
        ),
        ("Pair(None, '', (q,), 'a', 'b')", r"the responses \('a', 'b'\)"),
        ("Pair(5, '', (q,), a, a)", "a Pair whose system is no text: 5"),
        ("Pair(None, None, (q,), a, a)", "a Pair whose tools is no text: None"),
        ("Pair(None, '', (q,), a, a, margin='1')", "a Pair whose margins are no numbers: '1'"),
        ("Ranking(None, '', (q,), (a, a), ('1', '2'))", "a Ranking whose ranks are no numbers: '1'"),
        ("Stepwise(None, '', (q,), ('a', 5), (1, None))", "a Stepwise whose step 2 is no text: 5"),
        ("Stepwise(None, '', (q,), 'ab', (1, 0))", "a Stepwise whose steps are one text: 'ab'"),
        ("Stepwise(None, '', (q,), ('a', 'b'), ('1', 0))", "a Stepwise whose labels are no numbers: '1'"),
    ],
)
def test_what_an_own_handler_returns_has_messages_texts_and_numbers(made, message, tmp_path):
    """Another role was written as a user's turn, or as an assistant's by a chat template."""
    with pytest.raises(UserError, match=message):
        own(tmp_path, made)({})


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("()", "empty prompt"),
        ("(q, q)", "turns do not alternate"),
        ("(a,)", "turns do not alternate"),
        ("(q, a)", "the conversation does not end with a turn to answer"),
    ],
)
def test_a_record_of_whose_prompt_an_own_handler_makes_no_dialogue_cannot_be_used(prompt, reason, tmp_path):
    with pytest.raises(RecordError) as refused:
        own(tmp_path, f"Pair(None, '', {prompt}, a, a)")({})
    assert refused.value.reason == reason


def test_an_own_handler_may_return_numbers_of_numpy(tmp_path):
    handler = own(tmp_path, "Pair(None, '', (q,), a, a, margin=__import__('numpy').float32(0.5))")
    assert handler({}).margin == 0.5


def own(tmp_path, made):
    """A handler of a user that returns that of every record."""
    (tmp_path / "own.py").write_text(
        "from modellink_rm.conversation import Message, Pair, Ranking, Stepwise\n"
        "class Own:\n    def __call__(self, record):\n"
        "        q, a = Message('user', 'q'), Message('assistant', 'a')\n"
        f"        return {made}\n"
    )
    return make_handler(f"{tmp_path}/own.py:Own", None)
