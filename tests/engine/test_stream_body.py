"""server.stream_body: the application is called before the body is there, and reads it."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import threading
import time
from pathlib import Path

import pytest
from conftest import read_all, read_response
from test_wire import TEXT, body_of, echo, get, hello, post

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = bytes(range(256)) * 1200  # more than a piece of the stream


def chunks(body: bytes, size: int = 1000) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.fixture
def stream(serve):
    return lambda app, **options: serve(app, server_stream_body=True, **options)


def test_the_application_runs_before_the_body_is_there(stream) -> None:
    called = threading.Event()

    def app(environ, start_response):
        called.set()
        return echo(environ, start_response)

    engine = stream(app)
    with engine.connect() as client:
        client.sendall(HEAD + b"Content-Length: 10\r\n\r\n12345")
        assert called.wait(20)
        client.sendall(b"67890")
        assert read_response(client)[2] == b"1234567890"
        # The connection goes on.
        client.sendall(HEAD + b"Content-Length: 2\r\n\r\nab")
        assert read_response(client)[2] == b"ab"


@pytest.mark.parametrize("coding", ["length", "chunked"])
@pytest.mark.parametrize("pieces", [1, 7, 5000])
def test_bodies_come_whole_and_what_follows_is_served(stream, coding, pieces) -> None:
    if coding == "length":
        message = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    else:
        message = CHUNKED + chunks(BODY)
    message += HEAD + b"Content-Length: 4\r\n\r\nnext" + get("/", b"Connection: close\r\n")
    size = len(message) // pieces + 1
    engine = stream(echo)
    answer = b""
    with engine.connect() as client:
        reader = threading.Thread(target=lambda: engine_reads(client, answers))
        answers: list[bytes] = []
        reader.start()
        for at in range(0, len(message), size):
            client.sendall(message[at : at + size])
        reader.join(20)
    (answer,) = answers
    first, second = answer.partition(BODY)[::2]
    assert first.startswith(b"HTTP/1.1 200 OK")
    assert second.count(b"HTTP/1.1 200 OK") == 2
    assert b"\r\n\r\nnextHTTP/1.1" in second


def engine_reads(client, answers: list[bytes]) -> None:
    answers.append(read_all(client))


def test_100_continue_comes_when_the_application_reads(stream) -> None:
    go = threading.Event()

    def app(environ, start_response):
        go.wait(20)
        return echo(environ, start_response)

    engine = stream(app)
    with engine.connect() as client:
        client.sendall(HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        go.set()
        assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert read_response(client)[2] == b"abc"


def raised(seen: list[BaseException]):
    def app(environ, start_response):
        try:
            environ["wsgi.input"].read(-1)
        except OSError as error:
            seen.append(error)
            raise
        return hello(environ, start_response)

    return app


def test_a_cut_body_raises(stream) -> None:
    seen: list[BaseException] = []
    engine = stream(raised(seen))
    with engine.connect() as client:
        client.sendall(HEAD + b"Content-Length: 10\r\n\r\n12345")
        client.shutdown(1)
        assert read_all(client).startswith(b"HTTP/1.1 400 ")
    assert isinstance(seen[0], ConnectionResetError)
    assert "5 of 10 bytes" in str(seen[0])
    assert ("POST /: " + str(seen[0]), None) in engine.reports
    assert engine.slot["exceptions"] == 0


@pytest.mark.parametrize(
    ("body", "status", "options"),
    [
        (b"zz\r\n", 400, {}),
        (b"5\r\nhello!\r\n", 400, {}),
        (b"7fffffff\r\n", 413, {"limits_body": 1000}),
        (b"5\r\nhel", 408, {"timeouts_body": 0.3}),
    ],
)
def test_a_refused_body_raises(stream, body, status, options) -> None:
    seen: list[BaseException] = []
    engine = stream(raised(seen), **options)
    with engine.connect() as client:
        client.sendall(CHUNKED)
        client.sendall(body)
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close\r\n" in answer
    assert len(engine.reports) == 1
    assert len(seen) <= 1  # none, where the refused part came with the head


def test_what_is_not_read_closes_the_connection(stream) -> None:
    engine = stream(hello)
    answer = engine.talk(HEAD + b"Content-Length: 1000000\r\n\r\n", b"x" * 100000, get("/"))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close\r\n" in answer
    assert body_of(answer) == b"5\r\nhello\r\n0\r\n\r\n" or body_of(answer) == b"hello"


def test_a_body_that_is_there_is_read_as_ever(stream) -> None:
    kinds = []

    def app(environ, start_response):
        kinds.append(type(environ["wsgi.input"]))
        return echo(environ, start_response)

    engine = stream(app, valid=False)
    with engine.connect() as client:
        client.sendall(post(b"whole"))
        assert read_response(client)[2] == b"whole"
    assert kinds == [io.BytesIO]


def test_a_large_upload_stays_out_of_memory_and_files(stream) -> None:
    size = 64 << 20
    opened = []

    def app(environ, start_response):
        total = 0
        while piece := environ["wsgi.input"].read(1 << 20):
            total += len(piece)
        opened.extend(path for path in open_files() if "/var/tmp" in path)
        start_response("200 OK", [TEXT])
        return [str(total).encode()]

    engine = stream(app)
    with engine.connect() as client:
        client.sendall(HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % size)
        for _ in range(size >> 20):
            client.sendall(bytes(1 << 20))
        assert str(size).encode() in read_all(client)
    assert opened == []


def open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return found


def test_a_client_that_is_cut_at_the_drain_deadline(stream) -> None:
    """The thread reads from a descriptor that nobody else can get meanwhile."""
    seen: list[BaseException] = []
    engine = stream(raised(seen), threads=4)
    with engine.connect() as client:
        client.sendall(HEAD + b"Content-Length: 10\r\n\r\n12345")
        while not engine.slot["active"]:
            pass
        engine.drain(0.2)
        assert client.recv(1000) == b""
    assert engine.ended()
    while not seen:
        pass
    assert isinstance(seen[0], OSError)


def test_100_continue_never_comes_in_the_middle_of_a_response(stream) -> None:
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first"
        yield environ["wsgi.input"].read(-1)

    engine = stream(app)
    with engine.connect() as client:
        client.sendall(HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        answer = b""
        while b"first\r\n" not in answer:
            answer += client.recv(65536)
        client.sendall(b"abc")
        answer += read_all(client)
    assert answer.partition(b"\r\n\r\n")[2] == b"5\r\nfirst\r\n3\r\nabc\r\n0\r\n\r\n"


def test_a_request_that_is_turned_away_with_its_body_unread_says_close(stream) -> None:
    engine = stream(hello, limits_queue_time=1.0, server_trusted=("127.0.0.1",))
    start = f"X-Request-Start: t={time.time() - 10:.3f}\r\n".encode()
    answer = engine.talk(HEAD + start + b"Content-Length: 9\r\n\r\n", b"1")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Connection: close\r\n" in answer


def test_a_trickle_is_held_to_the_time_of_a_body(stream) -> None:
    """timeouts.body is for each 64 KiB, however they come."""
    seen: list[BaseException] = []
    engine = stream(raised(seen), timeouts_body=0.5)
    with engine.connect() as client:
        client.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        client.settimeout(0.05)
        answer = b""
        for _ in range(200):
            try:
                client.sendall(b"x")
                answer = client.recv(1000)
                break
            except TimeoutError:
                pass
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert isinstance(seen[0], TimeoutError)


def test_no_descriptor_for_a_stream(stream) -> None:
    engine = stream(echo)
    with engine.connect() as client:
        client.sendall(HEAD + b"Content-Length: 1\r\n\r\n1")
        assert read_response(client)[2] == b"1"
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            client.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 50000)
            with contextlib.suppress(ConnectionResetError):
                read_all(client)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for _ in range(50):
        body = b"y" * 5000
        assert engine.talk(post(body, b"Connection: close\r\n")).endswith(body)


def test_an_environ_that_is_kept_keeps_no_descriptor(stream) -> None:
    kept = []

    def app(environ, start_response):
        kept.append(environ)
        return hello(environ, start_response)

    engine = stream(app)
    before = len(open_files())
    for _ in range(20):
        engine.talk(HEAD + b"Content-Length: 100000\r\nConnection: close\r\n\r\n", b"x")
    assert len(open_files()) <= before + 2
    with pytest.raises((OSError, ValueError)):
        kept[0]["wsgi.input"].read(-1)
