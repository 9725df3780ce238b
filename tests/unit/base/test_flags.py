from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import IgnoredFlag, check_minimums, flag, groups_of, parse_flags
from modellink_rm.base.log import warn_once


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape of a thing."""

    num_sides: int = flag(minimum=3, help="how many")
    scale: float | None = flag(None, above=0, help="100% is 1.0")
    is_closed: bool = flag(True, help="leave it open")
    is_filled: bool = flag(False, help="fill it")
    weight: float = flag(1.5, level="rare", help="in g")
    is_flat: bool = flag(False, level="hidden", help="always so")
    color: str = flag("red", choices=("red", "blue"), help="its color")
    names: tuple[str, ...] = flag((), help="what it is called")
    owner: str = flag("", help="whose it is")

    def __post_init__(self) -> None:
        check_minimums(self)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Paper."""

    width: int = flag(10, minimum=0, help="in cm")
    height: float | None = flag(None, minimum=1, help="in cm")

    def __post_init__(self) -> None:
        check_minimums(self)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A thing on paper."""

    paper: Paper
    shape: Shape


def parse(*words: str, ignored: dict[str, IgnoredFlag] | None = None) -> Any:
    groups = parse_flags(words, [Shape, Paper], prog="draw", description="", ignored=ignored)
    return groups[Shape], groups[Paper]


def test_groups_are_the_fields_of_a_dataclass_in_its_order() -> None:
    assert list(groups_of(Drawing).items()) == [("paper", Paper), ("shape", Shape)]


def test_fields_are_flags_with_their_defaults() -> None:
    shape, paper = parse("--num-sides", "4")
    assert shape == Shape(num_sides=4)
    assert shape.owner == ""
    assert paper == Paper(width=10)


@pytest.mark.parametrize(
    ("word", "value", "rule"),
    [
        ("--num-sides", "2", "must be at least 3, got 2"),
        ("--width", "-1", "must not be negative, got -1"),
        ("--height", "0.5", "must be at least 1, got 0.5"),
        ("--scale", "0", "must be above 0, got 0.0"),
    ],
)
def test_value_below_its_minimum_is_refused(word: str, value: str, rule: str) -> None:
    with pytest.raises(UserError, match=f"^{word} {rule}$"):
        parse("--num-sides", "4", word, value)


def test_minimum_is_allowed_and_a_number_that_is_none_is_not() -> None:
    assert parse("--num-sides", "3", "--width", "0", "--height", "1")[1] == Paper(width=0, height=1.0)
    with pytest.raises(UserError, match="--height must be at least 1, got nan"):
        Paper(height=float("nan"))


def test_values_are_of_the_fields_types() -> None:
    words = [
        "--num-sides=4",
        "--scale",
        "2",
        "--is-filled",
        "--no-is-closed",
        "--names",
        "a",
        "b",
        "--width",
        "7",
    ]
    shape, paper = parse(*words, "--color", "blue")
    assert shape == Shape(
        num_sides=4, scale=2.0, is_filled=True, is_closed=False, names=("a", "b"), color="blue"
    )
    assert paper.width == 7


@pytest.mark.parametrize("word", ["-1e-3", "-1E+2", "-.5e3", "-2.e-05", "-1_0", "-7"])
def test_a_negative_number_is_a_value_however_it_is_written(word: str) -> None:
    with pytest.raises(UserError, match=f"^--scale must be above 0, got {float(word)}$"):
        parse("--num-sides", "4", "--scale", word)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-sides", "2"], "--num-sides must be at least 3, got 2"),
        (["--num-sides", "x"], "--num-sides must be a whole number, got 'x'"),
        (["--num-sides", ""], "--num-sides must be a whole number, got ''"),
        (["--num-sides", "1" + "0" * 20], "--num-sides must be below 2147483648, got '1000"),
        (["--num-sides", "4", "--scale", "inf"], "--scale must be a finite number, got 'inf'"),
        (["--num-sides", "4", "--names", "a", " "], "--names must not be empty, got ' '"),
        (["--num-sides", "4", "--color", ""], "--color must not be empty, got ''"),
        (["--num-sides", "4", "--owner", ""], "--owner must not be empty, got ''"),
        (["--num-sides"], "--num-sides expected one argument"),
        ([], "required: --num-sides"),
        (["--num-sides", "4", "--colr", "red"], r"unknown flag --colr; did you mean --col"),
        (["--num-sides", "4", "--num", "3"], r"unknown flag --num"),
        (["--num-sides", "4", "--color", "rde"], r"unknown --color 'rde'; did you mean red\?"),
        (["--num-sides", "4", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_mistake_is_a_user_error(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(*words)


def test_a_file_of_words_may_hold_comments(tmp_path: Path) -> None:
    path = tmp_path / "shape.args"
    path.write_text("# the shape\n--num-sides 5  # a pentagon\n--is-filled\n\n")
    shape, _ = parse(f"@{path}", "--color", "blue")
    assert shape == Shape(num_sides=5, is_filled=True, color="blue")


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_comment_of_a_file_of_words_begins_between_words_as_in_a_shell(start: str, tmp_path: Path) -> None:
    path = tmp_path / "shape.args"
    lines = "#the shape\r\n--num-sides 5\t#of five#\r\n--owner run#3\r\n--names a#1 #b c # d\r\n"
    path.write_bytes(f"{start}{lines}".encode())  # as editors of Windows write it
    assert parse(f"@{path}")[0] == Shape(num_sides=5, owner="run#3", names=("a#1",))


def test_a_file_of_words_that_does_not_exist_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        parse(f"@{tmp_path / 'nowhere'}")


def test_a_file_of_words_that_names_itself_is_a_user_error(tmp_path: Path) -> None:
    one, other = tmp_path / "one.args", tmp_path / "other.args"
    one.write_text(f"--num-sides 5 @{other}")
    other.write_text(f"@{one}")
    with pytest.raises(UserError, match="an @file of flags"):
        parse(f"@{one}")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_of_words_in_another_encoding_is_a_user_error(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "shape.args"
    path.write_bytes("--owner J\xf6rg".encode(encoding))
    with pytest.raises(UserError, match="an @file of flags is no text in UTF-8"):
        parse(f"@{path}")


def test_flags_of_other_tools_are_accepted_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    ignored = {
        "--use-ink": IgnoredFlag(False, "nothing is printed"),
        "--ink-color": IgnoredFlag(True, "nothing is printed"),
    }
    for _ in range(2):
        shape, _ = parse("--num-sides", "4", "--use-ink", "--ink-color", "green", ignored=ignored)
    assert shape == Shape(num_sides=4)
    assert [record.getMessage() for record in caplog.records] == [
        "warning: --use-ink is ignored: nothing is printed",
        "warning: --ink-color is ignored: nothing is printed",
    ]


def test_ignored_flags_that_are_not_given_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    ignored = {"--use-ink": IgnoredFlag(False, "x"), "--ink-color": IgnoredFlag(True, "x")}
    parse("--num-sides", "4", ignored=ignored)
    assert caplog.records == []


def test_help_shows_groups_defaults_and_per_cent_signs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse("--help")
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for part in ("Shape of a thing:", "--no-is-closed", "100% is 1.0", "(default: red)", "--width N"):
        assert part in text


def test_help_begins_with_the_form_and_ends_with_what_is_rare(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags(
            ["--help"],
            [Shape, Paper],
            prog="draw",
            description="",
            usage="--num-sides N",
            example="100%",
        )
    text = capsys.readouterr().out
    assert text.startswith("usage: draw --num-sides N [flag ...]\nexample: 100%\n\n")
    titles = ["Shape of a thing:", "Paper:", "Shape of a thing, rarely needed:"]
    assert [text.index(title) for title in titles] == sorted(text.index(title) for title in titles)
    assert text.index("--weight X") > text.index("rarely needed")
    assert "--is-flat" not in text


def test_help_fits_the_terminal_and_breaks_no_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wide:
        """Wide."""

        long_name: int = flag(1, help="in cm, as --very-long-name-of-another-flag has it, or --a-shorter-one")

    monkeypatch.setenv("COLUMNS", "60")
    command = "draw --long-name 3 --very-long-name-of-another-flag 4 --a-shorter-one 5"
    with pytest.raises(SystemExit):
        parse_flags(
            ["--help"],
            [Wide],
            prog="draw",
            description="Draws by --very-long-name-of-another-flag and by --a-shorter-one.",
            usage="--long-name N [--very-long-name-of-another-flag N] [--a-shorter-one N]",
            example=command,
        )
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("--very-long-name-of-another-flag") == 4
    assert text.count("--a-shorter-one") == 4
    example = text.split("example: ")[1].split("\n\n")[0]
    assert example.replace("\\\n    ", "") == command


def test_a_flag_that_help_hides_is_known() -> None:
    shape, _ = parse("--num-sides", "4", "--is-flat")
    assert shape.is_flat


def test_values_of_an_accumulating_flag_add_up() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sets:
        """Sets."""

        data: tuple[str, ...] = flag((), help="sets", accumulates=True)

    argv = ["--data", "a", "b", "--data", "c"]
    assert parse_flags(argv, [Sets], prog="p", description="")[Sets].data == ("a", "b", "c")
    assert parse_flags([], [Sets], prog="p", description="")[Sets].data == ()


def test_a_list_that_a_later_one_replaces_is_told(caplog: pytest.LogCaptureFixture) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Inputs:
        """Inputs."""

        input: tuple[str, ...] = flag(help="files")
        ranks: tuple[int, ...] = flag((0,), help="ranks")

    def parsed(*argv: str) -> Inputs:
        made: Inputs = parse_flags(argv, [Inputs], prog="p", description="")[Inputs]
        return made

    warn_once.cache_clear()
    assert parsed("--input", "a", "b", "--ranks", "1", "--input", "c") == Inputs(input=("c",), ranks=(1,))
    assert [record.getMessage() for record in caplog.records] == [
        "warning: --input is given twice: c takes the place of a b; to have all, name them after one --input"
    ]
    parsed("--input", "a", "--ranks", "0", "--input", "a")
    assert len(caplog.records) == 1
