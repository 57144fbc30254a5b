"""Processes that the application left behind: children of workers that have ended.

The master adopts them (PR_SET_CHILD_SUBREAPER). One that made a session of its own wants to live
on, and does; the others are of the session of their generation's fork server, and end with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path

from sockd import journal
from sockd.master.inheritance import OrphansState

PATIENCE = 1.0  # seconds between SIGTERM and SIGKILL, and for the kernel after that
STEP = 0.02
LOOK = 0.1  # seconds between two looks at those that are being ended while the service goes on


class Orphans:
    """Those of a service that goes on. `sessions`: of fork servers, and which generation's."""

    def __init__(self, sessions: Mapping[int, int]) -> None:
        self.sessions = sessions
        self._named: set[int] = set()
        self._ending: dict[int, float] = {}  # session: when to kill what is left of it
        self._told: set[int] = set()

    def state(self) -> OrphansState:
        return OrphansState(dict(self.sessions), sorted(self._named), dict(self._ending))

    def inherit(self, state: OrphansState) -> None:
        self._named, self._ending = set(state.named), dict(state.ending)

    def look(self, known: Set[int]) -> None:
        """Journal children that are none of the `known` ones, each once."""
        found = _children() - known
        self._named &= found  # the number may be another's next time
        for pid in sorted(found - self._named):
            generation = self.sessions.get(_session(pid))
            until = (
                "in a session of its own"
                if generation is None
                else f"it ends with generation {generation}"
            )
            if name := _names({pid}):
                journal.log(
                    journal.WARNING,
                    f"the application left running: {name}, {until}",
                    sockd_generation=generation,
                )
        self._named |= found

    def end(self, session: int, now: float) -> None:
        """The generation of this session is gone: end what it has left."""
        self._ending[session] = now + PATIENCE

    def turn(self, now: float) -> float | None:
        """Go on with ending; when to come back."""
        for session, kill_at in list(self._ending.items()):
            found = {pid for pid in _children() if _session(pid) == session}
            if not found or now > kill_at + PATIENCE:
                del self._ending[session]
            elif now >= kill_at:
                _tell(found, signal.SIGKILL)
            elif fresh := found - self._told:
                generation = self.sessions.get(session)
                text = f"generation {generation} is gone: ending what it left: {_names(fresh)}"
                journal.log(journal.NOTICE, text, sockd_generation=generation)
                _tell(fresh, signal.SIGTERM)
                self._told |= fresh
        if not self._ending:
            self._told.clear()
            return None
        return now + LOOK


def end_orphans(sessions: Set[int]) -> None:
    """The master's last act: end its children, those they leave included: SIGTERM, then SIGKILL.

    A child in none of the `sessions` made one of its own.
    """
    _reap()
    left = {pid for pid in _children() if _session(pid) not in sessions}
    if left:
        journal.log(journal.NOTICE, f"left running, in sessions of their own: {_names(left)}")

    def ours() -> set[int]:
        _reap()
        return {pid for pid in _children() - left if _session(pid) in sessions}

    if found := ours():
        journal.log(journal.WARNING, f"ending what the application left: {_names(found)}")
        _end(ours, signal.SIGTERM)
    if found := ours():
        journal.log(journal.WARNING, f"killing what did not end: {_names(found)}")
        _end(ours, signal.SIGKILL)


def _end(ours: Callable[[], set[int]], number: int) -> None:
    until = time.monotonic() + PATIENCE
    told: set[int] = set()
    while (found := ours()) and time.monotonic() < until:
        _tell(found - told, number)
        told |= found
        time.sleep(STEP)


def _tell(pids: Set[int], number: int) -> None:
    for pid in pids:
        # A child that was not reaped: the number cannot be another process's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _children() -> set[int]:
    with contextlib.suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN
        path = Path(f"/proc/self/task/{os.getpid()}/children")
        return {int(pid) for pid in path.read_text().split()}
    return set()


def _session(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return -1


def _names(pids: Set[int]) -> str:
    names = []
    for pid in sorted(pids):
        with contextlib.suppress(OSError):
            names.append(f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})")
    return ", ".join(names)
