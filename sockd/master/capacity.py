"""How many workers this machine has room for."""

from __future__ import annotations

import math
import os

from sockd.master.cgroup import ControlGroup


def processors(group: ControlGroup, affinity: int | None = None) -> int:
    """Those that a process may use: its affinity (by default this one's), and the quota of its
    control group, of which a part of a processor counts as one."""
    usable = affinity or len(os.sched_getaffinity(0))
    return usable if group.cpus is None else max(1, min(usable, math.ceil(group.cpus)))


def affordable(memory: int, shared: int, private: int) -> int:
    """How many workers fit into `memory` bytes, if each holds `private` of its own and all share
    `shared`; at least one."""
    return max(1, (memory - shared) // max(private, 1))
