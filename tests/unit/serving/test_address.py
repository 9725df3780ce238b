"""Addresses and tokens that cannot be are one line."""

from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.serve import ServeConfig
from modellink_rm.serving.address import begin_to_listen, listen, read_token


def test_of_two_servers_that_start_on_one_port_the_second_is_refused() -> None:
    """Both have the address while their models are loaded: the system refuses the second one to listen."""
    first = listen(ServeConfig(port=0))
    port = first.getsockname()[1]
    with first, listen(ServeConfig(port=port)) as second:
        begin_to_listen(first, most_waiting=1)
        with pytest.raises(UserError, match=f"--port {port}: Address already in use; another server began"):
            begin_to_listen(second, most_waiting=1)


@pytest.mark.parametrize("host", ["x" * 70, "..", "[::1]"])
def test_a_name_that_no_host_can_have_is_refused(host: str) -> None:
    with pytest.raises(UserError, match="give others"):
        listen(ServeConfig(host=host, port=0, without_token=True))


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a\x0bb", "\u00e9".encode(), bytes(9000)])
def test_a_file_without_a_token_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UserError, match="its first line must be a token of ASCII characters"):
        read_token(ServeConfig(token_file=str(path)))


def test_the_first_line_is_the_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b" secret\r\nanother\n")
    assert read_token(ServeConfig(token_file=str(path))) == "secret"


def test_a_time_that_no_clock_counts_is_refused() -> None:
    with pytest.raises(UserError, match="--timeout-seconds must be at most 1000000, got 1000"):
        ServeConfig(timeout_seconds=10**400)


def test_a_token_that_is_too_long_is_refused_and_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s" * 4095 + "\n")
    assert read_token(ServeConfig(token_file=str(path))) == "s" * 4095
    path.write_text("s" * 4096 + "\n")
    with pytest.raises(UserError, match="its first line must be a token of ASCII characters"):
        read_token(ServeConfig(token_file=str(path)))
