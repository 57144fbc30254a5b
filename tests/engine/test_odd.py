"""Applications that do odd things, most of them legal, and moments that seldom come together."""

from __future__ import annotations

import io
import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import read_all, read_response
from test_wire import CLOSE, body_of, get, hello

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture
def serve(serve):
    """What is tried here is what the validator would not let pass, or hide."""
    return partial(serve, valid=False)


def answers(engine, request: bytes) -> bytes:
    return body_of(engine.talk(request))


@pytest.mark.tasks
def test_requests_stay_with_their_connection_at_the_limit(serve) -> None:
    """The one that makes it full has more to ask, and an idle one asks in the same moment."""

    def app(environ, start_response):
        start_response("200 OK", [])
        return [environ["RAW_URI"].encode()]

    engine = serve(app, threads=4, limits_connections=2)
    held = threading.Event()
    go = threading.Event()
    with engine.connect() as idle:
        idle.sendall(get("/idle"))
        assert read_response(idle)[2] == b"/idle"
        engine.order(lambda: (held.set(), go.wait(20)))
        assert held.wait(20)
        with engine.connect() as second:
            second.sendall(get("/1") + get("/2") + get("/3", CLOSE))
            time.sleep(0.05)  # for the order of the two events
            idle.sendall(get("/secret" + "x" * 500, CLOSE) + b"y")
            go.set()
            answer = read_all(second)
        assert b"secret" not in answer
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.endswith(b"/3")
        assert read_all(idle).endswith(b"/secret" + b"x" * 500)


def test_a_late_write_reaches_nobody_else(serve) -> None:
    kept = []

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/keep":
            kept.append(start_response("200 OK", []))
            return [b"kept"]
        start_response("200 OK", [])
        return [b"other"]

    engine = serve(app)
    with engine.connect() as client:
        client.sendall(get("/keep"))
        assert read_response(client)[2] == b"kept"
        with pytest.raises(RuntimeError):
            kept.pop()(b"secret")
        for _ in range(3):
            client.sendall(get("/"))
            assert read_response(client)[2] == b"other"


def test_write_within_the_iterable_keeps_the_order(serve) -> None:
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"a" * 10)
        yield b"b" * 10
        write(b"c" * (1 << 20))
        write(b"d")
        yield b"e"
        write(b"f" * (1 << 20))
        write(b"g")

    answer = answers(serve(app), b"GET / HTTP/1.0\r\n\r\n")
    expected = b"a" * 10 + b"b" * 10 + b"c" * (1 << 20) + b"de" + b"f" * (1 << 20) + b"g"
    assert answer == expected


class Restarting:
    """An iterable whose iterator writes, and that begins anew whenever it is asked for one."""

    def __init__(self, start_response) -> None:
        self.start_response = start_response

    def __iter__(self):
        write = self.start_response("200 OK", [])
        yield b"a"
        write(b"b")
        yield b"c"


def test_an_iterable_is_asked_for_one_iterator(serve) -> None:
    engine = serve(lambda environ, start_response: Restarting(start_response))
    assert answers(engine, b"GET / HTTP/1.0\r\n\r\n") == b"abc"
    assert not engine.reports


@pytest.mark.parametrize("where", ["generator", "close"])
def test_a_fork_that_comes_back_out_of_an_iterable_ends(serve, where) -> None:
    pids = []

    class Body:
        def __init__(self) -> None:
            self.pieces = [b"a", b"b", b"c"]

        def __iter__(self):
            return self

        def __next__(self) -> bytes:
            if not self.pieces:
                raise StopIteration
            if where == "generator" and len(self.pieces) == 2:
                pids.append(os.fork())
            return self.pieces.pop(0)

        def close(self) -> None:
            if where == "close":
                pids.append(os.fork())

    def app(environ, start_response):
        start_response("200 OK", [])
        return Body()

    engine = serve(app)
    answer = engine.talk(get("/", CLOSE))
    (pid,) = pids
    end = time.monotonic() + 20
    ended = (0, 0)
    while ended[0] == 0 and time.monotonic() < end:
        ended = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
    assert ended[0] == pid, "the child serves"
    assert body_of(answer) == b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"


@pytest.mark.parametrize("how", ["kernel", "read"])
def test_a_file_goes_out_up_to_the_content_length(serve, tmp_path, how) -> None:
    """PEP 3333, wsgi.file_wrapper: "until Content-Length bytes have been written"."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 10000)

    def app(environ, start_response):
        start_response("206 Partial Content", [("Content-Length", "70000")])
        file = path.open("rb") if how == "kernel" else io.BytesIO(path.read_bytes())
        file.seek(5)
        return environ["wsgi.file_wrapper"](file)

    engine = serve(app)
    with engine.connect() as client:
        for _ in range(2):
            client.sendall(get())
            assert read_response(client)[2] == (b"0123456789" * 10000)[5:70005]
    assert not engine.reports


def test_a_file_that_tells_no_size(serve) -> None:
    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](Path("/proc/self/status").open("rb"))

    assert answers(serve(app), b"GET / HTTP/1.0\r\n\r\n").startswith(b"Name:")


class Upper(io.FileIO):
    def read(self, size=-1):
        return super().read(size).upper()


class UpperBuffered(io.BufferedReader):
    def read(self, size=-1):
        return super().read(size).upper()


@pytest.mark.parametrize(
    "wrap", [Upper, lambda path: UpperBuffered(io.FileIO(path))], ids=["raw", "buffered"]
)
def test_a_file_with_a_read_of_its_own(serve, tmp_path, wrap) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 5000)

    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](wrap(str(path)))

    assert answers(serve(app), b"GET / HTTP/1.0\r\n\r\n") == b"ABC" * 5000


def test_head_of_an_endless_body_ends(serve) -> None:
    closed = threading.Event()

    def body():
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    def app(environ, start_response):
        start_response("200 OK", [])
        return body()

    engine = serve(app)
    with engine.connect() as client:
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_response(client)[0] == 200
        assert closed.wait(20)
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_response(client)[0] == 200


@pytest.mark.tasks
def test_a_health_check_does_not_age_the_next_request(serve) -> None:
    engine = serve(hello, server_health="/up", limits_queue_time=0.2)
    with engine.connect() as client:
        client.sendall(get("/up") * 17)  # one more than a turn's
        for _ in range(17):
            assert read_response(client)[2] == b"ok\n"
        time.sleep(0.4)
        client.sendall(get("/", CLOSE))
        assert read_response(client)[0] == 200


def test_an_application_may_do_to_its_environ_what_it_likes(serve) -> None:
    """PEP 3333: "the application is allowed to modify the dictionary in any way it desires"."""

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        environ.clear()
        if path == "/odd":
            environ.update(REQUEST_METHOD=None, RAW_URI=1)
        raise ValueError("as asked")

    engine = serve(app)
    with engine.connect() as client:
        for path in ("/clear", "/odd"):
            client.sendall(get(path))
            assert read_response(client)[0] == 500
    assert [type(error[1]) for _, error in engine.reports] == [ValueError, ValueError]


def test_a_root_path_beyond_ascii(serve) -> None:
    def app(environ, start_response):
        start_response("200 OK", [])
        return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode("latin-1")]

    engine = serve(app, app_root_path="/büro")
    assert answers(engine, get("/b%C3%BCro/x", CLOSE)) == "/büro|/x".encode()
