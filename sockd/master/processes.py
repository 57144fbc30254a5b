"""What the kernel tells of processes: proc_pid_stat(5)."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_USEC = 1_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_usec(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Processor time of a process and of the children it has waited for; None when it is gone."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) * _TICK_USEC
    except (OSError, ValueError):
        return None
