"""What the kernel tells of processes: proc_pid_stat(5), cgroup.procs of the control group."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_TICK_USEC = 1_000_000 // os.sysconf("SC_CLK_TCK")
_WORKER = re.compile(r"sockd (\d+\.\d+)")


class LeftOver(NamedTuple):
    """A worker of an earlier master."""

    pid: int
    id: str


def cpu_usec(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Processor time of a process and of the children it has waited for; None when it is gone."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) * _TICK_USEC
    except (OSError, ValueError):
        return None


def left_over(known: Collection[int], root: Path = Path("/")) -> Iterator[LeftOver]:
    """Workers in this process's control group that are not `known`: those of an earlier master,
    which finish what they have in hand."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
        group = (root / "sys/fs/cgroup" / own / "cgroup.procs").read_text().split()
    except OSError:
        return
    for pid in map(int, group):
        if pid not in known:
            try:
                name = (root / "proc" / str(pid) / "comm").read_text().strip()
            except OSError:
                continue
            if match := _WORKER.fullmatch(name):
                yield LeftOver(pid, match[1])
