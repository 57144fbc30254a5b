"""Clients that keep their connections, count every answer, and never retry; and an application
that notes every request that it runs.

    python3 keepalive.py ADDRESS [EACH] [WAITING]

talks to HOST:PORT or /path.sock until its standard input ends, and prints one JSON object: `count`
of requests, `failures`, `longest` seconds that anybody waited, `seed`.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

PATIENCE = 60.0  # seconds; longer than any wait that a test allows

NOTES = """
import os, time

VERSION = "1"
NOTES = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

def app(environ, start_response):
    _, name, wait = environ["PATH_INFO"].split("/")
    body = environ["wsgi.input"].read()
    os.write(NOTES, name.encode() + b"\\n")
    while wait == "gate" and not os.path.exists({path!r} + ".gate"):
        time.sleep(0.01)
    answer = name.encode() + b" " + VERSION.encode() + b" " + body
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""

numbers = itertools.count(1)


class Conversation:
    """One connection. A close that nobody asked for is an error, as is an answer to another
    request."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if port.isdigit():
            self.socket = socket.create_connection((host, int(port)))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address)
        self.socket.settimeout(PATIENCE)
        self.stream = self.socket.makefile("rb")
        self.asked: list[tuple[str, bytes]] = []

    def request(self, wait: str = "", body: bytes = b"") -> bytes:
        """One that is not answered before the gate is opened, if `wait` is "gate"."""
        name = f"r{next(numbers)}"
        self.asked.append((name, body))
        method = "POST" if body else "GET"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} /{name}/{wait} HTTP/1.1\r\nHost: a\r\n{length}\r\n"
        return head.encode() + body

    def ask(self, body: bytes = b"") -> str:
        """The version of the code that answers."""
        self.socket.sendall(self.request(body=body))
        return self.answer()

    def answer(self) -> str:
        """To the request that was made first of those without one."""
        name, body = self.asked.pop(0)
        line = self.stream.readline()
        assert line == b"HTTP/1.1 200 OK\r\n", f"{line!r} instead of an answer to {name}"
        length = 0
        while (line := self.stream.readline()) != b"\r\n":
            assert line, f"closed in the head of an answer to {name}"
            field, _, value = line.decode().partition(":")
            assert field.lower() != "connection", f"{line!r} for {name}"
            if field.lower() == "content-length":
                length = int(value)
        got = self.stream.read(length)
        found, version, echoed = got.split(b" ", 2)
        assert found.decode() == name, f"{got!r} as an answer to {name}"
        assert echoed == body, f"{name} came back with another body"
        return version.decode()

    def is_open(self) -> bool:
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


def one_after_the_other(talk: Conversation, chance: random.Random) -> int:
    talk.ask(body=b"b" * chance.choice((0, 0, 1, 1000, 100_000)))
    return 1


def in_one_go(talk: Conversation, chance: random.Random) -> int:
    count = chance.randint(2, 6)
    talk.socket.sendall(b"".join(talk.request(body=b"p" * (n % 2)) for n in range(count)))
    for _ in range(count):
        talk.answer()
    return count


def byte_by_byte(talk: Conversation, chance: random.Random) -> int:
    for byte in talk.request():
        talk.socket.sendall(bytes([byte]))
    talk.answer()
    return 1


KINDS = (one_after_the_other, in_one_go, byte_by_byte)


class Talks:
    """Connections that are in use, several of each kind, and some that only wait."""

    def __init__(self, address: str, each: int = 3, waiting: int = 10, seed: int = 1) -> None:
        self.count = 0
        self.longest = 0.0
        self.failures: list[str] = []
        self.seed = seed
        self.waiting = [Conversation(address) for _ in range(waiting)]
        for talk in self.waiting:
            talk.ask()
        self.count = waiting
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(Conversation(address), kind, seed + n))
            for n, kind in enumerate(KINDS * each)
        ]

    def _run(
        self, talk: Conversation, kind: Callable[[Conversation, random.Random], int], seed: int
    ) -> None:
        chance = random.Random(seed)
        count = 0
        longest = 0.0
        try:
            while not self._end.is_set():
                began = time.monotonic()
                count += kind(talk, chance)
                longest = max(longest, time.monotonic() - began)
        except (AssertionError, OSError, ValueError) as error:
            self.failures.append(f"{kind.__name__}, after {count}: {error!r}")
        finally:
            with self._lock:
                self.count += count
                self.longest = max(self.longest, longest)
            talk.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        for talk in self.waiting:
            try:
                talk.ask()
                self.count += 1
            except (AssertionError, OSError, ValueError) as error:
                self.failures.append(f"waiting: {error!r}")
            talk.close()

    def assert_each_ran_once(self, notes: Path) -> None:
        assert not self.failures, f"seed {self.seed}: {self.failures}"
        assert_once(notes.read_text(), self.count)


def assert_once(notes: str, count: int) -> None:
    """The application has run so many requests, and none of them twice."""
    runs = Counter(notes.split())
    assert set(runs.values()) == {1}, {name for name, times in runs.items() if times > 1}
    assert len(runs) == count


def main() -> None:
    address, *numbers = sys.argv[1:]
    seed = random.randrange(1 << 30)
    with Talks(address, *map(int, numbers), seed=seed) as talks:
        print("talking", flush=True)
        sys.stdin.read()
    report = {
        "count": talks.count,
        "failures": talks.failures,
        "longest": round(talks.longest, 3),
        "seed": seed,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
