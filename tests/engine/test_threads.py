"""The application in a pool of threads: what runs beside what, and who holds what."""

from __future__ import annotations

import threading
import time

import pytest
from conftest import read_all, read_response
from test_wire import CLOSE, GET, TEXT, Tracked, eventually, get, hello, streaming

pytestmark = pytest.mark.parametrize("serve", ["threads"], indirect=True)


def test_requests_run_beside_each_other(serve) -> None:
    barrier = threading.Barrier(4)

    def app(environ, start_response):
        barrier.wait(20)
        return hello(environ, start_response)

    engine = serve(app, threads=4)
    clients = [engine.connect() for _ in range(4)]
    for client in clients:
        client.sendall(get(extra=CLOSE))
    for client in clients:
        with client:
            assert b"200 OK" in read_all(client)


def test_what_cannot_run_is_not_accepted(serve) -> None:
    release = threading.Event()

    def app(environ, start_response):
        assert release.wait(20)
        return hello(environ, start_response)

    engine = serve(app, threads=2)
    clients = []
    for _ in range(2):
        clients.append(engine.connect())
        clients[-1].sendall(get(extra=CLOSE))
    assert eventually(lambda: engine.slot["active"] == 2)
    for _ in range(3):
        clients.append(engine.connect())
        clients[-1].sendall(get(extra=CLOSE))
    time.sleep(0.1)
    assert engine.slot["connections"] == 2
    release.set()
    for client in clients:
        with client:
            assert b"200 OK" in read_all(client)


def test_idle_connections_hold_no_thread(serve) -> None:
    engine = serve(hello, threads=2)
    clients = [engine.connect() for _ in range(50)]
    for _ in range(2):
        for client in clients:
            client.sendall(GET)
        for client in clients:
            assert read_response(client)[0] == 200
    for client in clients:
        client.close()


def test_a_request_keeps_its_thread_from_call_to_close(serve) -> None:
    seen = []

    class Body(Tracked):
        def __next__(self) -> bytes:
            seen.append(threading.get_ident())
            return super().__next__()

        def close(self) -> None:
            seen.append(threading.get_ident())
            super().close()

    def app(environ, start_response):
        seen.append(threading.get_ident())
        start_response("200 OK", [TEXT])
        return Body(*[b"x" * 100_000] * 50)

    engine = serve(app, threads=3)
    for _ in range(5):
        seen.clear()
        answer = engine.talk(get(extra=CLOSE))
        assert len(answer) > 5_000_000
        assert eventually(lambda: len(seen) == 53)
        assert len(set(seen)) == 1
        assert seen[0] != engine.thread.ident


def test_slow_clients_hold_no_thread(serve) -> None:
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return (b"x" * 65536 for _ in range(500)) if environ["PATH_INFO"] == "/big" else [b"ok"]

    engine = serve(app, threads=2)
    slow = [engine.connect() for _ in range(4)]
    for client in slow:
        client.sendall(get("/big"))
    for _ in range(10):
        assert engine.talk(get(extra=CLOSE)).endswith(b"ok")
    for client in slow:
        client.close()


def test_client_that_goes_away_while_a_thread_has_its_request(serve) -> None:
    release = threading.Event()
    body = Tracked(b"x" * 1000)

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        assert release.wait(20)
        return streaming(body)(environ, start_response)

    engine = serve(app, threads=2)
    with engine.connect() as client:
        client.sendall(get("/slow"))
        assert eventually(lambda: engine.slot["active"] == 1)
        client.sendall(b"more")
    assert b"200 OK" in engine.talk(get(extra=CLOSE))
    release.set()
    assert eventually(lambda: body.closed == 1)
    assert eventually(lambda: engine.slot["connections"] == 0)
    assert engine.slot["active"] == 0


def test_stop_does_not_wait_for_a_thread_that_hangs(serve) -> None:
    release = threading.Event()

    def app(environ, start_response):
        release.wait(20)
        return hello(environ, start_response)

    engine = serve(app, threads=2)
    with engine.connect() as client:
        client.sendall(GET)
        assert eventually(lambda: engine.slot["active"] == 1)
        engine.drain(0.2)
        assert client.recv(1) == b""
        assert engine.ended()
    assert engine.loop.aborted == 1
    release.set()


def test_pipelined_requests_stay_in_order(serve) -> None:
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/0":
            time.sleep(0.1)
        start_response("200 OK", [TEXT])
        return [environ["PATH_INFO"].encode()]

    engine = serve(app, threads=4)
    with engine.connect() as client:
        client.sendall(b"".join(get(f"/{n}") for n in range(20)))
        assert [read_response(client)[2] for n in range(20)] == [b"/%d" % n for n in range(20)]
