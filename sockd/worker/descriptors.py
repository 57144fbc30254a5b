"""Descriptors that the application must not reach by accident.

Applications close what they did not open: "all from 3 to 100" is an old habit. So sockd's stand
far above, and an import that took them away nevertheless is found out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable

HIGH = 900  # sockd's descriptors start here


def move(fd: int) -> int:
    """Its number from HIGH on, close-on-exec. It keeps the old one where RLIMIT_NOFILE is low."""
    with contextlib.suppress(OSError):
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
        os.close(fd)
        return high
    os.set_inheritable(fd, False)
    return fd


def identity(fd: int) -> tuple[int, int] | None:
    """Device and inode of what is open there, None when nothing is."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Guard:
    """Knows whether `descriptors` are still what they were when it was made."""

    COMPLAINT = (
        "the application closed descriptors that are sockd's while it was imported; "
        "it may close only what it opened"
    )

    def __init__(self, descriptors: Iterable[int]) -> None:
        self._before = {fd: identity(fd) for fd in descriptors}

    def holds(self, fd: int) -> bool:
        return identity(fd) == self._before[fd]

    def intact(self) -> bool:
        return all(map(self.holds, self._before))
