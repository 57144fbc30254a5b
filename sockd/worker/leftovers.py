"""What the application's import left that a fork cannot share.

A fork has the one thread that forked. A connection that several processes hold mixes their words
up: a database's answer goes to whoever reads first. So does one to another process by a Unix
socket, while a pair of sockets within one process (an event loop wakes itself with it) is none of
these, and datagrams on Unix sockets (syslog) do not mix.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sockd.worker.descriptors import identity

INTERNET = (socket.AF_INET, socket.AF_INET6)
STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
SETTLE = 0.05  # seconds


def sockets() -> dict[int, tuple[int, int]]:
    """All sockets of this process: descriptor to device and inode."""
    found = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        fd = int(entry.name)
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode) and (here := identity(fd)):
                found[fd] = here
    return found


def left(before: dict[int, tuple[int, int]]) -> dict[str, Any]:
    """`threads`, the names of Python's; `connections`, made since `before`, in words; `native`,
    how many threads are not Python's."""
    if _tasks() > len(sys._current_frames()):
        time.sleep(SETTLE)  # one of Python's may not have come to its first line
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    python = [ident for ident in sys._current_frames() if ident != threading.get_ident()]
    known = set(before.values())
    return {
        "threads": sorted(names.get(ident, f"number {ident}") for ident in python),
        "connections": [
            words
            for fd, identity in sorted(sockets().items())
            if identity not in known and (words := _connection(fd))
        ],
        "native": max(0, _tasks() - 1 - len(python)),
    }


def _tasks() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _connection(fd: int) -> str:
    """Words for one that cannot be shared, empty for any other."""
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:
        return ""
    with sock:
        try:
            peer = sock.getpeername()
        except OSError:  # not connected
            return ""
        if sock.family in INTERNET:
            host, port = peer[:2]
            host = f"[{host}]" if ":" in host else host
            return f"a connection to {host}:{port} (descriptor {fd})"
        if sock.family == socket.AF_UNIX and sock.type in STREAMS:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = struct.unpack("iII", credentials)[0]
            if pid != os.getpid():
                where = os.fsdecode(peer) or f"process {pid}"
                return f"a connection to {where} (descriptor {fd})"
    return ""
