"""How many connections wait in the kernel for somebody to accept them.

A TCP listener tells it itself (TCP_INFO, tcp(7)). Of a Unix listener those that wait are the
sockets of its path in /proc/net/unix that are still being connected (unix(7), proc_net(5)). That
lists the sockets of the reader's network namespace: a service that has one of its own sees none.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import NamedTuple

_QUEUE_AND_LIMIT = struct.Struct("=24xII")  # tcpi_unacked, tcpi_sacked of struct tcp_info
_CONNECTING = "02"  # SS_CONNECTING
_ACCEPTS = 0x10000  # SO_ACCEPTCON


class Backlog(NamedTuple):
    waiting: int | None
    limit: int | None


UNKNOWN = Backlog(None, None)


def of_tcp(listener: socket.socket) -> Backlog:
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUE_AND_LIMIT.size)
        return Backlog(*_QUEUE_AND_LIMIT.unpack(info))
    except (OSError, struct.error):
        return UNKNOWN


def of_unix(address: str, limit: int | None, proc: Path = Path("/proc")) -> Backlog:
    """Of the listener at `address` (a path, or `@name`) whose backlog was set to `limit`."""
    try:
        text = (proc / "self/net/unix").read_text(errors="surrogateescape")
    except OSError:
        return UNKNOWN
    waiting, listens = 0, False
    for line in text.splitlines()[1:]:
        _, _, _, flags, _, state, _, *name = line.split(None, 7)
        if name == [address]:
            listens |= bool(int(flags, 16) & _ACCEPTS)
            waiting += state == _CONNECTING
    if not listens:
        return UNKNOWN
    with contextlib.suppress(OSError, ValueError):
        most = int((proc / "sys/net/core/somaxconn").read_text())
        limit = most if limit is None else min(limit, most)
    return Backlog(waiting, limit)
