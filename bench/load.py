"""Load by wrk on its own core."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench import HERE, LOAD_CORE, Failure
from bench.processes import connect

# What a browser sends besides Host.
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "https://shop.example/catalogue?page=2",
    "Cookie": "sessionid=3kq9v0c2m1x8z7w6; csrftoken=Yb2Jc8Zt5Qp1Lw9Xr4Vn7Hs3Kd6Mf0Ga",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
    "Priority": "u=0, i",
}


@dataclass(frozen=True)
class Load:
    """`connections` clients, each asking for / again as soon as it is answered."""

    connections: int = 64
    post: int = 0  # bytes
    headers: dict[str, str] = field(default_factory=dict)
    closing: bool = False  # connection per request: the client asks for it

    def run(self, address: str, seconds: float) -> Outcome:
        headers = {**self.headers, **({"Connection": "close"} if self.closing else {})}
        fields = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
        command = [
            "taskset", "-c", str(LOAD_CORE),
            "wrk", "-t", "1", "-c", str(self.connections), "-d", "1h", "-s", HERE / "load.lua",
            *fields, f"http://{address}/",
        ]  # fmt: skip
        wrk = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "BENCH_POST": str(self.post)},
        )
        try:
            time.sleep(seconds)
            wrk.send_signal(signal.SIGINT)  # its -d takes whole seconds only
            output, _ = wrk.communicate(timeout=30)
        finally:
            wrk.kill()
            wrk.wait()
        found = json.loads(output.strip().splitlines()[-1])
        if any(found["errors"].values()) or not found["requests"]:
            raise Failure(f"the load on {address} went wrong: {found}")
        return Outcome(
            found["requests"], found["usec"] / 1e6, found["p50"] / 1e3, found["p99"] / 1e3
        )


@dataclass(frozen=True)
class Outcome:
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


@contextmanager
def idle_connections(address: str, count: int) -> Iterator[None]:
    """Keep-alive connections that have been answered once and then say nothing."""
    ends: list[socket.socket] = []
    try:
        while len(ends) < count:
            _connect_some(address, min(100, count - len(ends)), ends)
        yield
    finally:
        for end in ends:
            end.close()


def _connect_some(address: str, count: int, ends: list[socket.socket]) -> None:
    try:
        for _ in range(count):
            ends.append(connect(address))
            ends[-1].sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
        answers = [end.recv(4096) for end in ends[-count:]]
    except OSError as why:
        raise Failure(f"of {len(ends)} idle connections: {why}") from why
    if not all(answer.startswith(b"HTTP/1.1 200") for answer in answers):
        raise Failure(f"one of {len(ends)} idle connections was not answered")
