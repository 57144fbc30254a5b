"""What a service counts: the figures of its workers, and totals that outlive them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from tests.test_metrics import parsed

from .conftest import ROOT, Manager, Service, eventually

FAILING = """
import time

def app(environ, start_response):
    began = time.process_time()
    while environ["PATH_INFO"] == "/404" and time.process_time() < began + 0.1:
        pass
    if environ["PATH_INFO"] == "/raise":
        raise ValueError("the application's own fault")
    status = "404 Not Found" if environ["PATH_INFO"] == "/404" else "200 OK"
    start_response(status, [("Content-Type", "text/plain")])
    return [b"x" * 100]
"""


def totals(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.status()["totals"]
    return found


def counted(service: Service, **wanted: int) -> bool:
    found = totals(service)
    assert all(found[name] <= number for name, number in wanted.items()), found
    return all(found[name] == number for name, number in wanted.items())


def ask_raw(service: Service, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(service.bind)
        sock.sendall(data)
        answer = b""
        while more := sock.recv(65536):
            answer += more
        return answer


def metric(service: Service, name: str, **labels: str) -> float:
    """By curl, as an operator would ask."""
    command = ["curl", "--silent", "--fail", "--unix-socket"]
    done = subprocess.run(
        [*command, str(service.runtime / "control.sock"), "http://localhost/metrics"],
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = tuple(sorted({"service": service.status()["name"], **labels}.items()))
    return parsed(done.stdout)[name, wanted]


def test_what_is_counted(service: Service):
    service.write(FAILING)
    service.start().ready()
    sent = received = 0
    for path in ("/", "/404", "/raise", "/"):
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        sent += len(request)
        received += len(ask_raw(service, request))
    garbage = b"GET / HTTP/1.1\r\n\r\n"  # without a Host
    received += len(ask_raw(service, garbage))
    wanted = {
        "requests": 4, "responses_4xx": 2, "responses_5xx": 1, "exceptions": 1, "refused": 1,
        "bytes_in": sent + len(garbage), "bytes_out": received,
    }  # fmt: skip
    eventually(lambda: counted(service, **wanted))
    eventually(lambda: totals(service)["duration"]["count"] == 4)
    found = totals(service)
    assert found["queue"]["count"] == 4
    assert found["cpu_usec"] > 0
    workers = service.status()["workers"]
    assert all(worker["memory"] > 0 for worker in workers)
    assert metric(service, "sockd_responses_total", **{"class": "5xx"}) == 1
    assert metric(service, "sockd_sent_bytes_total") == received
    assert metric(service, "sockd_request_duration_seconds_count") == 4
    assert service.stop() == 0


def test_totals_outlive_workers_generations_and_masters(service: Service, manager: Manager):
    service.start().ready()
    for _ in range(3):
        service.get()
    assert service.ask("POST", "/reload")[1]["ok"]
    eventually(lambda: len(service.status()["workers"]) == 2)
    service.get()
    victim = next(iter(service.workers().values()))
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: service.status()["respawns"] == 1 and len(service.workers()) == 2)
    service.get()
    # A client has its answer before it is counted.
    eventually(lambda: totals(service)["duration"]["count"] == 5)
    found = totals(service)
    assert found["requests"] == 5
    assert found["reloads"] == {"ok": 1, "failed": 0}
    assert {cause: n for cause, n in found["respawns"].items() if n} == {"signal": 1, "reload": 2}
    assert service.stop() == 0
    # systemd keeps the runtime directory over a restart.
    service.start().ready()
    again = totals(service)
    kept = ("requests", "bytes_in", "bytes_out", "duration", "queue", "respawns", "reloads")
    assert {name: again[name] for name in kept} == {name: found[name] for name in kept}
    assert again["cpu_usec"] >= found["cpu_usec"]
    assert service.status()["respawns"] == 0
    service.get()
    eventually(lambda: totals(service)["requests"] == 6)
    assert service.stop() == 0
    (service.runtime / "totals.json").write_text('{"format": 1, "counts": [], "happened": 7}')
    service.start().ready()
    assert totals(service)["requests"] == 0
    assert service.stop() == 0


def test_why_workers_were_replaced(service: Service):
    service.settings["recycle.max_requests"] = 3
    service.settings["recycle.jitter"] = 0
    service.settings["workers"] = 1
    service.start().ready()
    for _ in range(4):
        service.get()
    eventually(lambda: totals(service)["respawns"]["max_requests"] >= 1)
    assert service.status()["respawns"] == 0
    eventually(lambda: len(service.status()["workers"]) == 1)
    (pid,) = service.workers().values()
    with contextlib.suppress(OSError, EOFError):
        service.get("/exit")
    eventually(lambda: totals(service)["respawns"]["crash"] == 1)
    assert pid not in service.workers().values()
    assert metric(service, "sockd_respawns_total", cause="crash") == 1
    assert service.stop() == 0


def test_requests_in_hand_are_told_with_age_and_id(service: Service):
    service.settings |= {"workers": 1, "threads": 3}
    service.start().ready()
    gate = service.directory / "gate"
    service.write(
        "import os, time\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/wait':\n"
        f"        while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "    start_response('200 OK', [('Content-Length', '0')])\n"
        "    return [b'']\n"
    )
    assert service.ask("POST", "/reload")[1]["ok"]
    headers = {"X-Request-ID": "from-the-proxy"}, {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    threads = [threading.Thread(target=_wait, args=(service, given)) for given in (*headers, {})]
    for thread in threads:
        thread.start()
    eventually(lambda: sum(len(w["in_hand"]) for w in service.status()["workers"]) == 3)
    (worker,) = [w for w in service.status()["workers"] if w["state"] == "ready"]
    assert worker["active"] == 3
    for one in worker["in_hand"]:
        assert (one["method"], one["target"], one["sending"]) == ("GET", "/wait?a=1", False)
        assert worker["started_usec"] < one["started_usec"] <= service.status()["now_usec"]
    ids = {one["id"] for one in worker["in_hand"]}
    assert {"from-the-proxy", "ab" * 16} < ids
    (made,) = ids - {"from-the-proxy", "ab" * 16}
    assert len(made) == 32
    assert metric(service, "sockd_workers_busy") == 1
    assert metric(service, "sockd_requests_in_hand") == 3
    gate.touch()
    for thread in threads:
        thread.join()
    eventually(lambda: not any(w["in_hand"] for w in service.status()["workers"]))
    assert service.stop() == 0


def _wait(service: Service, headers: dict[str, str]) -> None:
    connection = service.connect()
    connection.request("GET", "/wait?a=1", headers={"Connection": "close", **headers})
    connection.getresponse().read()
    connection.close()


def test_stacks_of_every_worker_also_of_one_that_is_stuck(service: Service):
    gate = service.directory / "gate"
    service.settings |= {"workers": 2}
    service.write(
        "import os, time\n"
        "def stuck_in_here():\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/wait': stuck_in_here()\n"
        "    start_response('200 OK', [('Content-Length', '0')])\n"
        "    return [b'']\n"
    )
    service.start().ready()
    thread = threading.Thread(target=_wait, args=(service, {}))
    thread.start()
    eventually(lambda: any(w["in_hand"] for w in service.status()["workers"]))
    for _ in range(2):
        code, content = service.ask("GET", "/stacks")
        assert code == 200
        found = {one["how"]: one["stacks"] for one in content["workers"]}
        assert set(found) == {"asked", "signalled"}
        assert "application.py" in found["signalled"]
        assert "in stuck_in_here" in found["signalled"]
        assert found["signalled"].count("in stuck_in_here") == 1
        assert "waits for connections" in found["asked"]
    shown = _sockd(service, "stacks")
    assert "whose loop does not answer" in shown
    assert "in stuck_in_here" in shown
    assert "# TYPE sockd_requests_in_hand gauge" in _sockd(service, "metrics")
    assert "GET /wait?a=1" in _sockd(service, "status")
    gate.touch()
    thread.join()
    assert service.stop() == 0


def test_threads_have_their_names_in_the_stacks(service: Service):
    gate = service.directory / "gate"
    service.settings |= {"workers": 1, "threads": 2}
    service.write(
        "import os, time\n"
        "def app(environ, start_response):\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "    start_response('200 OK', [('Content-Length', '0')])\n"
        "    return [b'']\n"
    )
    service.start().ready()
    thread = threading.Thread(target=_wait, args=(service, {}))
    thread.start()
    eventually(lambda: any(w["in_hand"] for w in service.status()["workers"]))
    ((one,),) = [service.ask("GET", "/stacks")[1]["workers"]]
    assert one["how"] == "asked"
    assert "Thread sockd-" in one["stacks"]
    assert "application.py" in one["stacks"]
    gate.touch()
    thread.join()
    assert service.stop() == 0


def _sockd(service: Service, command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sockd", command],
        env={**os.environ, "RUNTIME_DIRECTORY": str(service.runtime), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
