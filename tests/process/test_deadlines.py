"""A request that takes longer than `timeouts.request`, in each of the ways to be stuck."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from .conftest import PATIENCE, Service, eventually

LIMIT = 1.0

APP = """
import ctypes, os, socket, sys, threading, time
import sockd

lock = threading.Lock()
libc = ctypes.PyDLL(None)  # calls that do not let go of the interpreter's lock
mutex = ctypes.create_string_buffer(64)

def spin():
    while True:
        pass

def sleep():
    time.sleep(600)

def in_c():
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # no signal ends that

def deadlock():
    with lock:
        lock.acquire()

def read():
    ours, theirs = socket.socketpair()
    ours.recv(1)

def stubborn():
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

def own_answer():
    try:
        time.sleep(600)
    except sockd.RequestTimeout:
        return

def patient():
    for _ in range(12):
        assert sockd.extend_deadline(0.4)
        time.sleep(0.2)

def slow():
    time.sleep(0.8)

def slower():
    time.sleep(1.5)

def tidy():
    try:
        with open(os.environ["TRACE"], "a") as trace:
            try:
                time.sleep(600)
            finally:
                trace.write("finally ")
    except Exception:
        pass  # what frameworks do: convert_exception_to_response of Django
    except BaseException as error:
        with open(os.environ["TRACE"], "a") as trace:
            trace.write(type(error).__mro__[1].__name__)
        raise

def stream(stuck):
    yield b"first"
    if stuck == "patiently":
        for _ in range(4):
            time.sleep(0.6)
            yield b"more"
        return
    globals()[stuck]()
    yield b"never"

class Closing:
    def __iter__(self):
        return iter([b"whole"])
    def close(self):
        time.sleep(600)

def app(environ, start_response):
    _, what, *rest = environ["PATH_INFO"].split("/")
    if what == "stream":
        start_response("200 OK", [])
        return stream(rest[0])
    if what == "close":
        start_response("200 OK", [("Content-Length", "5")])
        return Closing()
    if what == "upload":
        assert len(environ["wsgi.input"].read()) == 4
        slow()
    elif what:
        globals()[what]()
    body = f"done {os.getpid()}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

STUCK = ["spin", "sleep", "in_c", "deadlock"]


def start(service: Service, threads: int, app: str = APP, **settings: object) -> Service:
    service.write(app)
    service.environ["TRACE"] = str(service.directory / "trace")
    service.settings.update(
        {"threads": threads, "timeouts.request": LIMIT, "timeouts.drain": 5.0, **settings}
    )
    return service.start().ready()


def entries(service: Service) -> list[str]:
    """What the journal has of requests that took too long."""
    return re.findall(r"^<3>(\S+ \S+ .*\(timeouts\.request\).*)$", service.log(), re.MULTILINE)


def capacity(service: Service, before: dict[str, int]) -> Callable[[], object]:
    """All workers are there, and none of those that had to go."""
    return lambda: (
        len(service.workers()) == len(before)
        and len(service.status()["workers"]) == len(before)
        and set(service.workers()) - set(before)
    )


@pytest.fixture(params=[1, 3], ids=["inline", "pool"])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("how", STUCK)
def test_stuck(service: Service, threads: int, how: str) -> None:
    start(service, threads)
    before = service.workers()
    answers: list[tuple[int, str]] = []
    others: list[int] = []
    stuck = threading.Thread(target=lambda: answers.append(service.get(f"/{how}")))
    stuck.start()
    eventually(lambda: any(w["active"] for w in service.status()["workers"]))
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            try:
                others.append(service.get()[0])
            except (OSError, http.client.HTTPException):
                others.append(0)

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        stuck.join(PATIENCE)
        eventually(capacity(service, before))
    finally:
        end.set()
        for client in clients:
            client.join(PATIENCE)
    assert answers == [(504, "Gateway Timeout\n")]
    assert set(others) == {200}
    (entry,) = entries(service)
    assert entry.startswith(f"GET /{how} (from a Unix socket): answered with 504 after ")
    assert re.search(r"worker 1\.[12] is replaced", entry)
    log = service.log()
    assert f"in {how}" in log[log.index(entry) :], "its stack"
    assert service.status()["totals"]["respawns"]["request_timeout"] == 1
    assert service.get()[0] == 200


def test_one_that_goes_on_after_request_timeout(service: Service) -> None:
    start(service, 1)
    before = service.workers()
    assert service.get("/stubborn")[0] == 504
    eventually(capacity(service, before))
    (entry,) = entries(service)
    assert "it went on after RequestTimeout was raised in it" in entry
    assert "in stubborn" in service.log()


def test_request_timeout_is_raised_once_and_where_the_application_is(service: Service) -> None:
    start(service, 1, workers=1)
    trace = service.directory / "trace"
    before = service.workers()
    assert service.get("/tidy")[0] == 504
    assert trace.read_text() == "finally BaseException"
    assert service.get("/read")[0] == 504
    # The application may catch it and answer.
    code, body = service.get("/own_answer")
    assert (code, body[:5]) == (200, "done ")
    eventually(capacity(service, before))
    assert len(entries(service)) == 3
    assert service.log().count("RequestTimeout was raised in it") == 3
    assert "internal error" not in service.log()
    assert service.log().count("to be replaced after a request timeout") >= 1


def test_a_deadline_can_be_moved_and_time_that_others_take_does_not_count(
    service: Service, threads: int
) -> None:
    settings = {"server.stream_body": True, "timeouts.request": 2.0}
    start(service, threads, workers=1, **settings)
    assert service.get("/patient")[0] == 200
    with closing(socket.socket(socket.AF_UNIX)) as client:
        # A body that the application waits for: its client takes longer than it may.
        client.settimeout(PATIENCE)
        client.connect(service.bind)
        client.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            time.sleep(0.55)
            client.sendall(b"x")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    code, body = service.get("/stream/patiently")
    assert (code, body) == (200, "first" + "more" * 4)
    # More at once than there are threads: waiting is not the application's time.
    answers: list[int] = []
    clients = [
        threading.Thread(target=lambda: answers.append(service.get("/slow")[0]))
        for _ in range(3 * threads)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(PATIENCE)
    assert answers == [200] * 3 * threads
    assert entries(service) == []
    assert "1.2" not in service.log()


@pytest.mark.parametrize("how", ["sleep", "in_c"])
def test_a_stream_is_cut(service: Service, threads: int, how: str) -> None:
    start(service, threads)
    before = service.workers()
    with closing(service.connect()) as connection:
        connection.request("GET", f"/stream/{how}")
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            response.read()
    eventually(capacity(service, before))
    (entry,) = entries(service)
    assert f"GET /stream/{how} (from a Unix socket): response cut, nothing came for " in entry


def test_a_stream_that_has_no_end_of_its_own_is_reset(service: Service) -> None:
    """Over TCP the client can tell the end of a body that ends with its connection."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start(service, 1, bind=[service.bind, f"127.0.0.1:{port}"])
    for how in ("sleep", "in_c"):
        before = service.workers()
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(f"GET /stream/{how} HTTP/1.0\r\n\r\n".encode())
            with pytest.raises(ConnectionResetError):
                while client.recv(65536):
                    pass
        eventually(capacity(service, before))


def test_close_that_does_not_end(service: Service, threads: int) -> None:
    start(service, threads)
    before = service.workers()
    code, body = service.get("/close")
    assert code in (200, 504)  # in a thread it is closed before the response is sent
    assert body in ("whole", "Gateway Timeout\n")
    eventually(capacity(service, before))
    assert len(entries(service)) == 1


def test_slow_requests_are_told_of_and_go_on(service: Service, threads: int) -> None:
    start(service, threads, workers=1, **{"log.slow": 0.3, "timeouts.request": 0})
    before = service.workers()
    connection = service.connect()
    connection.request("GET", "/slower?a")
    assert connection.getresponse().read().startswith(b"done ")
    for _ in range(5):
        connection.request("GET", "/")
        connection.getresponse().read()
    connection.close()
    told = re.findall(r"^<4>GET /slower\?a: slow, \d\.\d s so far", service.log(), re.MULTILINE)
    assert len(told) == 1
    assert "in slower" in service.log()
    assert service.workers() == before


def test_threads_that_are_all_lost(service: Service) -> None:
    start(service, 3, workers=1)
    before = service.workers()
    answers: list[int] = []
    clients = [
        threading.Thread(target=lambda: answers.append(service.get("/sleep")[0])) for _ in range(3)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(PATIENCE)
    assert answers == [504] * 3
    eventually(capacity(service, before))
    assert len(entries(service)) == 3


def test_what_others_have_in_hand_in_that_worker_is_answered(service: Service) -> None:
    start(service, 3, workers=1, **{"timeouts.request": 2.0, "timeouts.drain": 0.2})
    before = service.workers()
    answers: list[tuple[int, str]] = []
    stuck = threading.Thread(target=lambda: answers.append(service.get("/sleep")))
    stuck.start()
    time.sleep(1.0)
    with closing(service.connect()) as connection:
        # Begun later, and in time when the other is over.
        connection.request("GET", "/stream/patiently")
        response = connection.getresponse()
        assert response.read() == b"first" + b"more" * 4
    stuck.join(PATIENCE)
    assert answers == [(504, "Gateway Timeout\n")]
    eventually(capacity(service, before))
    assert len(entries(service)) == 1
    assert "connections cut" not in service.log()


def test_one_that_ends_at_its_deadline_is_either_answered_or_interrupted(
    service: Service, threads: int
) -> None:
    """Nothing is raised in sockd's own code, nor in a request that comes after."""
    service.longest_hold = 0.0
    start(service, threads, RACE, **{"timeouts.request": 0.03})
    answers: list[tuple[int, str]] = []
    clients = [threading.Thread(target=race, args=(service, answers, n)) for n in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(2 * PATIENCE)
    assert len(answers) == 4 * 60
    assert {code for code, _ in answers} <= {200, 504}
    assert {body for code, body in answers if code == 200} <= {"race"}
    log = service.log()
    for word in ("internal error", "the application failed", "Traceback", "ignored"):
        assert word not in log
    eventually(lambda: len(service.status()["workers"]) == 2)


RACE = """
import time

def app(environ, start_response):
    if environ["QUERY_STRING"]:
        until = time.monotonic() + float(environ["QUERY_STRING"])
        while time.monotonic() < until:
            time.sleep(0.0005)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"race"]
"""


def race(service: Service, answers: list[tuple[int, str]], client: int) -> None:
    for n in range(60):
        answers.append(service.get(f"/?{0.026 + (n * 7 + client) % 16 / 2000}"))
