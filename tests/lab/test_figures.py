"""What operators are shown, held against what clients have seen."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.lab.service import Service, wait_until
from tests.test_metrics import parsed

COUNT = "/root/count.py"
APP = """
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/500":
        raise ValueError("the application's own fault")
    body = b"x" * (100_000 if path == "/large" else 10)
    start_response("404 Not Found" if path == "/404" else "200 OK", [])
    return [body]
"""


def ask(service: Service, clients: int, requests: int) -> Counter[str]:
    """Straight to the socket unit's port, and what came of it."""
    service.machine.push(Path(__file__).parent / "count.py", COUNT)
    port, numbers = str(service.port + 1), (str(clients), str(requests))
    return Counter(json.loads(service.machine.out("python3", COUNT, port, *numbers, timeout=300)))


def accesses(service: Service, *matches: str) -> list[dict[str, Any]]:
    words = ("-u", service.name, "-o", "json", "SOCKD_ACCESS=1", *matches)
    lines = service.machine.out("journalctl", *words, timeout=300).splitlines()
    return [json.loads(line) for line in lines]


def shown(service: Service) -> dict[str, int]:
    found = service.status()["totals"]
    return {
        "requests": found["requests"], "missing": found["responses_4xx"],
        "failed": found["responses_5xx"], "sent": found["bytes_in"],
        "received": found["bytes_out"],
    }  # fmt: skip


def test_everybody_has_the_same_figures(service: Service) -> None:
    service.configure(APP, 'threads = 2\nlog.access = "all"\n')
    service.systemctl("start")
    seen = ask(service, 6, 200)
    service.systemctl("reload")
    seen += ask(service, 6, 100)
    service.systemctl("restart")
    seen += ask(service, 2, 50)
    assert seen["requests"] == 1900
    assert seen["failed"] == 380
    # The client may have all of its answer a moment before that is counted.
    wait_until(lambda: shown(service) == dict(seen), f"{dict(seen)} in status", 30)

    wait_until(lambda: len(accesses(service)) == seen["requests"], "all entries", 60)
    journal = accesses(service)
    assert len(accesses(service, "HTTP_STATUS=500")) == seen["failed"]
    assert sum(int(entry["BYTES_SENT"]) for entry in journal) == seen["received"]
    assert len({entry["SOCKD_REQUEST_ID"] for entry in journal}) == seen["requests"]
    assert {entry["PRIORITY"] for entry in journal} == {"6"}
    # The traceback of a request is found by the id of its access.
    (failed,) = accesses(service, "HTTP_STATUS=500", "HTTP_QUERY=3")[:1]
    own = service.machine.journal("-o", "cat", f"SOCKD_REQUEST_ID={failed['SOCKD_REQUEST_ID']}")
    assert "ValueError: the application's own fault" in own

    by_sockd = parsed(service.machine.out("sockd", "metrics", service.name))
    control = f"/run/sockd/{service.name}/control.sock"
    by_curl = parsed(
        service.machine.out("curl", "-sf", "--unix-socket", control, "http://x/metrics")
    )
    of = ("service", service.name)
    for found in (by_sockd, by_curl):
        assert found["sockd_requests_total", (of,)] == seen["requests"]
        assert found["sockd_sent_bytes_total", (of,)] == seen["received"]
        assert found["sockd_received_bytes_total", (of,)] == seen["sent"]
        assert found["sockd_responses_total", (("class", "5xx"), of)] == seen["failed"]
        assert found["sockd_exceptions_total", (of,)] == seen["failed"]
        assert found["sockd_request_duration_seconds_count", (of,)] == seen["requests"]
        assert found["sockd_reloads_total", (("outcome", "ok"), of)] == 1
        assert found["sockd_listen_queue", (("listener", f"/run/{service.name}.sock"), of)] == 0
        assert found["sockd_access_lost_total", (of,)] == 0


def test_a_killed_worker_is_told_when_the_journal_takes_no_more_requests(
    service: Service,
) -> None:
    service.configure(APP, 'log.access = "all"\n[unit.service]\nLogRateLimitBurst = "20"\n')
    service.systemctl("start")
    ask(service, 2, 200)
    # Not exactly 20: journald takes more where there is much room on the disk.
    worker = service.status()["workers"][0]
    wait_until(lambda: len(accesses(service)) < 400, "lost entries", 10)
    service.machine.run("kill", "-KILL", str(worker["pid"]))
    wait_until(
        lambda: f"worker {worker['id']}: died, killed by SIGKILL" in service.journal(),
        "the entry about it",
        30,
    )
    assert len(accesses(service)) < 400


def test_the_queue_of_a_unix_socket_that_is_hidden_from_the_service(service: Service) -> None:
    service.configure(APP, 'unit.hardening = "strict"\n')
    service.systemctl("start")
    (listener,) = [
        one for one in service.status()["listeners"] if one["address"].startswith("/run/")
    ]
    assert listener["queue"] == 0
    assert listener["limit"] > 0
