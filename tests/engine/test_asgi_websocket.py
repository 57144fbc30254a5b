"""WebSockets of ASGI applications over real sockets, most by websockets' synchronous client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgi_rules import checked
from conftest import Engine, read_all, start_engine
from test_wire import body_of, eventually, get
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

Tasks = Callable[..., Engine]

OPENING = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    engines: list[Engine] = []

    def start(app: Callable[..., Any], **options: Any) -> Engine:
        engines.append(start_engine(checked(app), app_interface="asgi", **options))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def client(engine: Engine, path: str = "/", **options: Any) -> ClientConnection:
    host, port = engine.listener.getsockname()
    return connect(f"ws://{host}:{port}{path}", open_timeout=20, close_timeout=20, **options)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_echo(tasks, compression) -> None:
    engine = tasks(echo)
    with client(engine, compression=compression, max_size=None) as peer:
        for message in (
            "",
            "Tschüß",
            b"",
            bytes(100_000),
            "€" * 400_000,
            ["in ", "frag", "ments"],
        ):
            peer.send(message)
            assert peer.recv() == ("".join(message) if type(message) is list else message)
        for number in range(300):
            peer.send(f"{number}")
        for number in range(300):
            assert peer.recv() == f"{number}"
        assert peer.ping().wait(20)
        peer.close(3000, "enough")
        assert (peer.close_code, peer.close_reason) == (3000, "enough")
    assert eventually(lambda: engine.slot["connections"] == 0)
    assert engine.slot["exceptions"] == 0


def test_scope_subprotocol_and_headers(tasks) -> None:
    scopes: list[Any] = []

    async def app(scope, receive, send) -> None:
        scopes.append(scope)
        await receive()
        headers = [(b"x-app", b"1")]
        await send({"type": "websocket.accept", "subprotocol": "chat", "headers": headers})
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
        assert (await receive())["code"] == 4001

    engine = tasks(app)
    with client(engine, "/a?b", subprotocols=["other", "chat"]) as peer:
        assert peer.response.headers["x-app"] == "1"
        assert peer.subprotocol == "chat"
        assert peer.recv() == "hello"
        with pytest.raises(ConnectionClosed):
            peer.recv()
        assert (peer.close_code, peer.close_reason) == (4001, "bye")
    (scope,) = scopes
    assert scope["type"] == "websocket"
    assert (scope["path"], scope["query_string"], scope["scheme"]) == ("/a", b"b", "ws")
    assert scope["subprotocols"] == ["other", "chat"]
    assert "method" not in scope
    assert engine.slot["exceptions"] == 0


@pytest.mark.parametrize(
    ("messages", "status", "body"),
    [
        ([{"type": "websocket.close"}], 403, b"Forbidden\n"),
        (
            [
                {"type": "websocket.http.response.start", "status": 401, "headers": []},
                {"type": "websocket.http.response.body", "body": b"who", "more_body": True},
                {"type": "websocket.http.response.body", "body": b" is it"},
            ],
            401,
            b"who is it",
        ),
        ([], 500, b"Internal Server Error\n"),
        ([{"type": "websocket.send", "text": "early"}], 500, b"Internal Server Error\n"),
        ([{"type": "websocket.accept", "subprotocol": "none"}], 500, b"Internal Server Error\n"),
    ],
)
def test_denial(tasks, messages, status, body) -> None:
    async def app(scope, receive, send) -> None:
        for message in messages:
            await send(message)

    engine = tasks(app)
    with pytest.raises(InvalidStatus) as refused:
        client(engine)
    assert refused.value.response.status_code == status
    assert refused.value.response.body == body
    # Frames that were sent at once are no request.
    told = engine.talk(get(extra=OPENING) + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert told.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close\r\n" in told


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get(extra=OPENING.replace(b"13", b"8")), b"426 "),
        (get(extra=OPENING.replace(b"dGhl", b"")), b"400 "),
        (get(extra=OPENING).replace(b"HTTP/1.1", b"HTTP/1.0"), b"400 "),
        (get(extra=OPENING).replace(b"GET", b"POST"), b"400 "),
        (get(extra=OPENING + b"Content-Length: 3\r\n") + b"abc", b"400 "),
        (get(extra=OPENING + b"Content-Length: 3\r\n"), b"400 "),
    ],
)
def test_openings_that_are_refused(tasks, request_bytes, status) -> None:
    engine = tasks(echo)
    told = engine.talk(request_bytes)
    assert told.startswith(b"HTTP/1.1 " + status)
    assert body_of(told)


def test_other_upgrades_are_requests(tasks) -> None:
    async def app(scope, receive, send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"plain"})

    told = tasks(app).talk(get(extra=b"Upgrade: h2c\r\nConnection: Upgrade, close\r\n"))
    assert body_of(told) == b"plain"


def test_what_is_too_large_closes_with_1009(tasks) -> None:
    engine = tasks(echo, websocket_message=1000)
    with client(engine) as peer:
        peer.send(bytes(1000))
        assert len(peer.recv()) == 1000
        peer.send(bytes(1001))
        with pytest.raises(ConnectionClosed):
            peer.recv()
        assert peer.close_code == 1009
    assert eventually(lambda: engine.slot["connections"] == 0)


def test_a_client_that_vanishes(tasks) -> None:
    codes: list[int] = []

    async def app(scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        codes.append((await receive())["code"])
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "websocket.send", "text": "x"})
        codes.append(0)

    engine = tasks(app)
    with engine.connect() as raw:
        raw.sendall(get(extra=OPENING))
        assert raw.recv(100).startswith(b"HTTP/1.1 101 ")
    assert eventually(lambda: codes == [1006, 0])
    assert engine.slot["exceptions"] == 0


def test_an_exception_closes_with_1011(tasks) -> None:
    async def app(scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        raise ValueError("odd")

    engine = tasks(app)
    with client(engine) as peer:
        peer.send("go")
        with pytest.raises(ConnectionClosed):
            peer.recv()
        assert peer.close_code == 1011
    assert eventually(lambda: engine.slot["exceptions"] == 1)
    assert "the application failed" in engine.reports[0][0]


def test_a_drain_says_1012(tasks) -> None:
    ended: list[int] = []

    async def app(scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        ended.append((await receive())["code"])

    engine = tasks(app)
    with client(engine) as peer:
        assert eventually(lambda: engine.slot["active"] == 1)
        engine.drain()
        with pytest.raises(ConnectionClosed):
            peer.recv()
        assert (peer.close_code, peer.close_reason) == (1012, "service restart")
    assert engine.ended()
    assert ended == [1012]


def test_a_slow_application_holds_up_its_client(tasks) -> None:
    go = threading.Event()
    sizes: list[int] = []

    async def app(scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.to_thread(go.wait)
        while (event := await receive())["type"] == "websocket.receive":
            sizes.append(len(event["bytes"]))

    engine = tasks(app)
    with client(engine, compression=None) as peer:
        sender = threading.Thread(target=lambda: [peer.send(bytes(100_000)) for _ in range(200)])
        sender.start()
        counts = [-1]
        while engine.slot["bytes_in"] != counts[-1]:
            counts.append(engine.slot["bytes_in"])
            threading.Event().wait(0.3)
        assert counts[-1] < 1_000_000
        assert sender.is_alive()
        go.set()
        sender.join(60)
    assert eventually(lambda: len(sizes) == 200)


def test_a_client_that_does_not_read_holds_up_its_application(tasks) -> None:
    given: list[int] = []

    async def app(scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for number in range(400):
            await send({"type": "websocket.send", "bytes": bytes(65536)})
            given.append(number)

    engine = tasks(app)
    with engine.connect() as raw:
        raw.sendall(get(extra=OPENING))
        counts = [-1]
        while len(given) != counts[-1]:
            counts.append(len(given))
            threading.Event().wait(0.3)
        assert 0 < len(given) < 200
        told = 0
        while told < 400 * 65536:
            told += len(raw.recv(1 << 20))
        raw.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
        read_all(raw)
    assert len(given) == 400


def test_the_silent_are_pinged_and_then_cut(tasks) -> None:
    engine = tasks(echo, websocket_ping=0.2)
    with client(engine) as lively, engine.connect() as dead:
        dead.sendall(get(extra=OPENING))
        with contextlib.suppress(ConnectionResetError):
            assert b"\x89\x00" in read_all(dead)
        lively.send("still here")
        assert lively.recv() == "still here"
    assert any("did not answer a ping" in text for text, _ in engine.reports)


def test_a_close_that_is_not_answered_is_cut(tasks) -> None:
    async def app(scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    engine = tasks(app)
    with engine.connect() as raw:
        raw.sendall(get(extra=OPENING))
        with contextlib.suppress(ConnectionResetError):
            read_all(raw)
    assert eventually(lambda: engine.slot["connections"] == 0)


def test_two_at_once_and_the_one_that_listens_hears_all(tasks) -> None:
    """A broadcast from one task to another's connection."""
    members: list[Any] = []

    async def app(scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        members.append(send)
        while (event := await receive())["type"] == "websocket.receive":
            for member in members:
                await member({"type": "websocket.send", "text": event["text"]})

    engine = tasks(app)
    with client(engine) as one, client(engine) as two:
        assert eventually(lambda: len(members) == 2)
        for number in range(50):
            one.send(f"{number}")
            two.send(f"{number}")
        for peer in (one, two):
            heard = [peer.recv() for _ in range(100)]
            assert sorted(heard) == sorted([f"{n}" for n in range(50)] * 2)
        members.clear()


def test_sockets_are_unix_too(tmp_path, tasks) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    engine = start_engine(checked(echo), listener, app_interface="asgi")
    with engine.connect() as raw:
        raw.sendall(get(extra=OPENING))
        assert raw.recv(1000).startswith(b"HTTP/1.1 101 ")
        raw.sendall(b"\x81\x82\0\0\0\0hi")
        assert raw.recv(100) == b"\x81\x02hi"
    engine.close()
