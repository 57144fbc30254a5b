"""What an earlier master of the service has left running: workers that finish their requests, and
processes that the application has started.

They end by themselves: a worker has a kernel timer for its drain time. What does not, is ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable

from sockd import journal
from sockd.master.group import UNKNOWN, Group

LOOK = 0.25  # seconds between two looks
LATER = 3.0  # seconds beyond a worker's own deadline
PATIENCE = 1.0  # seconds between SIGTERM and SIGKILL, and for the kernel after that
STEP = 0.02
WORKER = re.compile(r"sockd \d+\.\d+")


class LeftOver:
    """Found when it is made, which is before this master starts anything. One that has been
    upgraded in place finds nothing: what runs is its own."""

    def __init__(self, group: Group, now: float, *, upgraded: bool = False) -> None:
        self.group = group
        self.found = {} if upgraded else group.others()
        self._sessions = {_session(pid) for pid in self.found} - {_session(os.getpid()), -1}
        self._began = now
        self._until: float | None = None
        self._killing_at: float | None = None
        if self.found:
            text = f"left over from the start before, and finishing: {_names(self.found)}"
            journal.log(journal.NOTICE, text)

    def allow(self, seconds: float) -> None:
        """How long a worker may take to finish; the first word counts."""
        if self._until is None:
            self._until = self._began + seconds + LATER

    def line(self) -> str:
        """For STATUS=; empty when nothing is left over."""
        count = len(self.found)
        return f"{count} process{'' if count == 1 else 'es'} left from before" if count else ""

    def turn(self, now: float) -> float | None:
        """Look, and end what is late; when to come back, None when nothing is left over."""
        if not self.found:
            return None
        self.found = {
            pid: name
            for pid, name in self.group.others().items()
            if pid in self.found or _session(pid) in self._sessions
        }
        if not self.found:
            journal.log(journal.INFO, "what was left over from the start before has ended")
            return None
        serves = any(name == UNKNOWN or WORKER.fullmatch(name) for name in self.found.values())
        late = self._until is not None and now >= self._until
        if self._killing_at is not None and now >= self._killing_at:
            _tell(self.found, signal.SIGKILL)
            self._killing_at = now + PATIENCE
        elif self._killing_at is None and (late or not serves):
            journal.log(journal.NOTICE, f"ending what was left over: {_names(self.found)}")
            _tell(self.found, signal.SIGTERM)
            self._killing_at = now + PATIENCE
        return now + LOOK


def end_group(group: Group) -> None:
    """The last act of a stop: end whatever else runs in the control group."""

    def left() -> dict[int, str]:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return group.others()

    if found := left():
        journal.log(journal.WARNING, f"ending what the application left: {_names(found)}")
        _end(left, signal.SIGTERM)
    if found := left():
        journal.log(journal.WARNING, f"killing what did not end: {_names(found)}")
        _end(left, signal.SIGKILL)


def _end(left: Callable[[], dict[int, str]], number: int) -> None:
    until = time.monotonic() + PATIENCE
    told: set[int] = set()
    while (found := left().keys()) and time.monotonic() < until:
        _tell(found - told, number)
        told |= found
        time.sleep(STEP)


def _tell(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _session(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return -1


def _names(found: dict[int, str]) -> str:
    return ", ".join(f"{name} (pid {pid})" for pid, name in sorted(found.items()))
