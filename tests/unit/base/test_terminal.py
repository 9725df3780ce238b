from typing import Any

import pytest

from modellink_rm.base.terminal import duration, short_number


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
