"""The handover channel: who holds its two ends.

It is a pair of SOCK_SEQPACKET sockets (unix(7)). A worker sends connections into `give`, another
receives them from `take`; docs/design/handover.md has the messages. All processes of a service
hold both, and so does the service manager (FDSTORE=1 of sd_notify(3)): connections that were given
and not taken are nobody's but the channel's, and wait there for whoever comes next.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence

GIVE, TAKE = NAMES = ("sockd-give", "sockd-take")
"""What the service manager calls the ends (FDNAME=)."""


class Channel:
    def __init__(self, give: socket.socket, take: socket.socket, found: bool = False) -> None:
        """`found`: the service manager has them already, if there is one. Whether somebody holds
        them after all processes of the service have ended is to be set: `outlives`."""
        self.give = give
        self.take = take
        self.found = found
        self.outlives = False

    @classmethod
    def find(cls, stored: Mapping[str, Sequence[int]]) -> Channel:
        """The one that an earlier master has stored; a new one where there is none, or what was
        stored is something else. `stored`: descriptors that were passed by these names, which are
        closed if they are of no use."""
        ends: list[socket.socket] = []
        for name in NAMES:
            for fd in stored.get(name, ()):
                try:
                    ends.append(socket.socket(fileno=fd))
                except OSError:
                    with contextlib.suppress(OSError):
                        os.close(fd)
        one_each = [len(stored.get(name, ())) for name in NAMES] == [1, 1]
        if one_each and len(ends) == len(NAMES) and all(map(_is_end, ends)):
            return cls(ends[0], ends[1], found=True)
        for end in ends:
            end.close()
        return cls(*socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))

    def descriptors(self) -> list[int]:
        return [self.give.fileno(), self.take.fileno()]

    def named(self) -> dict[str, list[int]]:
        """As `find` takes them."""
        return {name: [fd] for name, fd in zip(NAMES, self.descriptors(), strict=True)}

    def close(self) -> None:
        self.give.close()
        self.take.close()


def _is_end(sock: socket.socket) -> bool:
    return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_SEQPACKET
