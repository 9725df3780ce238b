"""Where the server listens and what it asks for, before anything is loaded."""

import socket
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.config.serve import ServeConfig


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
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"--host {config.host} --port {config.port}: {reason}; give others") from None
    return listener


def read_token(config: ServeConfig) -> str | None:
    """The token of --token-file.

    Raises:
        UserError: the file holds none.
    """
    if config.token_file is None:
        return None
    lines = Path(config.token_file).read_text(encoding="utf-8").splitlines()
    token = lines[0].strip() if lines else ""
    if not token or not token.isascii() or not token.isprintable():
        raise UserError(
            f"--token-file {config.token_file}: its first line must be a token of ASCII characters"
        )
    return token
