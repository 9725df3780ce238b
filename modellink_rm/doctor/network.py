"""How the processes of a run find each other on this machine."""

import socket
from collections.abc import Iterator

import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not typed so

from modellink_rm.doctor.findings import Problem

_LOOPBACK = "127.0.0.1"
_SECONDS = 5.0


def network_problems(backend: str) -> Iterator[Problem]:
    """What keeps processes of this machine from each other.

    Args:
        backend: of torch.distributed; "gloo" is tried, by a group of this process alone.
    """
    obstacle = _connection_obstacle(_LOOPBACK)
    if obstacle is not None:
        yield Problem(
            what=f"a process does not reach another one of this machine, at {_LOOPBACK}: {obstacle}",
            remedy="ip link set lo up, or ask for a network in this container",
        )
        return
    # The address that torchrun gives its processes; it waits for minutes where nothing is there.
    name = socket.getfqdn()
    obstacle = _connection_obstacle(name)
    if obstacle is not None:
        yield Problem(
            what=f"this machine does not reach itself by its name, {name}: {obstacle}; under torchrun the "
            "processes of a run wait for each other",
            remedy=f"a line `{_LOOPBACK} {name}` in /etc/hosts; or, on one machine, torchrun --local-addr "
            f"{_LOOPBACK}",
        )
    obstacle = _group_obstacle() if backend == "gloo" else None
    if obstacle is not None:
        yield Problem(
            what=f"no group of processes can be formed with gloo: {obstacle}",
            remedy="GLOO_SOCKET_IFNAME, where it is set, must name an interface that ip addr shows",
        )


def _connection_obstacle(name: str) -> str | None:
    """Why no connection to this process comes from that address; None if one does."""
    try:
        with (
            _server() as server,
            socket.create_connection((name, server.getsockname()[1]), timeout=_SECONDS),
        ):
            return None
    except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
        return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _server() -> socket.socket:
    """A server at every address of this machine, as torch's store is: its name may be one of IPv6 alone."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _group_obstacle() -> str | None:
    """Why a single process, as `score` runs in, forms no group; None if it does."""
    try:
        torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    except (RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    torch.distributed.destroy_process_group()
    return None
