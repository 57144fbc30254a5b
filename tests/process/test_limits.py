"""Control groups with limits, as a tree of files mounted over those of this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import APP, Service, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")

MOUNT = """
mount --make-rprivate / && mount -t tmpfs tmpfs /sys/fs/cgroup && cd /sys/fs/cgroup || exit 9
while [ "$1" != -- ]; do printf '%s' "$2" > "$1"; shift 2; done
shift
cd / && exec "$@"
"""

Limited = Callable[..., Service]


@pytest.fixture
def limited(service: Service) -> Limited:
    def start(**files: str) -> Service:
        words = [
            word for name, text in files.items() for word in (name.replace("_", ".", 1), text)
        ]
        service.settings["workers"] = "auto"
        service.start(["unshare", "--mount", "sh", "-c", MOUNT, "sh", *words, "--"])
        eventually(lambda: "ready after" in service.log())
        eventually(lambda: len(service.workers()) == service.status()["wanted"])
        return service

    return start


def test_a_quota(limited: Limited):
    service = limited(cpu_max="50000 100000\n")
    assert service.status()["wanted"] == 1
    assert service.stop() == 0


def test_memory_for_fewer_than_there_are_cores(service: Service, limited: Limited):
    cores = len(os.sched_getaffinity(0))
    # Each worker takes 100 MiB of its own; there is room for one.
    service.settings["app.after_fork"] = "application:grow"
    service.write("held = []\ndef grow(): held.append(bytearray(b'x') * (100 << 20))\n" + APP)
    limited(memory_max=f"{230 << 20}\n")
    assert service.status()["wanted"] == min(cores, 1)
    assert 'workers = "auto": 1, as there is room for' in service.log()
    code, answer = service.ask("POST", "/reload")
    assert (code, answer["workers"]) == (200, 1)
    assert service.stop() == 0


def test_one_that_the_oom_killer_ended(limited: Limited):
    service = limited(
        memory_max=f"{2 << 30}\n", memory_events="oom 0\noom_kill 0\noom_group_kill 0\n"
    )
    events = Path(f"/proc/{service.pid}/root/sys/fs/cgroup/memory.events")
    first, *_ = service.workers().values()
    os.kill(first, signal.SIGKILL)  # by a person
    eventually(lambda: "worker 1.1: died, killed by SIGKILL\n" in service.log())
    events.write_text("oom 1\noom_kill 1\noom_group_kill 0\n")
    eventually(lambda: len(service.workers()) == service.status()["wanted"])
    victim, pid = next(iter(service.workers().items()))
    os.kill(pid, signal.SIGKILL)
    why = "by the OOM killer for the memory of the service, whose limit is 2048 MiB"
    eventually(lambda: f"worker {victim}: died, killed by SIGKILL, {why}" in service.log())
    assert service.stop() == 0
