"""Processes that die or stop."""

from __future__ import annotations

import json
import subprocess
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


STUCK = """
import ctypes, time

libc = ctypes.PyDLL(None)  # its calls keep the interpreter's lock
mutex = ctypes.create_string_buffer(64)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/asleep":
        time.sleep(600)
    if environ["PATH_INFO"] == "/stuck":
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)  # no signal ends that
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"here"]
"""


def test_a_request_that_takes_too_long_is_answered_and_journalled(service: Service) -> None:
    service.configure(STUCK, '[timeouts]\nrequest = "1s"\n[server]\ntrusted = ["127.0.0.1"]\n')
    service.systemctl("start")
    for path, how in (("asleep", "RequestTimeout was raised"), ("stuck", "not be interrupted")):
        before = wait_until(lambda: len(r := ready(service)) == 2 and r, "two workers ready")
        with service.machine.spawn(
            *("curl", "--silent", "--include", "--max-time", "30"),
            *("--header", "X-Request-ID: r-1", f"{service.direct}{path}?q"),
            stdout=subprocess.PIPE,
        ) as client:
            wait_until(lambda: any(w["active"] for w in ready(service).values()), "the request")
            with service.load(service.direct, clients=1) as load:
                answer, _ = client.communicate(timeout=60)
                after = wait_until(
                    lambda: len(r := ready(service)) == 2 and set(r) - set(before) and r,  # noqa: B023
                    "the worker replaced",
                )
        assert answer.startswith("HTTP/1.1 504 Gateway Timeout")
        load.assert_nothing_failed(least=10)
        (lost,) = set(before) - set(after)
        fields = ("-u", service.name, "SOCKD_CAUSE=request timeout", f"HTTP_PATH=/{path}")
        (line,) = service.machine.journal(*fields, "-o", "json").splitlines()
        entry = json.loads(line)
        assert how in entry["MESSAGE"]
        assert f"GET /{path}?q (from 127.0.0.1)" in entry["MESSAGE"]
        assert "site_app.py" in entry["MESSAGE"], "its stack"
        expected = {
            "PRIORITY": "3",
            "SOCKD_NAME": service.name,
            "SOCKD_GENERATION": "1",
            "SOCKD_WORKER": lost,
            "SOCKD_REQUEST_ID": "r-1",
            "SOCKD_CLIENT": "127.0.0.1",
            "HTTP_METHOD": "GET",
            "HTTP_STATUS": "504",
        }
        assert {key: entry.get(key) for key in expected} == expected
        assert 1_000_000 <= int(entry["DURATION_USEC"]) < 30_000_000
    assert service.get() == "here"
