"""WSGI over real sockets: framing, bodies, errors, ends; what PEP 3333 and RFC 9112 ask."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import signal
import socket
import sys
import time
from http.client import HTTPResponse
from pathlib import Path
from wsgiref.validate import validator

import pytest
from conftest import read_all, read_response

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"Connection: close\r\n"
TEXT = ("Content-Type", "text/plain")


def get(path: str = "/", extra: bytes = b"") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n".encode() + extra + b"\r\n"


def post(body: bytes, extra: bytes = b"") -> bytes:
    length = f"Content-Length: {len(body)}\r\n".encode()
    return b"POST / HTTP/1.1\r\nHost: a\r\n" + length + extra + b"\r\n" + body


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def hello(environ, start_response):
    start_response("200 OK", [TEXT])
    return [b"hello"]


def echo(environ, start_response):
    body = environ["wsgi.input"].read(-1)
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


class Tracked:
    """An iterable that counts what is done to it."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = list(pieces)
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self) -> bytes:
        if not self.pieces:
            raise StopIteration
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        self.closed += 1


def streaming(body: Tracked, *headers: tuple[str, str]):
    def app(environ, start_response):
        start_response("200 OK", [TEXT, *headers])
        return body

    return app


def eventually(condition) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.tasks
def test_keep_alive(serve, unix) -> None:
    engine = serve(hello, unix=unix)
    with engine.connect() as client:
        for _ in range(3):
            client.sendall(GET)
            status, headers, body = read_response(client)
            assert (status, body) == (200, b"hello")
            assert headers["content-length"] == "5"
            assert "date" in headers
            assert "server" not in headers
            assert "connection" not in headers
    assert engine.slot["requests"] == 3


@pytest.mark.tasks
def test_connection_close(serve) -> None:
    answer = serve(hello).talk(get(extra=CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close\r\n" in answer


@pytest.mark.tasks
def test_http_1_0(serve) -> None:
    engine = serve(streaming(Tracked(b"a", b"b")))
    answer = engine.talk(b"GET / HTTP/1.0\r\n\r\n")
    assert b"Transfer-Encoding" not in answer
    assert body_of(answer) == b"ab"


@pytest.mark.tasks
def test_http_1_0_keep_alive_ends_with_a_body_without_a_length(serve) -> None:
    engine = serve(streaming(Tracked(b"a", b"b")))
    answer = engine.talk(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"Connection: close\r\n" in answer
    assert body_of(answer) == b"ab"


@pytest.mark.tasks
def test_http_1_0_keep_alive(serve) -> None:
    engine = serve(hello)
    with engine.connect() as client:
        for _ in range(2):
            client.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            status, headers, _ = read_response(client)
            assert (status, headers["connection"]) == (200, "keep-alive")


@pytest.mark.tasks
def test_chunked_response(serve) -> None:
    body = Tracked(b"ab", b"", b"c" * 20000, b"d")
    answer = serve(streaming(body)).talk(get(extra=CLOSE))
    assert b"Transfer-Encoding: chunked\r\n" in answer
    assert body_of(answer) == (b"2\r\nab\r\n4e20\r\n" + b"c" * 20000 + b"\r\n1\r\nd\r\n0\r\n\r\n")
    assert body.closed == 1


@pytest.mark.tasks
def test_each_piece_is_sent_before_the_next_is_asked_for(serve) -> None:
    def pieces():
        for number in range(3):
            yield b"%d" % number
            assert asked.recv(1) == b"n"

    asker, asked = socket.socketpair()
    asked.settimeout(20)
    engine = serve(streaming(pieces()))
    with engine.connect() as client, asker, asked:
        client.sendall(GET)
        data = b""
        for number in range(3):
            while b"1\r\n%d\r\n" % number not in data:
                data += client.recv(1000)
            asker.sendall(b"n")
        while not data.endswith(b"0\r\n\r\n"):
            data += client.recv(1000)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.tasks
def test_statuses_without_a_body(serve, status) -> None:
    def app(environ, start_response):
        start_response(status, [("ETag", '"x"')])
        return [b"ignored"]

    engine = serve(app)
    with engine.connect() as client:
        for _ in range(2):
            client.sendall(GET)
            _, headers, body = read_response(client)
            assert body == b""
            assert "content-length" not in headers
            assert "transfer-encoding" not in headers


@pytest.mark.tasks
def test_a_length_goes_out_with_304_and_never_with_204(serve) -> None:
    def app(environ, start_response):  # RFC 9110 8.6
        start_response(environ["PATH_INFO"][1:] + " X", [("Content-Length", "5")])
        return []

    engine = serve(app)
    assert b"Content-Length" not in engine.talk(get("/204", CLOSE))
    assert b"Content-Length: 5\r\n" in engine.talk(get("/304", CLOSE))
    assert engine.reports == []


@pytest.mark.tasks
def test_date_of_the_application_is_the_only_one(serve) -> None:
    engine = serve(streaming(Tracked(b"x"), ("date", "Thu, 01 Jan 1970 00:00:00 GMT")))
    answer = engine.talk(get(extra=CLOSE))
    assert answer.lower().count(b"\r\ndate: ") == 1
    assert b"1970" in answer


@pytest.mark.tasks
def test_head(serve) -> None:
    engine = serve(hello)
    with engine.connect() as client:
        for _ in range(2):
            client.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")  # and no body behind the one before
            assert b"Content-Length: 5\r\n" in head


@pytest.mark.parametrize("size", [0, 1, 20000, 70000, 3 << 20])
@pytest.mark.tasks
def test_bodies_of_every_size(serve, size) -> None:
    body = os.urandom(size)
    engine = serve(echo)
    with engine.connect() as client:
        for _ in range(2):
            client.sendall(post(body))
            assert read_response(client)[2] == body


def test_large_body_leaves_no_file(serve) -> None:
    body = os.urandom(3 << 20)
    held = []

    def app(environ, start_response):
        target = Path(f"/proc/self/fd/{environ['wsgi.input'].fileno()}").readlink()
        held.append(str(target))
        return echo(environ, start_response)

    assert body_of(serve(app, valid=False).talk(post(body, CLOSE))) == body
    assert held[0].startswith("/var/tmp/")
    assert held[0].endswith("(deleted)")


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"1\r\na\r\n0\r\n\r\n", b"a"),
        (b"a\r\n0123456789\r\n0A\r\n0123456789\r\n000\r\n\r\n", b"0123456789" * 2),
        (b'3;a=b;c="d e"\r\nabc\r\n0;x\r\n\r\n', b"abc"),
        (b"3\r\nabc\r\n0\r\nX-Trailer: a\r\nY: b\r\n\r\n", b"abc"),
        (b"2000\r\n" + b"a" * 0x2000 + b"\r\n0\r\n\r\n", b"a" * 0x2000),
    ],
)
@pytest.mark.tasks
def test_chunked_request(serve, wire, body) -> None:
    engine = serve(echo)
    with engine.connect() as client:
        client.sendall(CHUNKED + wire + GET)
        assert read_response(client)[2] == body
        assert read_response(client)[0] == 200
    last = get(extra=CLOSE)
    whole = CHUNKED + wire + last
    for cut in [*range(len(CHUNKED), min(len(whole), len(CHUNKED) + 60)), len(whole) - len(last)]:
        answer = engine.talk(whole[:cut], whole[cut:])
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert body in answer
    small = whole if len(whole) < 500 else CHUNKED + b"0\r\n\r\n" + last
    assert engine.talk(*(bytes([byte]) for byte in small)).count(b"200 OK") == 2


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"0x1\r\na\r\n",
        b"1 \r\na\r\n",
        b" 1\r\na\r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\na\r0\r\n\r\n",
        b"1;\r\na\r\n",
        b"1; a\r\na\r\n",
        b"1;a\0\r\na\r\n",
        b"1;a\nx\r\na\r\n",
        b"1\r\na\r\n0\r\n X: folded\r\n\r\n",
        b"1\r\na\r\n0\r\nX : a\r\n\r\n",
        b"1\r\na\r\n0\r\n: a\r\n\r\n",
        b"1\r\na\r\n0\r\nX: \0\r\n\r\n",
        b"1\r\na\r\n0\r\nX: a\n\r\n",
        b"1\r\na\r\n0\r\n\n",
        b"1000000000000000\r\n",
        b"0000000000000001\r\na\r\n",
        b"1;" + b"a" * 70000 + b"\r\na\r\n",
    ],
)
@pytest.mark.tasks
def test_bad_chunks_are_refused_in_every_split(serve, wire) -> None:
    called = []

    def app(environ, start_response):
        called.append(environ)
        return hello(environ, start_response)

    engine = serve(app)
    whole = CHUNKED + wire + GET
    answers = {engine.talk(whole).split(b"\r\n")[0]}
    for cut in range(len(CHUNKED), len(CHUNKED) + min(len(wire), 30)):
        answers.add(engine.talk(whole[:cut], whole[cut:]).split(b"\r\n")[0])
    assert answers == {b"HTTP/1.1 400 Bad Request"}
    assert not called
    assert all("refused with 400" in text for text, _ in engine.reports)


@pytest.mark.tasks
def test_framing_out_of_proportion_is_refused_and_a_million_small_chunks_are_not(serve) -> None:
    engine = serve(echo)
    small = b"1\r\na\r\n" * 1_000_000
    assert len(body_of(engine.talk(CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
                                   + small + b"0\r\n\r\n"))) == 1_000_000  # fmt: skip
    drip = b"1;" + b"x" * 200 + b"\r\na\r\n"
    assert b" 400 " in engine.talk(CHUNKED + drip * 1000)
    trailers = b"0\r\n" + b"X: a\r\n" * 101 + b"\r\n"
    assert b" 431 " in engine.talk(CHUNKED + trailers)


@pytest.mark.tasks
def test_pipelined_requests_are_answered_in_order(serve) -> None:
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return [environ["PATH_INFO"].encode()]

    engine = serve(app)
    count = 10_000
    with engine.connect() as client:
        client.setblocking(False)
        pending = b"".join(get(f"/{number}") for number in range(count))
        data = b""
        end = time.monotonic() + 60
        while data.count(b"HTTP/1.1 200") < count and time.monotonic() < end:
            if pending:
                with contextlib.suppress(BlockingIOError):
                    pending = pending[client.send(pending[:8192]) :]
            try:
                data += client.recv(1 << 20)
            except BlockingIOError:
                time.sleep(0.0005)
        answers = [piece.partition(b"\r\n\r\n")[2] for piece in data.split(b"HTTP/1.1 200 OK")[1:]]
    assert answers == [b"/%d" % number for number in range(count)]


def test_little_is_handed_to_the_kernel_of_what_a_client_does_not_read(serve) -> None:
    engine = serve(streaming(iter([b"x" * (8 << 20)])))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(engine.listener.getsockname())
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert eventually(lambda: engine.slot["bytes_out"])
        time.sleep(0.2)
        assert engine.slot["bytes_out"] < 1 << 20
        assert len(body_of(read_all(client))) == 8 << 20


@pytest.mark.tasks
def test_pipelined_behind_a_slow_reader(serve) -> None:
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return (b"x" * 65536 for _ in range(64)) if environ["PATH_INFO"] == "/big" else [b"small"]

    engine = serve(app)
    with engine.connect() as client:
        client.sendall(get("/big") + get("/small") + get("/end", CLOSE))
        time.sleep(0.2)
        answer = read_all(client)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.endswith(b"small")


@pytest.mark.tasks
def test_nothing_is_served_after_an_error(serve) -> None:
    answer = serve(hello).talk(GET + b"BAD\r\n\r\n" + GET)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert answer.count(b"HTTP/1.1 ") == 2
    assert answer.count(b"HTTP/1.1 400 ") == 1
    assert b"Connection: close\r\n" in answer


@pytest.mark.tasks
def test_a_refusal_reaches_a_client_that_is_still_sending(serve) -> None:
    engine = serve(hello, limits_body=100)
    with engine.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
        client.sendall(b"x" * 300_000)
        assert b"HTTP/1.1 413 " in read_all(client)


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/close"),
        get(extra=CLOSE),
        post(b"abc", CLOSE),
        b"GET / HTTP/1.0\r\n\r\n",
        b"BAD\r\n\r\n",
    ],
)
@pytest.mark.tasks
def test_what_comes_behind_the_last_request_does_not_hurt_its_answer(serve, request_bytes) -> None:
    """With close() alone the connection is reset, and of the answer is lost what the client has
    not read (RFC 9112 9.6)."""
    answer = b"x" * 50_000

    def app(environ, start_response):
        closes = environ["PATH_INFO"] == "/close"
        start_response("200 OK", [TEXT, ("Connection", "close")] if closes else [TEXT])
        return [answer]

    engine = serve(app)
    for _ in range(5):
        with engine.connect() as client:
            client.sendall(request_bytes + GET * 3000)
            time.sleep(0.02)
            whole = read_all(client)
            assert whole.count(b"HTTP/1.1 ") == 1
            assert b"Connection: close\r\n" in whole
            assert whole.endswith(answer) or b" 400 " in whole
    assert eventually(lambda: engine.slot["connections"] == 0)


@pytest.mark.tasks
def test_a_request_on_its_way_does_not_hurt_the_last_answer(serve) -> None:
    """The service closes, and the client cannot know yet."""
    engine = serve(streaming([b"x" * 50_000], ("Connection", "close")))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(engine.listener.getsockname())
        client.sendall(GET)
        assert eventually(lambda: engine.slot["bytes_out"] > 50_000 and not engine.slot["active"])
        client.sendall(GET)
        assert len(read_all(client)) > 50_000


@pytest.mark.tasks
def test_expect_continue(serve) -> None:
    engine = serve(echo, limits_body=100)
    with engine.connect() as client:
        client.sendall(post(b"", b"Expect: 100-continue\r\n").replace(b": 0", b": 3"))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert read_response(client)[2] == b"abc"
        client.sendall(post(b"", b"Expect: 100-continue\r\n").replace(b": 0", b": 101"))
        assert read_response(client)[0] == 413


@pytest.mark.tasks
def test_chunked_body_beyond_the_limit(serve) -> None:
    engine = serve(echo, limits_body=10)
    assert b" 413 " in engine.talk(CHUNKED + b"6\r\nabcdef\r\n5\r\nabcde\r\n0\r\n\r\n")
    assert engine.slot["responses_4xx"] == engine.slot["refused"] == 1


@pytest.mark.tasks
def test_cut_upload_never_reaches_the_application(serve) -> None:
    called = []
    engine = serve(lambda environ, start_response: called.append(1), valid=False)
    with engine.connect() as client:
        client.sendall(post(b"0123456789")[:-5])
    assert eventually(lambda: engine.reports)
    assert "cut upload: 5 of 10 bytes" in engine.reports[0][0]
    assert not called


@pytest.mark.tasks
def test_half_closed_client_is_answered(serve) -> None:
    with serve(echo).connect() as client:
        client.sendall(post(b"abc"))
        client.shutdown(socket.SHUT_WR)
        assert body_of(read_all(client)) == b"abc"


@pytest.mark.tasks
def test_exception_is_a_plain_500_and_the_connection_lives(serve) -> None:
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/raise":
            raise KeyError("secret")
        return hello(environ, start_response)

    engine = serve(app)
    with engine.connect() as client:
        client.sendall(get("/raise"))
        status, headers, body = read_response(client)
        assert (status, body) == (500, b"Internal Server Error\n")
        assert "secret" not in str(headers)
        client.sendall(GET)
        assert read_response(client)[0] == 200
    ((text, exc),) = engine.reports
    assert text == "GET /raise: the application failed"
    assert isinstance(exc[1], KeyError)
    assert engine.slot["exceptions"] == 1
    assert engine.slot["responses_5xx"] == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.tasks
def test_no_exception_ends_the_worker(serve, error) -> None:
    def app(environ, start_response):
        raise error

    engine = serve(app)
    assert b" 500 " in engine.talk(get(extra=CLOSE))
    assert b" 500 " in engine.talk(get(extra=CLOSE))


@pytest.mark.tasks
def test_exception_in_the_middle_of_a_body_cuts_it(serve) -> None:
    body = Tracked(b"first", ValueError("x"))
    engine = serve(streaming(body))
    answer = engine.talk(GET)
    assert answer.endswith(b"5\r\nfirst\r\n")  # no last chunk: the client can tell
    assert body.closed == 1
    assert len(engine.reports) == 1


@pytest.mark.tasks
def test_exception_in_a_body_that_ends_with_the_connection_resets_it(serve) -> None:
    engine = serve(streaming(Tracked(b"first", ValueError("x"))))
    with engine.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            read_all(client)


@pytest.mark.tasks
def test_exception_before_the_first_piece_is_a_500(serve) -> None:
    body = Tracked(ValueError("x"))
    assert b" 500 " in serve(streaming(body)).talk(get(extra=CLOSE))
    assert body.closed == 1


def test_exception_in_close_is_reported(serve) -> None:
    class Bad(Tracked):
        def close(self) -> None:
            raise ValueError("close")

    engine = serve(streaming(Bad(b"x")))
    assert body_of(engine.talk(get(extra=CLOSE))) == b"1\r\nx\r\n0\r\n\r\n"
    assert "close() of the response failed" in engine.reports[0][0]


@pytest.mark.tasks
def test_client_that_goes_away_closes_the_iterable_once(serve) -> None:
    body = Tracked(*[b"x" * 65536] * 500)
    engine = serve(streaming(body))
    with engine.connect() as client:
        client.sendall(GET)
        client.recv(1000)
    assert eventually(lambda: body.closed)
    assert eventually(lambda: engine.slot["connections"] == 0)
    assert body.closed == 1
    assert engine.slot["active"] == 0


@pytest.mark.tasks
def test_content_length_is_held_against_the_body(serve) -> None:
    engine = serve(streaming(Tracked(b"abc"), ("Content-Length", "5")))
    assert body_of(engine.talk(GET)) == b"abc"  # and EOF, though nobody asked for it
    assert "sent 3 bytes of its Content-Length 5" in engine.reports[0][0]

    engine = serve(streaming(Tracked(b"abc", b"def"), ("Content-Length", "5")))
    assert body_of(engine.talk(GET)) == b"abcde"
    assert "more than its Content-Length" in engine.reports[0][0]


@pytest.mark.parametrize(
    "headers",
    [
        [("X", "a\r\nInjected: b")],
        [("X", "a\nb")],
        [("X", "a\0b")],
        [("X\r\nY", "a")],
        [("X Y", "a")],
        [("", "a")],
        [("X", "ā")],
        [("X", 1)],
        [("X", b"a")],
        [("Content-Length", "1"), ("Content-Length", "1")],
        [("Content-Length", "-1")],
        [("Content-Length", "1x")],
        ["X: a"],
    ],
)
@pytest.mark.tasks
def test_bad_headers_are_a_500(serve, headers) -> None:
    engine = serve(streaming(Tracked(b"x"), *headers), valid=False)
    answer = engine.talk(get(extra=CLOSE))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Injected" not in answer


@pytest.mark.parametrize("status", ["OK", "20 OK", "200OK", "200 OK\r\nX: y", "100 Continue", ""])
def test_bad_status_is_a_500(serve, status) -> None:
    def app(environ, start_response):
        start_response(status, [TEXT])
        return []

    assert serve(app, valid=False).talk(get(extra=CLOSE)).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("body", [["text"], [bytearray(b"x")], {"text": 1}, [None], 5])
def test_bad_bodies_are_a_500(serve, body) -> None:
    engine = serve(streaming(body), valid=False)
    assert engine.talk(get(extra=CLOSE)).startswith(b"HTTP/1.1 500 ")
    assert isinstance(engine.reports[0][1][1], TypeError)


def test_start_response_not_called(serve) -> None:
    for body in ([b"x"], [], iter([])):
        engine = serve(lambda environ, start_response, body=body: body, valid=False)
        assert engine.talk(get(extra=CLOSE)).startswith(b"HTTP/1.1 500 ")
        assert "start_response was not called" in str(engine.reports[0][1][1])


def test_start_response_twice(serve) -> None:
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        start_response("201 Created", [TEXT])
        return []

    assert serve(app, valid=False).talk(get(extra=CLOSE)).startswith(b"HTTP/1.1 500 ")


def test_start_response_again_with_exc_info(serve) -> None:
    def app(environ, start_response):
        import sys

        start_response("200 OK", [TEXT, ("X", "a")])
        try:
            raise ValueError
        except ValueError:
            start_response("503 Service Unavailable", [TEXT, ("Y", "b")], sys.exc_info())
        return [b"sorry"]

    answer = serve(app).talk(get(extra=CLOSE))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"X: a" not in answer


def test_start_response_with_exc_info_after_the_head_raises(serve) -> None:
    import sys

    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        yield b"x" * 20000
        try:
            raise ValueError("late")
        except ValueError:
            start_response("500 X", [TEXT], sys.exc_info())

    engine = serve(app)
    assert engine.talk(GET).startswith(b"HTTP/1.1 200 ")
    assert isinstance(engine.reports[0][1][1], ValueError)


def test_write(serve) -> None:
    def app(environ, start_response):
        write = start_response("200 OK", [TEXT])
        write(b"a")
        write(b"b" * 20000)
        return [b"c"]

    answer = serve(app).talk(b"GET / HTTP/1.0\r\n\r\n")
    assert body_of(answer) == b"a" + b"b" * 20000 + b"c"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_write_of_much_goes_to_a_file(serve, version) -> None:
    piece = os.urandom(100_000)
    files = []

    def app(environ, start_response):
        write = start_response("200 OK", [TEXT])
        for _ in range(35):
            write(piece)
        for fd in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the one that listed them
                files.append(str(fd.readlink()))
        return [b"end"]

    with serve(app).connect() as client:
        client.sendall(b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + CLOSE + b"\r\n")
        answer = HTTPResponse(client)
        answer.begin()
        assert answer.read() == piece * 35 + b"end"
    assert any(name.startswith("/var/tmp/") for name in files)


@pytest.mark.tasks
def test_hop_by_hop_headers_of_the_application_are_dropped(serve) -> None:
    engine = serve(streaming(Tracked(b"x"), ("Transfer-Encoding", "gzip"), ("Keep-Alive", "5")))
    answer = engine.talk(get(extra=CLOSE))
    assert b"gzip" not in answer
    assert b"Keep-Alive" not in answer
    assert "dropped the hop-by-hop header" in engine.reports[0][0]


@pytest.mark.tasks
def test_connection_close_of_the_application_is_honoured(serve) -> None:
    assert b"Connection: close\r\n" in serve(streaming([b"x"], ("Connection", "close"))).talk(GET)


def test_file_wrapper_sends_files(serve, tmp_path) -> None:
    content = os.urandom(3 << 20)
    path = tmp_path / "file"
    path.write_bytes(content)
    opened = []

    def app(environ, start_response):
        file = path.open("rb")
        opened.append(file)
        file.seek(10)
        start_response("200 OK", [TEXT])
        return environ["wsgi.file_wrapper"](file)

    engine = serve(app, valid=False)
    with engine.connect() as client:
        for _ in range(2):
            client.sendall(GET)
            assert read_response(client)[2] == content[10:]
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + get(extra=CLOSE))
        assert body_of(body_of(read_all(client))) == content[10:]
    assert eventually(lambda: all(file.closed for file in opened))


@pytest.mark.parametrize("valid", [True, False])
def test_file_wrapper_of_other_things(serve, valid) -> None:
    def app(environ, start_response):
        start_response("200 OK", [TEXT, ("Content-Length", "6")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"abcdef"), 4)

    assert body_of(serve(app, valid=valid).talk(get(extra=CLOSE))) == b"abcdef"


def test_file_wrapper_of_a_file_that_is_not_what_it_reads(serve, tmp_path) -> None:
    path = tmp_path / "file.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"plain" * 1000)

    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        file = gzip.GzipFile(path)
        return environ["wsgi.file_wrapper"](
            io.BufferedReader(file) if environ["PATH_INFO"] == "/buffered" else file
        )

    engine = serve(app, valid=False)
    for url in ("/", "/buffered"):
        answer = engine.talk(b"GET " + url.encode() + b" HTTP/1.0\r\n\r\n")
        assert body_of(answer) == b"plain" * 1000


class Text(str):
    """What frameworks derive from str: it may even say something else of itself."""

    def __str__(self) -> str:
        return "other"


class Bytes(bytes):
    pass


@pytest.mark.parametrize("body", [[Bytes(b"abc")], [Bytes(b"a"), Bytes(b"bc")], "iterator"])
def test_subclasses_of_strings_and_bytes(serve, body) -> None:
    def app(environ, start_response):
        start_response(Text("200 OK"), [TEXT, (Text("X-A"), Text("b"))])
        return iter([Bytes(b"abc")]) if body == "iterator" else body

    answer = serve(app, valid=False).talk(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"X-A: b\r\n" in answer
    assert body_of(answer) == b"abc"


def test_a_chunked_request_has_a_length_for_the_application(serve) -> None:
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        return echo(environ, start_response)

    with serve(app).connect() as client:
        client.sendall(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert read_response(client)[2] == b"abcde"
    assert seen["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in seen


# The tests' process has threads, unlike a worker with one; Python 3.12 warns of that.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@forks
@pytest.mark.parametrize("how", ["return", "raise", "exit", "exit 3"])
@pytest.mark.tasks
def test_a_fork_that_comes_back_ends(serve, how) -> None:
    children = []

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        child = os.fork()
        if child:
            children.append(child)
        elif how == "raise":
            os.close(2)
            raise ValueError("in the child")
        elif how.startswith("exit"):
            sys.exit(3 if "3" in how else None)
        return hello(environ, start_response)

    engine = serve(app)
    with engine.connect() as client:
        client.sendall(get("/fork"))
        assert read_response(client)[0] == 200
        _, status = os.waitpid(children[0], 0)
        assert os.waitstatus_to_exitcode(status) == {"raise": 1, "exit 3": 3}.get(how, 0)
        client.sendall(GET)
        assert read_response(client)[0] == 200
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
    assert eventually(lambda: engine.slot["connections"] == 0)


@forks
@pytest.mark.tasks
def test_a_child_that_lives_on_does_not_keep_the_connection_open(serve) -> None:
    children = []

    def app(environ, start_response):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
        return hello(environ, start_response)

    try:
        assert b"200 OK" in serve(app).talk(get(extra=CLOSE))
        assert os.waitpid(children[0], os.WNOHANG) == (0, 0)
    finally:
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)


def test_environ(serve) -> None:
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        return hello(environ, start_response)

    engine = serve(app)
    engine.talk(
        b"GET http://shop.example:81/a%C3%A9%2F?q=%20 HTTP/1.1\r\nHost: other\r\nCookie: a=b\r\n"
        b"Content-Type: text/x\r\nX-Two: 1\r\nx-two: 2\r\ncookie: c=d\r\nConnection: close\r\n\r\n"
    )
    assert seen["PATH_INFO"] == "/aé/".encode().decode("latin-1")
    assert seen["QUERY_STRING"] == "q=%20"
    assert seen["RAW_URI"] == "http://shop.example:81/a%C3%A9%2F?q=%20"
    assert seen["SCRIPT_NAME"] == ""
    assert seen["HTTP_HOST"] == "shop.example:81"
    assert seen["HTTP_X_TWO"] == "1,2"
    assert seen["HTTP_COOKIE"] == "a=b; c=d"
    assert seen["CONTENT_TYPE"] == "text/x"
    assert "CONTENT_LENGTH" not in seen
    assert "HTTP_CONTENT_TYPE" not in seen
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert (seen["REMOTE_ADDR"], seen["SERVER_NAME"]) == ("127.0.0.1", "127.0.0.1")
    assert seen["SERVER_PORT"] == str(engine.listener.getsockname()[1])
    assert seen["REMOTE_PORT"].isdigit()


@pytest.mark.parametrize("options", [{}, {"app_root_path": "/shop"}])
def test_environ_of_a_request_that_has_no_path(serve, options) -> None:
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        return hello(environ, start_response)

    engine = serve(app, **options)
    answer = engine.talk(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n" + CLOSE + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert seen["SCRIPT_NAME"] == options.get("app_root_path", "")
    assert (seen["PATH_INFO"], seen["RAW_URI"]) == ("", "*")


@pytest.mark.parametrize("value", ["", "1", "\xe9", "long enough"])
@pytest.mark.tasks
def test_equal_values_of_one_name_are_all_told(serve, value) -> None:
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return [environ["HTTP_X"].encode("latin-1")]

    line = f"X: {value}\r\n".encode("latin-1")
    answer = serve(app).talk(get(extra=CLOSE + line * 3))
    assert body_of(answer).decode("latin-1") == ",".join([value] * 3)


@pytest.mark.tasks
def test_a_thousand_field_names_do_not_confuse_each_other(serve) -> None:
    def app(environ, start_response):
        names = [f"{k}={v}" for k, v in environ.items() if k.startswith("HTTP_N")]
        start_response("200 OK", [TEXT])
        return [",".join(sorted(names)).encode()]

    engine = serve(app)
    with engine.connect() as client:
        for base in range(0, 1200, 40):
            fields = b"".join(b"N%d: %d\r\n" % (n, n) for n in range(base, base + 40))
            client.sendall(get(extra=fields))
            expected = sorted(f"HTTP_N{n}={n}" for n in range(base, base + 40))
            assert read_response(client)[2].decode().split(",") == expected


@pytest.mark.parametrize(
    "request_bytes",
    [
        get(extra=CLOSE),
        get("/a?b=c", CLOSE),
        post(b"abc", CLOSE + b"Content-Type: text/plain\r\n"),
        b"HEAD / HTTP/1.0\r\n\r\n",
        CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"1\r\na\r\n0\r\n\r\n",
    ],
)
def test_wsgiref_validator_has_nothing_to_say(serve, request_bytes) -> None:
    def app(environ, start_response):
        data = environ["wsgi.input"].read(10)
        start_response("200 OK", [TEXT])
        return [data] if data else [b"x", b"y"]

    engine = serve(validator(app), valid=False)  # lists have to be iterated over, too
    assert engine.talk(request_bytes).startswith(b"HTTP/1.1 200 ")
    assert engine.reports == []


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.tasks
def test_many_clients_at_once(serve, unix) -> None:
    engine = serve(echo, unix=unix)
    clients = [engine.connect() for _ in range(100)]
    for number, client in enumerate(clients):
        client.sendall(post(b"%d" % number))
    assert [read_response(client)[2] for client in clients] == [b"%d" % n for n in range(100)]
    assert engine.slot["connections"] == 100
    for client in clients:
        client.close()
    assert eventually(lambda: engine.slot["connections"] == 0)
