"""What the control group allows and has seen: cgroup v2 of the kernel's admin guide."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

EXPIRY = 10.0  # seconds after which a kill by the kernel explains no death any more


class ControlGroup(NamedTuple):
    cpus: float | None = None
    """Processors that cpu.max allows; None without a limit."""
    memory: int | None = None
    """Bytes that memory.max and memory.high allow; None without a limit."""
    oom_kills: int = 0
    """Processes of this group that the OOM killer has killed."""


def read(root: Path = Path("/")) -> ControlGroup:
    """Of this process: the tightest limits of its group and of those above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ControlGroup()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    top = root / "sys/fs/cgroup"
    if ".." in Path(own).parts or not (top / own).is_dir():
        own = ""  # it lies outside of what is mounted here
    return of(top / own, top)


def of(path: Path, top: Path = Path("/sys/fs/cgroup")) -> ControlGroup:
    """Of the group whose directory is `path`, below `top`."""
    groups = [path, *(parent for parent in path.parents if parent.is_relative_to(top))]
    limits = [_bytes(group / name) for group in groups for name in ("memory.max", "memory.high")]
    return ControlGroup(
        min(filter(None, map(_cpus, groups)), default=None),
        min((limit for limit in limits if limit is not None), default=None),
        _oom_kills(path / "memory.events"),
    )


def _words(path: Path) -> list[str]:
    with contextlib.suppress(OSError):  # a controller that is not there; the root has no limits
        return path.read_text().split()
    return []


def _cpus(group: Path) -> float | None:
    match _words(group / "cpu.max"):
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
    return None


def _bytes(path: Path) -> int | None:
    match _words(path):
        case [limit] if limit.isdigit():
            return int(limit)
    return None


def _oom_kills(path: Path) -> int:
    words = _words(path)
    if "oom_kill" in words[:-1]:
        count = words[words.index("oom_kill") + 1]
        return int(count) if count.isdigit() else 0
    return 0


class OOMWatch:
    """Which deaths by SIGKILL were the OOM killer's. The kernel counts before it kills."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._seen = read(root).oom_kills
        self._unexplained = 0
        self._at = 0.0

    def explain(self, now: float) -> str:
        """Why a process was just killed, if it was for memory; for each kill once."""
        group = read(self._root)
        if now - self._at > EXPIRY:
            self._unexplained = 0
        if group.oom_kills > self._seen:
            self._unexplained += group.oom_kills - self._seen
            self._seen, self._at = group.oom_kills, now
        if not self._unexplained:
            return ""
        self._unexplained -= 1
        limit = f", whose limit is {group.memory >> 20} MiB" if group.memory else ""
        return f"by the OOM killer for the memory of the service{limit}"
