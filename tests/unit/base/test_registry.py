import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.registry import Registry, unknown_name_message


@pytest.fixture
def registry():
    names = Registry("--color")
    names.add(1, "red", "crimson")
    names.add(2, "blue")
    return names


def test_an_entry_is_known_by_each_of_its_names(registry):
    assert (registry["red"], registry["crimson"], registry["blue"]) == (1, 1, 2)
    assert sorted(registry) == ["blue", "crimson", "red"]
    assert len(registry) == 3


def test_an_unknown_name_lists_the_choices_and_the_nearest(registry):
    with pytest.raises(
        UserError, match=r"unknown --color 'bleu'; did you mean blue\? \(choices: blue, crimson, red\)"
    ):
        registry["bleu"]


def test_a_name_like_no_other_has_no_nearest():
    assert unknown_name_message("--x", "zzz", ["b", "a"]) == "unknown --x 'zzz' (choices: a, b)"


def test_a_name_cannot_be_given_twice(registry):
    with pytest.raises(AssertionError, match="red is registered twice"):
        registry.add(3, "red")
