"""What a process's memory costs: proc_pid_smaps(5), all of its mappings rolled up.

Not RSS, which counts what workers share once for each of them, nor PSS, which rises for one when
another ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """Bytes that are in memory."""

    private: int
    """What would be free without this process."""
    shared: int


def of(pid: int | str, proc: Path = Path("/proc")) -> Memory | None:
    """Of the process `pid` ("self" for this one); None when it is gone or may not be looked at."""
    sums = {"Private": 0, "Shared": 0}
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        kind = name.partition("_")[0]
        if kind in sums:
            sums[kind] += int(rest.split()[0]) << 10
    return Memory(sums["Private"], sums["Shared"])
