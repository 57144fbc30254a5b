"""What a worker's native helper does while the application is busy, sleeps, or holds the GIL."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from .conftest import PATIENCE, Service, eventually

APP = """
import ctypes, os, select

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path in ("/sleep", "/spin", "/gil"):  # until the test writes a byte
        hold = os.open("HOLD", os.O_RDWR)
        if path == "/spin":
            while not select.select([hold], [], [], 0)[0]:
                pass
        if path == "/gil":  # a C call that does not let go of the interpreter's lock
            ctypes.PyDLL(None).read(hold, ctypes.create_string_buffer(1), 1)
        else:
            os.read(hold, 1)
        os.close(hold)
    body = f"{path} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

MODES = [(1, "/sleep"), (1, "/spin"), (1, "/gil"), (4, "/gil")]


@pytest.fixture(params=MODES, ids=lambda mode: f"{mode[0]}{mode[1]}")
def path(request: pytest.FixtureRequest, service: Service) -> str:
    """The service has one worker, and a request for this path makes it deaf."""
    threads, path = request.param
    service.settings.update({"workers": 1, "threads": threads})
    start(service)
    return str(path)


def start(service: Service) -> None:
    hold = service.directory / "hold"
    os.mkfifo(hold)
    service.write(APP.replace("HOLD", str(hold)))
    service.settings.update({"server.health": "/healthz"})
    service.start().ready()


class Busy:
    """Requests that the application is in the middle of, and what each was answered in the end."""

    def __init__(self, service: Service, path: str, clients: int) -> None:
        self.answers: list[str] = []
        self._hold = os.open(service.directory / "hold", os.O_RDWR)
        self.held = [
            threading.Thread(target=lambda: self.answers.append(service.get(path)[1]))
            for _ in range(clients)
        ]
        for thread in self.held:
            thread.start()

    def release(self) -> None:
        os.write(self._hold, b"x" * len(self.held))
        for thread in self.held:
            thread.join(PATIENCE)
        os.close(self._hold)
        self.held = []


@contextmanager
def keep_busy(service: Service, path: str, clients: int = 1) -> Iterator[Busy]:
    busy = Busy(service, path, clients)
    try:
        eventually(lambda: sum(w["active"] for w in service.status()["workers"]) == clients)
        time.sleep(0.1)
        yield busy
    finally:
        if busy.held:
            busy.release()


def talk(service: Service, *pieces: bytes) -> bytes:
    """What comes back on one connection until it is closed."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(PATIENCE)
        client.connect(service.bind)
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.05)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


def test_health_is_answered_beside_a_busy_application(service: Service, path: str) -> None:
    kept = service.connect()
    kept.request("GET", "/")
    kept.getresponse().read()
    with keep_busy(service, path) as busy:
        for _ in range(5):
            assert service.get("/healthz") == (200, "ok\n")
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() == b"ok\n"
        kept.request("HEAD", "/healthz")
        assert kept.getresponse().read() == b""
        # Byte by byte, and with a request behind it that has to wait.
        head = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        split = [bytes([byte]) for byte in head]
        last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.settimeout(PATIENCE)
            client.connect(service.bind)
            for piece in [*split, head + last[:10]]:
                client.sendall(piece)
            early = b""
            while early.count(b"ok\n") < 2:
                early += client.recv(65536)
            assert not busy.answers, "that was the loop, not the helper"
            client.sendall(last[10:])
            busy.release()
            while piece := client.recv(65536):
                early += piece
            assert early.count(b"200 OK") == 3
            assert b"\r\n\r\n/ " in early
    assert len(busy.answers) == 1
    kept.request("GET", "/")
    assert kept.getresponse().status == 200
    kept.close()


def test_what_came_while_it_was_busy_is_served_in_order(service: Service, path: str) -> None:
    one = b"GET /%d HTTP/1.1\r\nHost: a\r\n%s\r\n"
    requests = b"".join(one % (n, b"Connection: close\r\n" if n == 9 else b"") for n in range(10))
    results: list[bytes] = []
    with keep_busy(service, path):
        clients = [
            threading.Thread(target=lambda cut: results.append(talk(service, *cut)), args=(cut,))
            for cut in (
                [requests],
                [requests[:40], requests[40:]],
                [b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", b"abc" + requests],
            )
        ]
        for client in clients:
            client.start()
        time.sleep(0.5)
    for client in clients:
        client.join(PATIENCE)
    assert len(results) == 3
    for answer in results:
        bodies = [part.split()[0] for part in answer.split(b"\r\n\r\n")[1:]]
        assert [body for body in bodies if body != b"/x"] == [b"/%d" % n for n in range(10)]


def test_refusals_wait_for_the_loop_and_late_heads_do_not(service: Service) -> None:
    service.settings.update({"workers": 1, "timeouts.header": 1.0})
    start(service)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for client in waiting:
        client.settimeout(PATIENCE)
        client.connect(service.bind)
    eventually(lambda: service.status()["workers"][0]["connections"] == 3)
    with keep_busy(service, "/sleep") as busy:
        begun = (b"GET / HTTP/1.1\r\n", b"GE", b"\0\r\n\r\n")
        for client, text in zip(waiting, begun, strict=True):
            client.sendall(text)
        for client in waiting[:2]:
            assert client.recv(65536).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert client.recv(65536) == b""
        assert not busy.answers
    assert waiting[2].recv(65536).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    for client in waiting:
        client.close()
    eventually(lambda: service.status()["workers"][0]["connections"] == 0)
    assert service.log().count("refused with 408") == 2
    assert service.log().count("refused with 400") == 1


def test_health_beside_threads_that_are_all_busy(service: Service) -> None:
    service.settings.update({"workers": 1, "threads": 2})
    start(service)
    with keep_busy(service, "/sleep", clients=2) as busy:
        for _ in range(20):
            assert service.get("/healthz") == (200, "ok\n")
        assert not busy.answers
    assert len(busy.answers) == 2


def test_a_busy_worker_takes_nothing_that_another_could(service: Service) -> None:
    start(service)
    with keep_busy(service, "/sleep") as busy:
        for _ in range(50):
            assert service.get("/")[0] == 200
            assert service.get("/healthz") == (200, "ok\n")
        assert not busy.answers


def test_draining_is_503(service: Service) -> None:
    service.settings["workers"] = 1
    start(service)
    kept = service.connect()
    kept.request("GET", "/healthz")
    assert kept.getresponse().read() == b"ok\n"
    with keep_busy(service, "/sleep") as busy:
        service.send(15)
        eventually(lambda: service.status()["state"] == "stopping")
        kept.request("GET", "/healthz")
        response = kept.getresponse()
        assert response.status == 503
        assert response.getheader("Connection") == "close"
        assert not busy.answers
    assert len(busy.answers) == 1
