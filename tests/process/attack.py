"""What tests of attacks need: a service on TCP, a healthy client, the workers' memory."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from pathlib import Path

from .conftest import PATIENCE, Service

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PROBE_EVERY = 0.01  # seconds
PROBES = 5  # at least

APP = """
import os, time

BIG = b"x" * (1 << 20)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/big":
        start_response("200 OK", [])
        return (BIG for _ in range(4))
    if path == "/sleep":
        time.sleep(0.02)
    size = 0
    while piece := environ["wsgi.input"].read(65536):
        size += len(piece)
    start_response("200 OK", [])
    return [f"{size} {os.getpid()}".encode()]
"""


def connect(port: int, receive_buffer: int = 0) -> socket.socket:
    client = socket.socket()
    client.settimeout(PATIENCE)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(("127.0.0.1", port))
    return client


def until_end(client: socket.socket) -> bytes:
    """What still comes; a reset is an end as well."""
    data = b""
    try:
        while piece := client.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def send_without_end(client: socket.socket, piece: bytes, most: int) -> bytes:
    """Send until the service has had enough of it; what it answered."""
    sent = 0
    try:
        while sent < most:
            client.sendall(piece)
            sent += len(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert sent < most, f"it takes {sent} bytes and more"
    return until_end(client)


def resident(pid: int) -> int:
    """Bytes of memory that a process has (statm of proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Attacked:
    """A service under attack in a `with`: whatever happens in it, every probe is answered, the
    workers live on, and none grows by `growth` bytes or more at any time."""

    def __init__(self, service: Service, threads: int, growth: int = 16 << 20) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.service = service
        self.growth = growth
        self.most = 0
        self.waits: list[float] = []
        self.failures: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._probe)
        service.settings |= {"bind": [f"127.0.0.1:{self.port}"], "threads": threads}
        service.write(APP)

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        return connect(self.port, receive_buffer)

    def talk(self, data: bytes) -> bytes:
        with self.connect() as client:
            client.sendall(data)
            return until_end(client)

    def __enter__(self) -> Attacked:
        self.service.start().ready()
        self.pids = sorted(self.service.workers().values())
        for _ in range(50):
            assert b" 200 OK\r\n" in self.talk(CLOSING)
        self.before = {pid: resident(pid) for pid in self.pids}
        self._thread.start()
        return self

    def _probe(self) -> None:
        while not self._end.wait(PROBE_EVERY):
            began = time.monotonic()
            try:
                answer = self.talk(CLOSING)
                if b" 200 OK\r\n" not in answer:
                    self.failures.append(repr(answer))
            except OSError as error:
                self.failures.append(repr(error))
            self.waits.append(time.monotonic() - began)
            grown = (resident(pid) - self.before[pid] for pid in self.pids)
            self.most = max(self.most, *grown)

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        until = time.monotonic() + PATIENCE
        while len(self.waits) < PROBES and time.monotonic() < until:
            time.sleep(PROBE_EVERY)
        self._end.set()
        self._thread.join()
        print(
            f"{len(self.waits)} probes: median {statistics.median(self.waits) * 1000:.1f} ms, "
            f"longest {max(self.waits) * 1000:.1f} ms; "
            f"a worker grew by {self.most / 1024:.0f} KiB at most"
        )
        if kind is None:
            assert not self.failures
            assert sorted(self.service.workers().values()) == self.pids
            assert self.most < self.growth
