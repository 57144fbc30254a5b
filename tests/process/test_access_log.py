"""Requests in the log: one entry each, with the id that the client and the application know."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Service, eventually

LOGGING = """
import logging.config, time

logging.config.dictConfig({
    "version": 1,
    "filters": {"request": {"()": "sockd.logs.RequestId"}},
    "handlers": {"journal": {"class": "sockd.logs.Journal", "filters": ["request"]}},
    "root": {"handlers": ["journal"], "level": "INFO"},
})
log = logging.getLogger("shop")
log.info("imported")

def app(environ, start_response):
    path = environ["PATH_INFO"]
    log.warning("in %s", path)
    if path == "/raise":
        raise ValueError("the application's own fault")
    if path == "/own":
        start_response("200 OK", [("X-Request-ID", "the app's")])
        return [b"x"]
    if path == "/slow":
        time.sleep(0.3)
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield environ.get("sockd.request_id", "").encode()
    log.error("later in %s", path)
"""


@pytest.fixture(params=[1, 3], ids=["inline", "threads"])
def logging_service(service: Service, request: pytest.FixtureRequest) -> Iterator[Service]:
    service.settings |= {"workers": 1, "threads": request.param, "log.format": "json"}
    service.write(LOGGING)
    yield service


def entries(service: Service) -> list[dict[str, Any]]:
    """Whole ones: the last may be about to be written."""
    lines = service.log().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def accesses(service: Service) -> list[dict[str, Any]]:
    return [entry for entry in entries(service) if "sockd_access" in entry]


def ask(service: Service, target: str, **headers: str) -> http.client.HTTPResponse:
    connection = service.connect()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", target, headers={"Connection": "close", **given})
    response = connection.getresponse()
    response.body = response.read().decode()
    connection.close()
    return response


def test_one_id_for_client_application_and_journal(logging_service: Service):
    service = logging_service
    service.settings |= {"server.request_id": True, "log.access": "all"}
    service.start().ready()
    made = ask(service, "/a")
    assert len(made.headers["X-Request-ID"]) == 32
    assert made.body == made.headers["X-Request-ID"]
    given = ask(
        service, "/b", X_Request_ID="from-nginx", traceparent=f"00-{'a' * 32}-{'b' * 16}-01"
    )
    assert (given.headers["X-Request-ID"], given.body) == ("from-nginx", "from-nginx")
    traced = ask(service, "/c", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    assert traced.headers["X-Request-ID"] == "a" * 32
    for wrong in ("x" * 65, "a b", "é"):
        assert len(ask(service, "/d", X_Request_ID=wrong).body) == 32
    assert ask(service, "/own").headers.get_all("X-Request-ID") == ["the app's"]
    failed = ask(service, "/raise")
    assert failed.status == 500
    eventually(lambda: len(accesses(service)) == 8)
    found = entries(service)
    assert [e for e in found if e["message"] == "imported" and "sockd_request_id" not in e]
    for response, path in ((made, "/a"), (given, "/b"), (traced, "/c"), (failed, "/raise")):
        id = response.headers["X-Request-ID"]
        own = [entry for entry in found if entry.get("sockd_request_id") == id]
        words = " ".join(entry["message"] for entry in own)
        assert f"in {path}" in words
        if path == "/raise":
            assert "ValueError: the application's own fault" in words
        else:
            assert f"later in {path}" in words
        (access,) = [entry for entry in own if "sockd_access" in entry]
        assert (access["http_path"], access["http_status"]) == (path, str(response.status))
    assert len({e["sockd_request_id"] for e in accesses(service)}) == 8
    assert service.stop() == 0


def test_the_ids_of_strangers_do_not_count(logging_service: Service):
    service = logging_service
    service.settings |= {"server.request_id": True, "server.trusted": []}
    service.start().ready()
    assert len(ask(service, "/a", X_Request_ID="mine").body) == 32
    assert service.stop() == 0


def test_what_an_application_logs_has_an_id_although_nobody_is_told(logging_service: Service):
    service = logging_service
    service.start().ready()
    response = ask(service, "/a")
    assert "X-Request-ID" not in response.headers
    assert response.body == ""
    eventually(lambda: any("later in /a" in entry["message"] for entry in entries(service)))
    ids = {e["sockd_request_id"] for e in entries(service) if "in /a" in e["message"]}
    assert [len(id) for id in ids] == [32]
    assert accesses(service) == []
    assert service.stop() == 0


def test_slow_and_failed_ones_and_those_that_were_cut(service: Service):
    service.settings |= {"workers": 1, "log.access": "slow", "log.slow": "250ms"}
    service.settings["log.format"] = "json"
    service.write(LOGGING)
    service.start().ready()
    for path in ("/quick", "/slow", "/raise"):
        ask(service, path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(service.bind)
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: any(w["in_hand"] for w in service.status()["workers"]))
    eventually(lambda: len(accesses(service)) == 3)
    slow, failed, cut = accesses(service)
    assert (slow["http_path"], slow["http_status"]) == ("/slow", "200")
    assert int(slow["duration_usec"]) >= 250_000
    assert (failed["http_path"], failed["http_status"]) == ("/raise", "500")
    assert cut["http_path"] == "/slow"
    assert "went away" in cut["sockd_cut"]
    assert service.stop() == 0


def test_a_file_of_all_workers(service: Service, tmp_path: Path):
    path = tmp_path / "access.log"
    service.settings |= {
        "log.access": "all",
        "log.access_file": str(path),
        "log.access_format": '%(h)s "%(r)s" %(s)s %(b)s %({x-request-id}i)s',
        "log.access_except": ["/healthz"],
    }
    service.start().ready()
    for number in range(20):
        ask(service, f"/?{number}", X_Request_ID=f"r{number}")
        ask(service, "/healthz")
    size = len(service.get("/")[1])
    eventually(lambda: path.exists() and len(path.read_text().splitlines()) == 21)
    lines = path.read_text().splitlines()
    assert set(lines[:20]) == {f'- "GET /?{n} HTTP/1.1" 200 {size} r{n}' for n in range(20)}
    assert service.stop() == 0


def test_a_file_that_cannot_be_written_fails_the_reload(service: Service):
    service.settings |= {"log.access": "all", "log.access_file": "/nonexistent/access.log"}
    service.start()
    assert service.wait() == 1
    assert "log.access_file: cannot open /nonexistent/access.log" in service.log()


def test_refused_requests_are_logged(service: Service):
    service.settings |= {"workers": 1, "log.access": "all", "log.format": "json"}
    service.start().ready()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(service.bind)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        received = b""
        while more := client.recv(65536):
            received += more
    eventually(lambda: len(accesses(service)) == 1)
    (entry,) = accesses(service)
    assert (entry["http_status"], entry["http_method"]) == ("400", "-")
    assert int(entry["bytes_sent"]) == len(received)
    assert service.stop() == 0
