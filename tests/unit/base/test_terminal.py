from typing import Any

import pytest

from modellink_rm.base.log import info, set_up_logging
from modellink_rm.base.terminal import duration, short_number, without_commands


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.6, "1:00:00"), (90061, "25:01:01")]
)
def test_durations_are_hours_minutes_and_seconds(seconds: Any, text: Any) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04, "0.0"),
        (9.87, "9.9"),
        (874.2, "874"),
        (999.6, "1.00k"),
        (12345, "12.3k"),
        (123456, "123k"),
        (1.05e6, "1.05M"),
    ],
)
def test_numbers_have_three_digits(value: Any, text: Any) -> None:
    assert short_number(value) == text


def test_texts_of_others_give_a_terminal_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert without_commands("a\x1b]0;b\x07\x9b2J\r\tc\n\u3000\u4e16") == (
        "a\\x1b]0;b\\x07\\x9b2J\\r\tc\n\u3000\u4e16"
    )
    set_up_logging()
    info("source \x1b[2J of a record")
    assert capsys.readouterr().err == "source \\x1b[2J of a record\n"
