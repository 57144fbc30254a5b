"""Open connections outlive every process of a service; clients that never retry notice nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.keepalive import NOTES, assert_once
from tests.lab.service import Service, wait_until
from tests.seed import FACTOR

IDLE = 10_000 if FACTOR > 1 else 1_000
CLIENT = Path(__file__).parents[1] / "keepalive.py"
TALK = "/root/keepalive.py"


@pytest.fixture
def running(service: Service) -> Service:
    service.machine.push(CLIENT, TALK)
    app = NOTES.format(path="notes").replace("'notes'", 'os.environ["STATE_DIRECTORY"] + "/notes"')
    service.configure(app, "recycle.max_requests = 500\nlimits.connections = 8192\n")
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


def test_thousands_of_idle_connections(running: Service) -> None:
    """Each is asked once before and once after."""
    with Talking(running, each=0, waiting=IDLE) as talking:
        for happen in (reloaded, restarted, killed):
            happen(running)
    talking.assert_nothing_happened()
    assert talking.report["count"] == 2 * IDLE


def test_a_restart_waits_for_nobody_and_a_stop_leaves_nothing(running: Service) -> None:
    """Not even for what the application has started in a session of its own."""
    code = running.machine.read(f"/srv/{running.name}/site_app.py")
    running.write(
        code.replace("import os, time", "import os, subprocess, time").replace(
            "    while wait ==",
            "    if wait == 'child':\n"
            "        subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
            "    while wait ==",
        )
    )
    running.systemctl("reload")
    gate = f"/var/lib/private/{running.name}/notes.gate"
    pipe = subprocess.PIPE
    with running.machine.spawn("curl", "-sS", f"{running.direct}slow/gate", stdout=pipe) as slow:
        notes = f"/var/lib/private/{running.name}/notes"
        wait_until(lambda: "slow" in running.machine.read(notes), "the request in hand")
        running.systemctl("restart")
        assert running.get(f"{running.direct}child/child").startswith("child 1")
        assert len(running.status()["left_over"]) == 1
        assert "1 process left from before" in running.property("StatusText")
        running.machine.run("touch", gate)
        assert slow.stdout
        assert slow.stdout.read() == "slow 1 "
    running.systemctl("stop")
    assert left(running) == ""
    assert "ending what the application left: sleep" in running.journal()


def left(service: Service) -> str:
    """Processes in the control group."""
    path = f"/sys/fs/cgroup/system.slice/{service.name}.service/cgroup.procs"
    return service.machine.out("sh", "-c", f"cat {path} 2>/dev/null || true")
