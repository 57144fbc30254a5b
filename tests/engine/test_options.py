"""What limits.queue_time, app.root_path, server.early_hints and server.health say on the wire."""

from __future__ import annotations

import threading
import time

import pytest
from conftest import read_response
from test_wire import CLOSE, TEXT, body_of, get, hello


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (lambda: f"t={time.time() - 10:.3f}", 503),
        (lambda: f"{time.time() - 10:.3f}", 503),
        (lambda: f"{(time.time() - 10) * 1000:.0f}", 503),
        (lambda: f"{(time.time() - 10) * 1e6:.0f}", 503),
        (lambda: f"{(time.time() - 10) * 1e9:.0f}", 503),
        (lambda: f"t={time.time() - 1:.3f}", 200),
        (lambda: f"t={time.time() + 60:.3f}", 200),  # that clock is wrong
        (lambda: "t=1", 200),
        (lambda: "yesterday", 200),
        (lambda: "-1", 200),
        (lambda: "9" * 400, 200),
    ],
)
@pytest.mark.tasks
def test_a_request_that_has_waited_too_long_is_turned_away(serve, value, status) -> None:
    engine = serve(hello, limits_queue_time=5.0, server_trusted=("127.0.0.1",))
    with engine.connect() as client:
        client.sendall(get("/", f"X-Request-Start: {value()}\r\n".encode()))
        code, headers, _ = read_response(client) if status == 503 else (200, {}, b"")
        assert code == status
        assert (headers.get("retry-after") == "1") == (status == 503)
        if status == 503:  # the connection is not to blame
            client.sendall(get("/", CLOSE))
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        else:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert len(engine.reports) == (status == 503)


@pytest.mark.tasks
def test_the_word_of_strangers_does_not_count(serve) -> None:
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        return hello(environ, start_response)

    engine = serve(app, limits_queue_time=5.0, server_trusted=())
    assert engine.talk(get("/", b"X-Request-Start: t=1\r\n" + CLOSE)).startswith(b"HTTP/1.1 200 ")
    assert "HTTP_X_REQUEST_START" not in seen


def test_waiting_for_a_thread_counts(serve) -> None:
    begun = threading.Semaphore(0)
    go = threading.Event()

    def app(environ, start_response):
        begun.release()
        go.wait(20)
        return hello(environ, start_response)

    engine = serve(app, threads=2, limits_queue_time=0.3)
    clients = [engine.connect() for _ in range(3)]
    for client in clients:  # all are open before the threads are busy
        client.sendall(b"GET / HTTP/1.1\r\n")
    while engine.slot["connections"] < 3:
        time.sleep(0.01)
    for client in clients:
        client.sendall(b"Host: a\r\n" + CLOSE + b"\r\n")
    assert begun.acquire(timeout=20)
    assert begun.acquire(timeout=20)
    time.sleep(0.5)
    go.set()
    codes = sorted(client.recv(12) for client in clients)
    assert codes == [b"HTTP/1.1 200", b"HTTP/1.1 200", b"HTTP/1.1 503"]
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("path", "script", "info"),
    [
        ("/shop/x/y", "/shop", "/x/y"),
        ("/shop", "/shop", ""),
        ("/shop/", "/shop", "/"),
        ("/sh%6Fp/a%20b", "/shop", "/a b"),
        ("/x", "/shop", "/x"),
        ("/shopping", "/shop", "/shopping"),
    ],
)
@pytest.mark.parametrize("root", ["/shop", "/shop/"])
def test_root_path(serve, path, script, info, root) -> None:
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]

    engine = serve(app, app_root_path=root)
    assert body_of(engine.talk(get(path, CLOSE))) == f"{script}|{info}".encode()


def hinting(environ, start_response):
    environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload"), ("X-B", "2")])
    environ["wsgi.early_hints"]([("Connection", "close"), ("Content-Length", "1")])
    return hello(environ, start_response)


def test_early_hints(serve) -> None:
    engine = serve(hinting, server_early_hints=True)
    answer = engine.talk(get("/", CLOSE))
    first, second, last = answer.split(b"\r\n\r\n", 2)
    assert first == b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-B: 2"
    assert second == b"HTTP/1.1 103 Early Hints"
    assert last.startswith(b"HTTP/1.1 200 OK")
    answer = engine.talk(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert not engine.reports


@pytest.mark.parametrize(
    "headers", [[("A", "b\r\nEvil: 1")], [("A b", "c")], [("A", "\u20ac")], [("A", 1)], [1]]
)
def test_early_hints_are_checked_as_headers_are(serve, headers) -> None:
    def app(environ, start_response):
        environ["wsgi.early_hints"](headers)

    engine = serve(app, server_early_hints=True)
    answer = engine.talk(get("/", CLOSE))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Evil" not in answer


def test_no_early_hints_unless_configured(serve) -> None:
    def app(environ, start_response):
        assert "wsgi.early_hints" not in environ
        return hello(environ, start_response)

    assert serve(app).talk(get("/", CLOSE)).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (get("/up"), b"HTTP/1.1 200 OK\r\n"),
        (get("/up?x=1"), b"HTTP/1.1 200 OK\r\n"),
        (b"HEAD /up HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
        (b"GET http://a/up HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
        (b"POST /up HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 418 "),
        (get("/up", b"Content-Length: 1\r\n") + b"x", b"HTTP/1.1 418 "),
        (get("/up/"), b"HTTP/1.1 418 "),
        (get("/UP"), b"HTTP/1.1 418 "),
    ],
)
@pytest.mark.tasks
def test_health(serve, request_, answer) -> None:
    def app(environ, start_response):
        start_response("418 I'm a teapot", [TEXT])
        return [b"app\n"]

    engine = serve(app, server_health="/up")
    with engine.connect() as client:
        for _ in range(2):
            client.sendall(request_)
            got = b""
            while not got.endswith(b"\r\n\r\n" if request_[:4] == b"HEAD" else b"\n"):
                got += client.recv(65536)
            assert got.startswith(answer)
    assert engine.slot["requests"] == (0 if b" 200 " in answer else 2)


@pytest.mark.tasks
def test_health_while_draining(serve) -> None:
    engine = serve(hello, server_health="/up")
    with engine.connect() as client:
        client.sendall(get("/up"))
        assert read_response(client)[2] == b"ok\n"
        engine.drain(close_idle=False)
        client.sendall(get("/up"))
        status, headers, body = read_response(client)
    assert (status, headers["connection"], body) == (503, "close", b"no\n")
    assert engine.ended()
