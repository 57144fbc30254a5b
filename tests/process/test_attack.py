"""Clients that mean harm, against real workers: each is bounded, others are served meanwhile."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import subprocess
import time

import pytest

from .attack import CHUNKED, CLOSING, GET, POST, Attacked, send_without_end, until_end
from .conftest import PATIENCE, Service, eventually

ENOUGH = 64 << 20  # bytes that nobody may send in vain
MILLION = 1_000_000

pytestmark = pytest.mark.parametrize("threads", [1, 4], ids=["inline", "threads"])


@pytest.mark.parametrize("attack", ["-H", "-B", "-X"])
def test_slowhttptest(service: Service, threads: int, attack: str) -> None:
    """Slowloris, slow bodies, slow reading; `-l` is how many seconds it goes on."""
    with Attacked(service, threads) as attacked:
        page = "big" if attack == "-X" else ""
        url = f"http://127.0.0.1:{attacked.port}/{page}"
        report = subprocess.run(
            ["slowhttptest", attack, "-c500", "-r500", "-i1", "-l3", "-u", url],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE * 4,
        )
        assert "service available" in report.stdout, report
        assert "NO" not in report.stdout.rpartition("service available")[2].split("\n")[0]


def test_heads_that_never_end(service: Service, threads: int) -> None:
    service.settings["timeouts.header"] = "1s"
    with Attacked(service, threads) as attacked:
        clients = [attacked.connect() for _ in range(100)]
        for client in clients:
            client.sendall(GET[:-2])
        until = time.monotonic() + PATIENCE
        while clients:
            assert time.monotonic() < until, f"{len(clients)} of them are open still"
            time.sleep(0.1)
            for client in clients[:]:
                try:
                    client.sendall(b"X-Drip: x\r\n")
                except (BrokenPipeError, ConnectionResetError):
                    clients.remove(client)
                    client.close()
    assert "refused with 408" in service.log()


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        (b"", b"A" * 8192, b"414"),
        (b"GET /", b"a" * 8192, b"414"),
        (GET[:-2], b"X-More: a\r\n" * 1000, b"431"),
        (GET[:-2], b"x" * 8192, b"431"),
        (CHUNKED, b"0" * 8192, b"400"),
        (CHUNKED + b"1;", b"x" * 8192, b"400"),
        (CHUNKED + b"1", b';a="' + b"x" * 8192 + b'"', b"400"),
        (CHUNKED + b"0\r\n", b"X-More: a\r\n" * 1000, b"431"),
        (CHUNKED + b"0\r\nX: ", b"x" * 8192, b"431"),
        (b"", b"\r\n" * 4096, b"400"),
    ],
    ids=[
        "method", "target", "fields", "field", "chunk size", "extension", "extensions",
        "trailers", "trailer", "empty lines",
    ],
)  # fmt: skip
def test_what_has_no_end_is_refused(
    service: Service, threads: int, start: bytes, piece: bytes, status: bytes
) -> None:
    with Attacked(service, threads) as attacked:
        for _ in range(5):
            with attacked.connect() as client:
                client.sendall(start)
                answer = send_without_end(client, piece, ENOUGH)
            assert answer.startswith(b"HTTP/1.1 " + status) or not answer
        # One that stops in time gets the answer for certain.
        with attacked.connect() as client:
            client.sendall(start + piece * 8)
            assert until_end(client).startswith(b"HTTP/1.1 " + status)


def test_ten_thousand_fields(service: Service, threads: int) -> None:
    with Attacked(service, threads) as attacked:
        head = GET[:-2] + b"".join(b"X-%d: a\r\n" % n for n in range(10_000)) + b"\r\n"
        assert attacked.talk(head).startswith(b"HTTP/1.1 431 ")


def test_bodies_of_a_million_chunks(service: Service, threads: int) -> None:
    """In memory, and beyond: the file is not written byte by byte either."""
    with Attacked(service, threads) as attacked, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(attacked.connect()) for _ in range(4)]
        for client in clients:
            client.sendall(CHUNKED)
        for _ in range(20):
            for client in clients:
                client.sendall(b"1\r\na\r\n" * (MILLION // 10))
        for client in clients:
            client.sendall(b"0\r\n\r\n" + CLOSING)
            assert b"\r\n\r\n%d " % (2 * MILLION) in until_end(client)


def test_bodies_that_are_hoarded(service: Service, threads: int) -> None:
    service.settings["timeouts.body"] = "2s"
    with Attacked(service, threads, growth=100 << 20) as attacked, contextlib.ExitStack() as stack:
        for _ in range(400):
            client = stack.enter_context(attacked.connect())
            client.sendall(POST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 999_999)
        eventually(lambda: service.log().count("refused with 408") == 400)


def test_requests_without_end_whose_answers_nobody_reads(service: Service, threads: int) -> None:
    service.settings["timeouts.write"] = "1s"
    with Attacked(service, threads) as attacked:
        for path in (b"/", b"/big"):
            with attacked.connect(receive_buffer=4096) as client:
                client.sendall(b"")
                request = b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n"
                send_without_end(client, request * 10_000, 64 * ENOUGH)
    assert "the client took too long to read the response" in service.log()


def test_clients_that_never_close(service: Service, threads: int) -> None:
    with Attacked(service, threads) as attacked, contextlib.ExitStack() as stack:
        for data in (CLOSING, GET + b"BAD\r\n\r\n", CLOSING + GET * 1000):
            clients = [stack.enter_context(attacked.connect()) for _ in range(40)]
            for client in clients:
                client.sendall(data)
            for client in clients:
                answer = until_end(client)
                assert answer.count(b" 200 OK\r\n") == 1
                assert b"Connection: close\r\n" in answer
        # Probes come and go, so what is looked for is a moment without any of ours.
        eventually(lambda: sum(w["connections"] for w in service.status()["workers"]) <= 1)


def test_silent_connections_make_room(service: Service, threads: int) -> None:
    service.settings["limits.connections"] = 50
    with Attacked(service, threads) as attacked, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(attacked.connect())
        had = len(attacked.waits)
        eventually(lambda: len(attacked.waits) > had + 20)


def test_resets(service: Service, threads: int) -> None:
    reset = struct.pack("ii", 1, 0)
    starts = [b"", GET[:10], GET, POST + b"Content-Length: 5\r\n\r\nab", CHUNKED + b"1\r\na"]
    starts += [GET.replace(b" / ", b" /big "), GET.replace(b" / ", b" /sleep ")]
    with Attacked(service, threads) as attacked:
        for number in range(700):
            with attacked.connect() as client:
                client.sendall(starts[number % len(starts)])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)


def test_busy_connections_do_not_suspend_the_deadlines_of_others(
    service: Service, threads: int
) -> None:
    """More of them than one look at epoll shows, all with input at any time."""
    service.settings |= {"timeouts.header": "1s", "workers": 1}
    flood = b"1\r\na\r\n" * 20_000
    with (
        Attacked(service, threads, growth=100 << 20) as attacked,
        contextlib.ExitStack() as stack,
        selectors.EpollSelector() as selector,
    ):
        victim = stack.enter_context(attacked.connect())
        victim.sendall(GET[:-2])
        victim.setblocking(False)
        for _ in range(600):
            client = stack.enter_context(attacked.connect())
            client.sendall(CHUNKED)
            client.setblocking(False)
            selector.register(client, selectors.EVENT_WRITE, [0])
        until = time.monotonic() + PATIENCE
        answer = b""
        while not answer:
            assert time.monotonic() < until, "its deadline is forgotten"
            for key, _ in selector.select(1):
                with contextlib.suppress(BlockingIOError):
                    key.data[0] += key.fileobj.send(flood[key.data[0] % 6 :])
            with contextlib.suppress(BlockingIOError):
                answer = victim.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408 ")
