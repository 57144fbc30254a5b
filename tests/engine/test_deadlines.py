"""What ends by time or by order: header, body, write and keep-alive deadlines, drain, stop."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from conftest import read_all, read_response
from test_wire import CLOSE, GET, TEXT, body_of, echo, eventually, get, hello, post

import sockd

pytestmark = pytest.mark.tasks


def test_header_deadline_counts_from_the_first_byte(serve) -> None:
    engine = serve(hello, timeouts_header=0.3)
    with engine.connect() as client:
        client.sendall(b"GET / HT")
        end = time.monotonic() + 20
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < end:  # a drip does not prolong it
                client.sendall(b"x")
                time.sleep(0.05)
    assert "408" in engine.reports[0][0]


def test_header_deadline_answers_408(serve) -> None:
    engine = serve(hello, timeouts_header=0.2)
    assert engine.talk(b"GET /").startswith(b"HTTP/1.1 408 ")


def test_body_deadline(serve) -> None:
    engine = serve(hello, timeouts_body=0.2)
    assert engine.talk(post(b"x" * 10)[:-5]).startswith(b"HTTP/1.1 408 ")


def test_idle_connection_ends_quietly(serve) -> None:
    engine = serve(hello, timeouts_keepalive=0.2)
    with engine.connect() as client:
        client.sendall(GET)
        assert read_response(client)[0] == 200
        assert client.recv(1) == b""
    with engine.connect() as client:
        assert client.recv(1) == b""
    assert engine.reports == []


@pytest.mark.parametrize("before", [b"", post(b"abc")])
def test_an_empty_line_alone_begins_no_request(serve, before) -> None:
    engine = serve(echo, timeouts_keepalive=0.5, timeouts_header=0.1)
    with engine.connect() as client:  # RFC 9112 2.2: old clients send one behind a body
        client.sendall(before + b"\r\n")
        assert read_all(client).count(b"HTTP/1.1 ") == before.count(b"POST")
    with engine.connect() as client:
        client.sendall(before + b"\r\n")
        time.sleep(0.2)
        client.sendall(get(extra=CLOSE))
        assert read_all(client).count(b"HTTP/1.1 200 ") == 1 + before.count(b"POST")
    with engine.connect() as client:
        client.sendall(before + b"\r\n")
    assert eventually(lambda: engine.slot["connections"] == 0)
    assert engine.reports == []


def test_client_that_does_not_read_is_cut(serve) -> None:
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return (b"x" * 65536 for _ in range(1000))

    engine = serve(app, timeouts_write=0.3)
    with engine.connect() as client:
        client.sendall(GET)
        assert eventually(lambda: engine.reports)
        assert engine.slot["connections"] == 0
    assert "GET /: cut: the client took too long" in engine.reports[0][0]


def test_slow_but_steady_reader_is_served(serve) -> None:
    size = 200 * 65536

    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return (b"x" * 65536 for _ in range(200))

    engine = serve(app, timeouts_write=1.0)
    with engine.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        got = 0
        while piece := client.recv(1 << 17):
            got += len(piece)
            time.sleep(0.01)
    assert got > size


def test_a_slow_application_is_not_held_against_the_client(serve) -> None:
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            time.sleep(0.6)
        return hello(environ, start_response)

    engine = serve(app, timeouts_header=0.3, timeouts_keepalive=0.3)
    with engine.connect() as slow, engine.connect() as other:
        other.sendall(b"GET / HTTP/1.1\r\n")
        time.sleep(0.1)
        slow.sendall(get("/slow"))
        time.sleep(0.1)
        other.sendall(b"Host: a\r\n\r\n")  # in time, but nobody looks for a while
        assert read_response(slow)[0] == 200
        assert read_response(other)[0] == 200


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_the_loop_answers_for_a_thread_that_does_not(serve, method) -> None:
    """And goes on; what the thread returns in the end is nobody's."""
    end = threading.Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/wait":
            end.wait()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"] if environ["REQUEST_METHOD"] == "GET" else [b""]

    engine = serve(app, threads=4, valid=False, timeouts_request=0.2)
    answers = [engine.talk(method + b" /wait HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(2)]
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
        assert b"Connection: close" in head
        assert body == (b"Gateway Timeout\n" if method == b"GET" else b"")
    with engine.connect() as client:
        for _ in range(3):
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_response(client)[2] == b"ok"
    end.set()
    assert engine.talk(b"GET / HTTP/1.0\r\n\r\n").endswith(b"ok")
    assert engine.slot["responses_5xx"] == 2
    assert engine.reports == []


def test_there_is_no_deadline_to_move_elsewhere(serve) -> None:
    seen = []

    def app(environ, start_response):
        thread = threading.Thread(target=lambda: seen.append(sockd.extend_deadline(1)))
        thread.start()
        thread.join()
        seen.append(sockd.extend_deadline(1e300))
        start_response("204 No Content", [])
        return []

    for limit in (10.0, 0):
        engine = serve(app, timeouts_request=limit)
        assert engine.talk(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 204 ")
    assert seen == [False, True, False, False]
    assert not sockd.extend_deadline(1)
    for wrong in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="expected a number of seconds"):
            sockd.extend_deadline(wrong)


def test_drain_finishes_what_is_in_hand(serve) -> None:
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            time.sleep(0.3)
        return hello(environ, start_response)

    engine = serve(app)
    with engine.connect() as client, engine.connect() as second:
        for one in (client, second):
            one.sendall(GET)
            assert read_response(one)[0] == 200
            one.sendall(get("/slow"))
        time.sleep(0.1)
        engine.drain()
        for one in (client, second):
            answer = read_all(one)
            assert body_of(answer) == b"hello"
        assert b"Connection: close\r\n" in answer
    assert engine.ended()
    assert engine.loop.aborted == 0


def test_drain_closes_idle_connections(serve) -> None:
    engine = serve(hello)
    with engine.connect() as client:
        client.sendall(GET)
        assert read_response(client)[0] == 200
        engine.drain()
        assert client.recv(1) == b""
    assert engine.ended()


def test_drain_that_keeps_idle_connections_answers_each_once_more(serve) -> None:
    engine = serve(hello)
    with engine.connect() as client:
        client.sendall(GET)
        assert read_response(client)[0] == 200
        engine.drain(close_idle=False)
        assert eventually(lambda: engine.slot["state"] == "draining")
        client.sendall(GET)
        status, headers, _ = read_response(client)
        assert (status, headers["connection"]) == (200, "close")
        assert client.recv(1) == b""
    assert engine.ended()


def test_drain_gives_a_fresh_connection_the_time_to_ask(serve) -> None:
    engine = serve(hello)
    with engine.connect() as client, engine.connect() as silent:
        assert eventually(lambda: engine.slot["connections"] == 2)
        engine.drain()
        assert eventually(lambda: engine.slot["state"] == "draining")
        client.sendall(GET)
        assert b"200 OK" in read_all(client)
        assert silent.recv(1) == b""
    assert engine.ended()


def test_drain_accepts_no_more_but_what_is_queued(serve) -> None:
    def app(environ, start_response):
        time.sleep(0.3)
        return hello(environ, start_response)

    engine = serve(app)
    clients = [engine.connect() for _ in range(3)]
    for client in clients:
        client.sendall(GET)
    engine.drain(accept_rest=True)
    for client in clients:
        with client:
            assert b"200 OK" in read_all(client)
    assert engine.ended()


def test_drain_deadline_cuts_and_counts(serve) -> None:
    engine = serve(hello)
    with engine.connect() as client:
        client.sendall(post(b"x" * 10)[:-5])
        assert eventually(lambda: engine.slot["bytes_in"])
        engine.drain(0.2)
        assert client.recv(1) == b""
    assert engine.ended()
    assert engine.loop.aborted == 1
    assert "cut at the drain deadline" in engine.reports[0][0]


def test_stop_is_quick(serve) -> None:
    engine = serve(hello)
    with engine.connect() as client:
        client.sendall(GET)
        assert read_response(client)[0] == 200
        engine.order(engine.loop.stop)
        assert engine.ended()
        assert client.recv(1) == b""


def test_connections_beyond_the_limit_wait_in_the_backlog(serve) -> None:
    engine = serve(hello, limits_connections=2)
    busy = [engine.connect(), engine.connect()]
    for client in busy:
        client.sendall(b"GET / HTTP/1.1\r\n")
    assert eventually(lambda: engine.slot["bytes_in"] == 2 * 16)
    with engine.connect() as third:
        third.sendall(get(extra=CLOSE))
        time.sleep(0.1)
        assert engine.slot["connections"] == 2
        for client in busy:
            with client:
                client.sendall(b"Host: a\r\n" + CLOSE + b"\r\n")
                assert b"200 OK" in read_all(client)
        assert b"200 OK" in read_all(third)


def test_connections_that_become_idle_make_room(serve) -> None:
    engine = serve(hello, limits_connections=2)
    busy = [engine.connect(), engine.connect()]
    for client in busy:
        client.sendall(GET[:-2])
    assert eventually(lambda: engine.slot["bytes_in"] == 2 * len(GET[:-2]))
    with engine.connect() as third, busy[0], busy[1]:
        third.sendall(get(extra=CLOSE))
        time.sleep(0.1)
        for client in busy:
            client.sendall(b"\r\n")
            assert read_response(client)[0] == 200
        assert b"200 OK" in read_all(third)
        assert busy[0].recv(1) == b""


def test_pipelined_requests_are_not_taken_for_idle(serve) -> None:
    engine = serve(hello, limits_connections=2)
    with engine.connect() as client:
        client.sendall(GET * 1000)
        others = [engine.connect() for _ in range(20)]
        for other in others:
            other.sendall(get(extra=CLOSE))
        for other in others:
            with other:
                assert b"200 OK" in read_all(other)
        for _ in range(1000):
            assert read_response(client)[0] == 200


def test_idle_connections_make_room_oldest_first(serve) -> None:
    engine = serve(hello, limits_connections=3)
    clients = []
    for _ in range(5):
        client = engine.connect()
        client.sendall(GET)
        assert read_response(client)[0] == 200
        clients.append(client)
    for client in clients[:3]:
        with client:
            assert client.recv(1) == b""
    for client in clients[3:]:
        with client:
            client.sendall(GET)
            assert read_response(client)[0] == 200
