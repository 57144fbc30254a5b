"""Open connections outlive every process of a service; clients that never retry notice nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.keepalive import NOTES, assert_once
from tests.lab.service import Service, wait_until

CLIENT = Path(__file__).parents[1] / "keepalive.py"
TALK = "/root/keepalive.py"


@pytest.fixture
def running(service: Service) -> Service:
    service.machine.push(CLIENT, TALK)
    app = NOTES.format(path="notes").replace("'notes'", 'os.environ["STATE_DIRECTORY"] + "/notes"')
    service.configure(app, "recycle.max_requests = 500\n")
    service.systemctl("start")
    return service


class Talking:
    """Clients of `tests.keepalive` in the machine, for as long as the block lasts."""

    def __init__(self, service: Service, each: int = 3, waiting: int = 20) -> None:
        self.service = service
        pipe = subprocess.PIPE
        self.process = service.machine.spawn(
            *("python3", TALK, f"127.0.0.1:{service.port + 1}", str(each), str(waiting)),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        self.report: dict[str, Any] = {}

    def __enter__(self) -> Talking:
        assert self.process.stdout
        assert self.process.stdout.readline() == "talking\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind:
            self.process.kill()
        out, err = self.process.communicate(timeout=120)
        if not kind:
            assert self.process.returncode == 0, err
            self.report = json.loads(out)

    def assert_nothing_happened(self) -> None:
        assert not self.report["failures"], self.report
        notes = self.service.machine.read(f"/var/lib/private/{self.service.name}/notes")
        assert_once(notes, self.report["count"])


def killed(service: Service) -> None:
    master = service.property("MainPID")
    service.machine.run("kill", "-KILL", master)
    wait_until(lambda: service.property("MainPID") not in ("0", master), "the next master")
    wait_until(lambda: service.property("ActiveState") == "active", "the service active")


def reloaded(service: Service) -> None:
    service.systemctl("reload")


def restarted(service: Service) -> None:
    service.systemctl("restart")


def test_connections_outlive_all_processes(running: Service) -> None:
    with Talking(running) as talking:
        for happen in (reloaded, restarted, killed, restarted, killed, reloaded):
            happen(running)
    talking.assert_nothing_happened()
    running.systemctl("stop")
    assert left(running) == ""


def left(service: Service) -> str:
    """Processes in the control group."""
    path = f"/sys/fs/cgroup/system.slice/{service.name}.service/cgroup.procs"
    return service.machine.out("sh", "-c", f"cat {path} 2>/dev/null || true")
