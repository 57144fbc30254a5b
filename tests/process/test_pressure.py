"""A worker that lacks something: descriptors, room on the disk, memory, connections."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import PATIENCE, Service, descriptors, eventually

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
EXPECTED = b"HTTP/1.1 200 OK\r\n"
MIB = 1 << 20
HERE = Path(__file__).parent

# /var/tmp of the service is a file system of 3 MiB.
SMALL_DISK = [
    "unshare", "--mount", "sh", "-c",
    'mount -t tmpfs -o size=3m none /var/tmp && exec "$@"', "sh",
]  # fmt: skip

APP = """
import ctypes, os

process = ctypes.CDLL(None)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/fail/"):
        first, count = path[6:].split("-")
        process.fail_at(int(first), int(count))
    answer = b"%d" % os.getpid()
    if path == "/failed":
        answer = b"%d" % process.failed()
        process.fail_at(0, 0)
    if path == "/write":
        write = start_response("200 OK", [])
        size = int(environ["QUERY_STRING"])
        for _ in range((8 << 20) // size):
            write(b"x" * size)
        return [b"end"]
    if path == "/pieces":
        start_response("200 OK", [("X-Some", "header")])
        return (piece for piece in [b"a" * 20000, b"b", b"c" * 20000])
    if path == "/file":
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open("/etc/passwd", "rb"))
    while environ["wsgi.input"].read(65536):
        pass
    if path == "/raise":
        raise ValueError("as asked")
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""

with_threads = pytest.mark.parametrize("threads", [1, 4], ids=["inline", "threads"])


def connect(service: Service) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(service.bind)
    return client


def until_end(client: socket.socket) -> bytes:
    """What still comes; a reset is an end as well."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            data += piece
    return data


def talk(service: Service, *data: bytes) -> bytes:
    with connect(service) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in data:
                client.sendall(piece)
        return until_end(client)


@pytest.fixture
def pressed(service: Service, request: pytest.FixtureRequest) -> Service:
    """One worker, with the threads that the test's parameter says."""
    service.settings |= {"workers": 1}
    callspec = getattr(request.node, "callspec", None)
    if callspec and "threads" in callspec.params:
        service.settings["threads"] = callspec.params["threads"]
    service.write(APP)
    return service


def only_worker(service: Service) -> int:
    (pid,) = service.workers().values()
    return pid


def leave_descriptors(pid: int, count: int) -> int:
    """Let a process open `count` more (RLIMIT_NOFILE bounds the numbers); how many it has then."""
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    free = [number for number in range(2000) if number not in used]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[count], 5000))
    return len(used) + count


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class TestDescriptors:
    def test_the_limit_is_raised_to_the_hard_one(self, pressed: Service) -> None:
        pressed.start(["prlimit", "--nofile=256:5000"]).ready()
        for pid in (pressed.pid, only_worker(pressed)):
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (5000, 5000)

    @with_threads
    def test_without_any_left_it_waits_and_recovers(self, pressed: Service, threads: int) -> None:
        pressed.start().ready()
        pid = only_worker(pressed)
        most = leave_descriptors(pid, 10)
        clients = [connect(pressed) for _ in range(30)]
        for client in clients:
            client.sendall(GET[:-2])
        eventually(lambda: descriptors(pid) == most)
        began, used = time.monotonic(), cpu_seconds(pid)
        time.sleep(2)
        share = (cpu_seconds(pid) - used) / (time.monotonic() - began)
        print(f"{share:.1%} of a core without descriptors")
        assert share < 0.2  # a loop that turns for nothing takes all it can get
        for client in clients:
            with client:
                client.sendall(b"Connection: close\r\n\r\n")
                assert until_end(client).startswith(EXPECTED)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (5000, 5000))
        assert talk(pressed, CLOSING).endswith(b"%d" % pid)

    @with_threads
    def test_idle_connections_are_closed_for_new_ones(
        self, pressed: Service, threads: int
    ) -> None:
        pressed.start().ready()
        pid = only_worker(pressed)
        leave_descriptors(pid, 10)
        clients = []
        for _ in range(50):
            clients.append(connect(pressed))
            clients[-1].sendall(GET)
            assert clients[-1].recv(1000).startswith(EXPECTED)
        assert [client.recv(1) for client in clients[:40]] == [b""] * 40  # the oldest first
        for client in clients[40:]:
            client.sendall(GET)
            assert client.recv(1000).startswith(EXPECTED)
        for client in clients:
            client.close()
        assert only_worker(pressed) == pid

    @pytest.mark.parametrize("streamed", [False, True], ids=["file", "stream"])
    def test_a_body_that_gets_no_descriptor_is_refused(
        self, pressed: Service, streamed: bool
    ) -> None:
        pressed.settings["server.stream_body"] = streamed
        pressed.start().ready()
        pid = only_worker(pressed)
        with connect(pressed) as client:
            eventually(lambda: sum(w["connections"] for w in pressed.status()["workers"]) == 1)
            leave_descriptors(pid, 0)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(POST + b"Content-Length: %d\r\n\r\n" % (2 * MIB))
                client.sendall(b"x" * (2 * MIB))
            assert until_end(client).startswith(b"HTTP/1.1 507 ")
        assert talk(pressed, CLOSING).endswith(b"%d" % pid)


class TestDisk:
    def used(self, service: Service) -> int:
        """Blocks of the worker's /var/tmp."""
        found = os.statvfs(f"/proc/{only_worker(service)}/root/var/tmp")
        return found.f_blocks - found.f_bfree

    @with_threads
    def test_an_upload_that_does_not_fit_is_refused(self, pressed: Service, threads: int) -> None:
        pressed.start(SMALL_DISK).ready()
        pid = only_worker(pressed)
        for size in (5 * MIB, 2 * MIB, 50 * MIB, 2 * MIB):
            fits = size < 3 * MIB
            length = b"Content-Length: %d\r\n\r\n" % size
            chunks = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size
            for framing, end in ((length, b""), (chunks, b"\r\n0\r\n\r\n")):
                answer = talk(pressed, POST + framing, b"x" * size, end)
                if fits:
                    assert answer.endswith(b"%d" % pid)
                else:
                    assert answer.startswith(b"HTTP/1.1 507 ") or not answer
                eventually(lambda: self.used(pressed) == 0)
        assert "refused with 507: no room for the request body" in pressed.log()

    @with_threads
    def test_what_an_application_writes_that_does_not_fit_is_its_failure(
        self, pressed: Service, threads: int
    ) -> None:
        pressed.start(SMALL_DISK).ready()
        pid = only_worker(pressed)
        for size in (1000, 5000, 100_000, MIB) * 2:
            answer = talk(pressed, CLOSING.replace(b" / ", b" /write?%d " % size))
            assert answer.startswith(b"HTTP/1.1 500 ")
            eventually(lambda: self.used(pressed) == 0)
        assert pressed.log().count(": the application failed") == 8
        assert "No space left on device" in pressed.log()
        assert talk(pressed, CLOSING).endswith(b"%d" % pid)


class TestConnections:
    @with_threads
    def test_what_is_too_much_waits(self, pressed: Service, threads: int) -> None:
        pressed.settings["limits.connections"] = 5
        pressed.start().ready()
        busy = [connect(pressed) for _ in range(5)]
        for client in busy:
            client.sendall(GET[:-2])
        waiting = [connect(pressed) for _ in range(20)]
        for client in waiting:
            client.sendall(CLOSING)
        eventually(lambda: pressed.status()["workers"][0]["connections"] == 5)
        for client in busy:
            client.close()
        for client in waiting:
            with client:
                assert until_end(client).startswith(EXPECTED)


class TestMemory:
    REQUESTS = (
        CLOSING,
        GET + CLOSING,
        CLOSING.replace(b" / ", b" /pieces "),
        CLOSING.replace(b" / ", b" /file "),
        CLOSING.replace(b" / ", b" /raise "),
        CLOSING.replace(b"Host: a", b"Host: a\r\nX-Seldom: %d\r\nX-Forwarded-For: 1.2.3.4"),
        POST + b"Content-Length: 5\r\n\r\nhello",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        POST + b"Content-Length: 1100000\r\n\r\n" + b"x" * 1_100_000,
        POST + b"Content-Length: 10\r\n\r\nhello",
        b"BAD\r\n\r\n",
    )

    @pytest.fixture
    def without_memory(self, pressed: Service) -> Service:
        library = pressed.directory / "failing.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "failing.c"], check=True
        )
        pressed.environ |= {
            "LD_PRELOAD": str(library),
            "PYTHONMALLOC": "malloc",
            "PYTHONFAULTHANDLER": "1",
        }
        return pressed.start().ready()

    @with_threads
    @pytest.mark.parametrize("count", [1, 3])
    def test_every_allocation_may_fail(
        self, without_memory: Service, threads: int, count: int
    ) -> None:
        """One after the other, alone and with those behind it; the worker stays the same."""
        service = without_memory
        pid = only_worker(service)
        for data in self.REQUESTS:
            first = 0
            while self.fails(service, first + 1, count, data):
                first += 1
                assert talk(service, CLOSING).endswith(b"%d" % pid), (first, data[:50])
            assert first > 10
        eventually(lambda: service.status()["workers"][0]["connections"] == 0)
        assert "Fatal" not in service.log()

    def fails(self, service: Service, first: int, count: int, data: bytes) -> bool:
        """Whether the request got as far as the first of the allocations that fail."""
        talk(service, CLOSING.replace(b" / ", b" /fail/%d-%d " % (first, count)))
        with connect(service) as client:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            until_end(client)
        answer = b""
        while not answer.startswith(EXPECTED):
            answer = talk(service, CLOSING.replace(b" / ", b" /failed "))
        return not answer.endswith(b"0")
