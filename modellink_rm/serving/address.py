"""Where the server listens and what it asks for, before anything is loaded."""

import socket
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.config.serve import ServeConfig

_MOST_TOKEN_BYTES = 4096


def listen(config: ServeConfig) -> socket.socket:
    """A socket on --host and --port; nothing connects to it yet.

    Raises:
        UserError: there is no such address, or another program has it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(f"--host {config.host} --port {config.port}: {reason}; give others") from None
    return listener


def begin_to_listen(listener: socket.socket, *, most_waiting: int) -> None:
    """Let clients connect.

    Args:
        most_waiting: connections that nobody has accepted yet.

    Raises:
        UserError: another program, which had the address too and listened to nothing yet, has begun to.
    """
    try:
        listener.listen(most_waiting)
    except OSError as error:
        port = listener.getsockname()[1]
        raise UserError(
            f"--port {port}: {error.strerror or error}; another server began there meanwhile"
        ) from None


def read_token(config: ServeConfig) -> str | None:
    """The token of --token-file.

    Raises:
        UserError: the file holds none.
    """
    if config.token_file is None:
        return None
    with Path(config.token_file).open("rb") as file:
        line = file.readline(_MOST_TOKEN_BYTES + 1)
    token = line.decode("ascii", errors="replace").strip()
    is_cut = len(line) > _MOST_TOKEN_BYTES
    if is_cut or not token or not token.isascii() or not token.isprintable():
        raise UserError(
            f"--token-file {config.token_file}: its first line must be a token of ASCII characters, of at "
            f"most {_MOST_TOKEN_BYTES} bytes"
        )
    return token
