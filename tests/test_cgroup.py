"""What control groups say, on trees as the kernel shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sockd import memory
from sockd.master.capacity import affordable, processors
from sockd.master.cgroup import EXPIRY, ControlGroup, OOMWatch, read

EVENTS = "low 0\nhigh 12\nmax 340\noom 3\noom_kill {}\noom_group_kill 0\n"


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


SERVICE = "system.slice/shop.service"

TREES = {
    # systemd 257, `CPUQuota=150%`, `MemoryMax=512M`, `MemoryHigh=400M`
    "service": (
        "0::/system.slice/shop.service\n",
        {
            f"{SERVICE}/cpu.max": "150000 100000\n",
            f"{SERVICE}/memory.max": "536870912\n",
            f"{SERVICE}/memory.high": "419430400\n",
            f"{SERVICE}/memory.events": EVENTS.format(2),
            "system.slice/cpu.max": "max 100000\n",
            "system.slice/memory.max": "max\n",
            "system.slice/memory.high": "max\n",
        },
        ControlGroup(1.5, 419430400, 2),
    ),
    # The slice above is tighter than the service
    "slice": (
        "0::/system.slice/shop.service\n",
        {
            f"{SERVICE}/cpu.max": "400000 100000\n",
            f"{SERVICE}/memory.max": "max\n",
            f"{SERVICE}/memory.high": "max\n",
            f"{SERVICE}/memory.events": EVENTS.format(0),
            "system.slice/cpu.max": "50000 100000\n",
            "system.slice/memory.max": "268435456\n",
        },
        ControlGroup(0.5, 268435456, 0),
    ),
    # A container with its own namespace: `docker run --cpus 2 --memory 256m`
    "container": (
        "0::/\n",
        {
            "cpu.max": "200000 100000\n",
            "memory.max": "268435456\n",
            "memory.high": "max\n",
            "memory.events": EVENTS.format(7),
        },
        ControlGroup(2.0, 268435456, 7),
    ),
    # The container's tree mounted over the host's path
    "outside": (
        "0::/../../kubepods/pod1/box\n",
        {"cpu.max": "100000 100000\n", "memory.max": "max\n"},
        ControlGroup(1.0, None, 0),
    ),
    "not mounted": ("0::/system.slice/docker-1.scope\n", {"memory.max": "9\n"}, (None, 9, 0)),
    # The root group of the host has no limits
    "host": ("0::/\n", {"cgroup.procs": "1\n"}, ControlGroup()),
    # No controllers there: a nested systemd-nspawn
    "bare": ("0::/system.slice/shop.service\n", {f"{SERVICE}/cgroup.procs": ""}, ControlGroup()),
    "v1": ("4:memory:/box\n1:cpu:/box\n", {"memory/box/memory.limit_in_bytes": "1"}, (None,) * 2),
    "garbage": (
        "0::/\n",
        {"cpu.max": "much\n", "memory.max": "-1\n", "memory.events": "oom_kill\n"},
        ControlGroup(),
    ),
    "zero period": ("0::/\n", {"cpu.max": "100 0\n"}, ControlGroup()),
}


@pytest.mark.parametrize("name", TREES)
def test_limits(tmp_path: Path, name: str):
    cgroup, files, expected = TREES[name]
    assert read(tree(tmp_path, cgroup, files))[: len(expected)] == tuple(expected)


def test_without_proc(tmp_path: Path):
    assert read(tmp_path) == ControlGroup()


def test_of_this_very_machine():
    found = read()
    assert found.cpus is None or found.cpus > 0
    assert found.oom_kills >= 0


class TestOOM:
    @pytest.fixture
    def events(self, tmp_path: Path) -> Path:
        files = {"memory.events": EVENTS.format(5), "memory.max": "536870912\n"}
        tree(tmp_path, "0::/\n", files)
        return tmp_path / "sys/fs/cgroup/memory.events"

    def test_each_kill_explains_one_death(self, tmp_path: Path, events: Path):
        watch = OOMWatch(tmp_path)
        assert watch.explain(1.0) == ""
        events.write_text(EVENTS.format(7))
        words = "by the OOM killer for the memory of the service, whose limit is 512 MiB"
        assert [watch.explain(2.0) for _ in range(3)] == [words, words, ""]

    def test_one_of_long_ago_explains_nothing(self, tmp_path: Path, events: Path):
        watch = OOMWatch(tmp_path)
        events.write_text(EVENTS.format(7))
        assert watch.explain(2.0)
        assert watch.explain(2.0 + EXPIRY + 1) == ""


class TestMemory:
    def test_what_is_private(self, tmp_path: Path):
        (tmp_path / "12").mkdir()
        (tmp_path / "12/smaps_rollup").write_text(
            "5574-7ffd ---p 00000000 00:00 0    [rollup]\n"
            "Rss:               11200 kB\nPss:                3300 kB\n"
            "Pss_Dirty:          1000 kB\n"
            "Shared_Clean:       4000 kB\nShared_Dirty:       5000 kB\n"
            "Private_Clean:       200 kB\nPrivate_Dirty:      2000 kB\n"
            "Private_Hugetlb:       8 kB\nShared_Hugetlb:        4 kB\nSwap:      0 kB\n"
        )
        assert memory.of(12, tmp_path) == memory.Memory(2208 << 10, 9004 << 10)

    def test_of_a_process_that_is_gone(self, tmp_path: Path):
        assert memory.of(12, tmp_path) is None

    def test_of_real_processes(self):
        mine = memory.of("self")
        assert mine
        assert mine.private > 1 << 20
        # Untouched since the fork, all is shared; what the child writes is its own.
        code = (
            "import os, sys\nfrom sockd import memory\nheld = bytearray(64 << 20)\n"
            "read, write = os.pipe()\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    before = memory.of('self').private\n"
            "    if len(sys.argv) > 1: held[::4096] = b'x' * len(held[::4096])\n"
            "    os.write(write, str(memory.of('self').private - before).encode())\n"
            "    os._exit(0)\n"
            "os.wait()\nprint(os.read(read, 99).decode())\n"
        )
        grown = [
            int(
                subprocess.run(
                    [sys.executable, "-c", code, *more],
                    env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                    capture_output=True,
                    check=True,
                ).stdout
            )
            for more in ([], ["write"])
        ]
        assert grown[0] < 8 << 20
        assert grown[1] >= 64 << 20


class TestProcessors:
    def test_a_quota_counts_by_whole_ones(self):
        usable = len(os.sched_getaffinity(0))
        assert processors(ControlGroup()) == usable
        assert processors(ControlGroup(cpus=0.2)) == 1
        assert processors(ControlGroup(cpus=1.01)) == min(2, usable)
        assert processors(ControlGroup(cpus=1000.0)) == usable

    def test_affinity_counts(self):
        code = (
            "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
            "from sockd.master import capacity, cgroup\n"
            "print(capacity.processors(cgroup.ControlGroup()))"
        )
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True)
        assert done.stdout == b"1\n"


def test_what_fits():
    assert affordable(500, 200, 100) == 3
    assert affordable(500, 200, 101) == 2
    assert affordable(100, 200, 50) == 1
    assert affordable(500, 0, 0) == 500
