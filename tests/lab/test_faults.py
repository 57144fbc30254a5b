"""Processes that die or stop."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.service import ANSWERS_ITS_VERSION, Service, wait_until

APP = ANSWERS_ITS_VERSION.format(version="here")


@pytest.fixture
def running(service: Service) -> Service:
    service.configure(APP, 'unit.watchdog = "3s"\n')
    service.systemctl("start")
    assert service.get() == "here"
    return service


def ready(service: Service) -> dict[str, Any]:
    """The workers that can answer, by id."""
    workers = service.status()["workers"]
    return {worker["id"]: worker for worker in workers if worker["state"] == "ready"}


def test_killed_worker_is_replaced(running: Service) -> None:
    before = wait_until(lambda: len(r := ready(running)) == 2 and r, "two workers ready")
    master = running.property("MainPID")
    lost = next(iter(before))
    running.machine.run("kill", "-KILL", str(before[lost]["pid"]))
    after = wait_until(lambda: lost not in (r := ready(running)) and len(r) == 2 and r, "another")
    assert set(after) != set(before)
    assert running.property("ActiveState") == "active"
    assert running.property("MainPID") == master
    assert running.get() == "here"
    journal = running.machine.journal("-u", running.name, f"SOCKD_WORKER={lost}", "-o", "cat")
    assert "SIGKILL" in journal


def test_stopped_master_is_restarted_by_the_watchdog(running: Service) -> None:
    master = running.property("MainPID")
    running.machine.run("kill", "-STOP", master)
    wait_until(lambda: running.property("MainPID") not in ("0", master), "another master", 90)
    wait_until(lambda: running.property("ActiveState") == "active", "the service active", 60)
    assert running.get() == "here"
    assert "Watchdog timeout" in running.journal()
