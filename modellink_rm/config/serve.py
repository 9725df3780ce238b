"""Flags of the server."""

import ipaddress
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag

_MOST_SECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The server."""

    host: str = flag(
        "127.0.0.1", help="address to listen on; 0.0.0.0 for all of this machine's", metavar="HOST"
    )
    port: int = flag(8000, minimum=0, help="port to listen on; 0 for any free one, which is printed")
    token_file: str | None = flag(
        None,
        help="file whose first line every request but /health must bring as its bearer token",
        metavar="FILE",
    )
    without_token: bool = flag(
        False,
        help="let every machine that reaches --host ask without a token, since trainers' clients send none",
    )
    max_waiting: int = flag(
        16384, minimum=1, help="responses that may wait; more are refused with 429 and Retry-After"
    )
    timeout_seconds: int = flag(
        300, minimum=1, help="seconds in which a request is answered, or ends with 504"
    )
    max_body_bytes: int = flag(16 << 20, minimum=1, help="largest body of a request; a larger one gets 413")

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.port > 65535:
            raise UserError(f"--port must be at most 65535, got {self.port}")
        if self.timeout_seconds > _MOST_SECONDS:
            raise UserError(f"--timeout-seconds must be at most {_MOST_SECONDS}, got {self.timeout_seconds}")
        if self.token_file is not None and self.without_token:
            raise UserError("--token-file and --without-token contradict each other: give one of them")
        if not _is_loopback(self.host) and self.token_file is None and not self.without_token:
            raise UserError(
                f"--host {self.host} lets other machines ask: give --token-file FILE, or --without-token "
                "where the network itself keeps others out"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
