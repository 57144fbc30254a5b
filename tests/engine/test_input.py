"""wsgi.input: every method of PEP 3333, sized and unsized, wherever the body is."""

from __future__ import annotations

import io
import threading

import pytest
from conftest import read_response
from test_wire import TEXT

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
SMALL = b"one\ntwo\n\nthree, which is long\nno end"
LARGE = SMALL.join([b"%d\n" % n for n in range(40_000)])  # beyond what is kept in memory


def until_end(read):
    return iter(read, b"")


def sized_lines(f):
    while lines := f.readlines(10):
        assert sum(map(len, lines[:-1])) <= 10
        yield from lines


def one_after_another(f):
    yield f.read(3)
    yield f.readline()
    yield f.readline(2)
    yield from f.readlines(1)
    yield from f
    yield from f.readlines()
    yield f.read(1)


# What it reads has to be, piece by piece, what a file of the same bytes gives.
READS = {
    "read(-1)": lambda f: [f.read(-1)],
    "read(0)": lambda f: [f.read(0), f.read(-1), f.read(0)],
    "read(n)": lambda f: until_end(lambda: f.read(7)),
    "read(n) beyond the end": lambda f: [f.read(1 << 24), f.read(1), f.read(-1)],
    "readline()": lambda f: until_end(f.readline),
    "readline(-1)": lambda f: until_end(lambda: f.readline(-1)),
    "readline(n)": lambda f: until_end(lambda: f.readline(5)),
    "readlines()": lambda f: [*f.readlines(), *f.readlines()],
    "readlines(-1)": lambda f: [*f.readlines(-1), *f.readlines(-1)],
    "readlines(n)": sized_lines,
    "iteration": lambda f: f,
    "one after another": one_after_another,
}

# The validator wants a size, and has an iteration of its own.
NAKED = {
    "read()": lambda f: [f.read(), f.read()],
    "read(None)": lambda f: [f.read(None)],
    "iteration": lambda f: [*f, *f],
    "next": lambda f: [next(f, b""), *f],
}

CASES = {name: (read, True) for name, read in READS.items()} | {
    f"{name} without the validator": (read, False) for name, read in NAKED.items()
}


def lengthy(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes) -> bytes:
    pieces = (body[at : at + 4001] for at in range(0, len(body), 4001))
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


@pytest.mark.parametrize("how", CASES)
@pytest.mark.parametrize("coding", [lengthy, chunked])
@pytest.mark.parametrize("body", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_every_read_method(serve, streamed, body, coding, how) -> None:
    read, valid = CASES[how]
    got: list[bytes] = []
    called = threading.Event()

    def app(environ, start_response):
        called.set()
        got.extend(read(environ["wsgi.input"]))
        start_response("200 OK", [TEXT])
        return [b"read"]

    engine = serve(app, valid=valid, server_stream_body=streamed)
    message = coding(body)
    with engine.connect() as client:
        if streamed:  # the rest comes while the application reads
            cut = message.index(b"\r\n\r\n") + 4
            client.sendall(message[:cut])
            assert called.wait(20)
            message = message[cut:]
        if len(message) < 200:
            for at in range(len(message)):
                client.sendall(message[at : at + 1])
        else:
            client.sendall(message)
        assert read_response(client)[2] == b"read"
    assert got == list(read(io.BytesIO(body)))
    assert b"".join(got) == body
