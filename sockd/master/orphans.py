"""Processes that the application left behind: children of workers that have ended.

The master adopts them (PR_SET_CHILD_SUBREAPER), so after the last worker they are its children.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from sockd import journal

PATIENCE = 1.0  # seconds between SIGTERM and SIGKILL, and for the kernel after that
STEP = 0.02


def end_orphans(sessions: set[int]) -> None:
    """End this process's children, those they leave included: SIGTERM, then SIGKILL.

    A child in none of the `sessions` made one of its own; so it wants to live on, and does.
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
        for pid in found - told:
            # A child that was not reaped: the number cannot be another process's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        told |= found
        time.sleep(STEP)


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


def _names(pids: set[int]) -> str:
    names = []
    for pid in sorted(pids):
        with contextlib.suppress(OSError):
            names.append(f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})")
    return ", ".join(names)
