"""ASGI 3 over real sockets: scope, messages, bodies as they come, ends (ASGI HTTP 2.5)."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgi_rules import checked
from conftest import Engine, read_all, read_response, start_engine
from test_wire import CLOSE, GET, body_of, eventually, get, post

START = {"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]}

Tasks = Callable[..., Engine]


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    engines: list[Engine] = []

    def start(app: Callable[..., Any], **options: Any) -> Engine:
        listener = options.pop("listener", None)
        engines.append(start_engine(checked(app), listener, app_interface="asgi", **options))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


async def answer(send: Any, body: bytes, more: bool = False) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def whole(receive: Any) -> bytes:
    body = b""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionError("cut")
        body += event["body"]
        if not event["more_body"]:
            return body


async def echo(scope, receive, send) -> None:
    await answer(send, await whole(receive))


def test_scope(tasks) -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope, receive, send) -> None:
        scopes.append(scope)
        await answer(send, b"")

    engine = tasks(app, app_root_path="/shop")
    engine.handler.state = {"pool": 1}
    engine.talk(
        get("/shop/a%20b/%C3%BC?q=%20&x", b"X-Two: 1\r\nX-Two: 2\r\nX_Bad: 3\r\n")
        + get("/elsewhere")
        + b"OPTIONS * HTTP/1.0\r\n\r\n"
    )
    first, second, third = scopes
    assert first["method"] == "GET"
    assert first["path"] == "/shop/a b/ü"
    assert first["raw_path"] == b"/shop/a%20b/%C3%BC"
    assert first["query_string"] == b"q=%20&x"
    assert first["root_path"] == "/shop"
    assert first["headers"] == [(b"host", b"a"), (b"x-two", b"1"), (b"x-two", b"2")]
    assert first["http_version"] == "1.1"
    assert first["client"][0] == "127.0.0.1"
    assert first["server"] == engine.listener.getsockname()
    assert first["state"] == {"pool": 1}
    assert first["state"] is not second["state"]
    assert second["path"] == "/shop/elsewhere"
    assert (third["method"], third["http_version"]) == ("OPTIONS", "1.0")


def test_a_proxy_is_believed_and_a_stranger_is_not(tasks, tmp_path) -> None:
    async def app(scope, receive, send) -> None:
        await answer(send, repr((scope["client"], scope["scheme"], scope["headers"][0])).encode())

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    request = get(
        extra=b"X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: shop.example\r\n" + CLOSE
    )
    told = body_of(tasks(app, listener=listener).talk(request))
    assert told == b"(('192.0.2.9', 0), 'https', (b'host', b'shop.example'))"
    told = body_of(tasks(app).talk(request))
    assert told.startswith(b"(('127.0.0.1', ")
    assert told.endswith(b"'http', (b'host', b'a'))")


@pytest.mark.parametrize("size", [0, 1, 65536, 200_000, 3_000_000])
@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_bodies_come_whole(tasks, size, coding) -> None:
    body = bytes(i * 7 % 251 for i in range(size))
    request = post(body)
    if coding == "chunked":
        pieces = [body[i : i + 40_000] for i in range(0, size, 40_000)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        request += chunks + b"0\r\n\r\n"
    with tasks(echo).connect() as client:
        sender = threading.Thread(target=client.sendall, args=(request * 2,))
        sender.start()
        for _ in range(2):
            status, _, got = read_response(client)
            assert (status, got == body) == (200, True)
        sender.join()


def test_an_upload_is_held_up_by_its_application(tasks) -> None:
    go = threading.Event()
    taken: list[int] = []

    async def app(scope, receive, send) -> None:
        await asyncio.to_thread(go.wait)
        while (event := await receive())["more_body"]:
            taken.append(len(event["body"]))
        await answer(send, b"")

    engine = tasks(app)
    with engine.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        client.setblocking(False)
        sent = 0
        idle = 0
        while idle < 20:  # until the kernel takes no more
            try:
                sent += client.send(bytes(65536))
                idle = 0
            except BlockingIOError:
                idle += 1
                threading.Event().wait(0.01)
        assert engine.slot["bytes_in"] < 1_000_000
        assert sent < 50_000_000
        go.set()
        client.settimeout(20)
        client.sendall(bytes(50_000_000 - sent))
        assert read_response(client)[0] == 200
    assert max(taken) <= 1 << 17


def test_a_slow_reader_holds_up_its_application(tasks) -> None:
    given: list[int] = []

    async def app(scope, receive, send) -> None:
        await send(START)
        for number in range(400):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            given.append(number)
        await send({"type": "http.response.body"})

    engine = tasks(app)
    with engine.connect() as client:
        client.sendall(get(extra=CLOSE))
        counts = [-1]
        while len(given) != counts[-1]:
            counts.append(len(given))
            threading.Event().wait(0.3)
        assert 0 < len(given) < 200
        body = body_of(read_all(client))
    assert body.count(b"10000\r\n") == 400
    assert len(given) == 400


def test_one_that_gives_without_an_end_lets_others_go_first(tasks) -> None:
    async def app(scope, receive, send) -> None:
        if scope["path"] == "/":
            return await answer(send, b"here")
        await send(START)
        while True:
            await send({"type": "http.response.body", "body": b"", "more_body": True})

    engine = tasks(app)
    with engine.connect() as greedy:
        greedy.sendall(get("/endless"))
        greedy.recv(10)
        for _ in range(5):
            assert body_of(engine.talk(get(extra=CLOSE))) == b"here"


@pytest.mark.parametrize("way", ["cut", "reset"])
def test_a_body_that_is_cut_short_disconnects(tasks, way) -> None:
    events: list[Any] = []

    async def app(scope, receive, send) -> None:
        while not events or events[-1] == "http.request":
            events.append((await receive())["type"])
        with pytest.raises(OSError, match="went away"):
            await answer(send, b"")

    engine = tasks(app)
    with engine.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        assert eventually(lambda: events)
        if way == "cut":
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
    assert eventually(lambda: events[-1] == "http.disconnect")
    assert eventually(lambda: engine.reports)
    assert engine.reports[0] == (
        "POST /: cut upload: 5 of 10 bytes of the body came (from 127.0.0.1)",
        None,
    )


def test_a_client_that_leaves_disconnects(tasks) -> None:
    events: list[str] = []

    async def app(scope, receive, send) -> None:
        assert (await receive())["type"] == "http.request"
        events.append("waits")
        events.append((await receive())["type"])
        events.append((await receive())["type"])

    engine = tasks(app)
    with engine.connect() as client:
        client.sendall(GET)
        assert eventually(lambda: events)
    assert eventually(lambda: events == ["waits", "http.disconnect", "http.disconnect"])
    assert eventually(lambda: engine.slot["connections"] == 0)
    assert engine.slot["exceptions"] == 0


def test_a_stream_to_nobody_raises(tasks) -> None:
    raised = threading.Event()

    async def app(scope, receive, send) -> None:
        await send(START)
        try:
            while True:
                message = {"type": "http.response.body", "body": b"x" * 100, "more_body": True}
                await send(message)
                await asyncio.sleep(0.001)
        except OSError:
            raised.set()
            raise

    engine = tasks(app)
    with engine.connect() as client:
        client.sendall(GET)
        client.recv(100)
    assert raised.wait(20)
    assert engine.slot["exceptions"] == 0


def test_an_answer_before_the_body_came(tasks) -> None:
    async def app(scope, receive, send) -> None:
        await answer(send, b"no")

    engine = tasks(app)
    with engine.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n")
        status, headers, body = read_response(client)
        assert (status, headers["connection"], body) == (200, "close", b"no")
        client.sendall(bytes(500_000))
        assert read_all(client) == b""
    # Little that is here already costs no connection, and is never taken for a request.
    with engine.connect() as client:
        client.sendall(post(b"GET /smuggled HTTP/1.1\r\nHost: b\r\n\r\n") * 3)
        for _ in range(3):
            assert read_response(client)[2] == b"no"
    assert engine.slot["requests"] == 4


def test_100_continue_when_the_body_is_asked_for(tasks) -> None:
    async def app(scope, receive, send) -> None:
        await answer(send, await whole(receive) if scope["path"] == "/" else b"unasked")

    expects = b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    engine = tasks(app)
    with engine.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\n" + expects)
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert read_response(client)[2] == b"abc"
        client.sendall(b"POST /no HTTP/1.1\r\nHost: a\r\n" + expects)
        status, headers, body = read_response(client)
        assert (status, headers["connection"], body) == (200, "close", b"unasked")


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([], "returned without a response"),
        ([START], "returned amid its response"),
        ([{"type": "http.response.body"}], "failed"),
        ([START, START], "failed"),
        ([{**START, "status": 99}], "failed"),
        ([{**START, "status": "200"}], "failed"),
        ([{**START, "headers": [(b"a b", b"")]}], "failed"),
        ([{**START, "headers": [(b"a", b"1\r\nb: 2")]}], "failed"),
        ([{**START, "headers": [("a", "1")]}], "failed"),
        ([{**START, "headers": [(b"content-length", b"x")]}], "failed"),
        ([START, {"type": "http.response.body", "body": "text"}], "failed"),
        ([{"type": "websocket.accept"}], "failed"),
    ],
)
def test_what_breaks_the_protocol_is_a_500(tasks, messages, what) -> None:
    async def app(scope, receive, send) -> None:
        for message in messages:
            await send(message)

    engine = tasks(app)
    with engine.connect() as client:
        for _ in range(2):  # the connection lives
            client.sendall(GET)
            assert read_response(client)[0] == 500
    assert what in engine.reports[0][0]
    assert engine.slot["exceptions"] == 2


def test_an_end_amid_a_body_cuts_it(tasks) -> None:
    async def app(scope, receive, send) -> None:
        await answer(send, b"half", more=True)
        if scope["path"] == "/raise":
            raise ValueError("odd")

    engine = tasks(app)
    for path in ("/", "/raise"):
        told = engine.talk(get(path))
        assert told.endswith(b"4\r\nhalf\r\n")
    assert engine.slot["exceptions"] == 2


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_no_exception_ends_the_worker(tasks, error) -> None:
    async def app(scope, receive, send) -> None:
        raise error

    engine = tasks(app)
    for _ in range(2):
        assert engine.talk(get(extra=CLOSE)).startswith(b"HTTP/1.1 500 ")


def test_after_the_response(tasks) -> None:
    seen: list[Any] = []

    async def app(scope, receive, send) -> None:
        await receive()
        await answer(send, b"done")
        seen.append((await receive())["type"])
        try:
            await send({"type": "http.response.body", "body": b"more"})
        except RuntimeError as error:
            seen.append(str(error))

    engine = tasks(app)
    assert body_of(engine.talk(get(extra=CLOSE))) == b"done"
    assert eventually(lambda: len(seen) == 2)
    assert seen == ["http.disconnect", "http.response.body after the response was complete"]


def test_each_request_is_a_task_with_a_context_of_its_own(tasks) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="fresh")
    names: set[str] = set()

    async def app(scope, receive, send) -> None:
        task = asyncio.current_task()
        assert task is not None
        names.add(task.get_name())
        before = variable.get()
        variable.set(scope["path"])
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        assert task.get_stack()
        repr(task)
        await answer(send, f"{before} {variable.get()}".encode())

    engine = tasks(app)
    with engine.connect() as client:
        client.sendall(get("/1") + get("/2") + get("/3"))
        for number in (1, 2, 3):
            assert read_response(client)[2] == b"fresh /%d" % number
    assert len(names) == 3


def test_what_is_awaited_may_be_a_task_and_may_be_cancelled(tasks) -> None:
    async def app(scope, receive, send) -> None:
        first = asyncio.create_task(receive())
        assert (await first)["body"] == b"body"
        second = asyncio.create_task(receive())
        third = asyncio.create_task(receive())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(second, 0.01)
        assert not third.done()
        third.cancel()
        await asyncio.create_task(send(START))
        await asyncio.wait_for(send({"type": "http.response.body", "body": b"fine"}), 20)

    assert body_of(tasks(app).talk(post(b"body", CLOSE))) == b"fine"


def test_no_more_is_accepted_than_can_run(tasks) -> None:
    inside: list[int] = []
    most: list[int] = []
    go = threading.Event()

    async def app(scope, receive, send) -> None:
        inside.append(1)
        most.append(len(inside))
        while not go.is_set():
            await asyncio.sleep(0.005)
        inside.pop()
        await answer(send, b"")

    engine = tasks(app, limits_concurrency=2)
    clients = [engine.connect() for _ in range(6)]
    for client in clients:
        client.sendall(GET + get(extra=CLOSE))
    assert eventually(lambda: len(inside) == 2)
    assert engine.slot["connections"] <= 3
    go.set()
    for client in clients:
        assert read_all(client).count(b"HTTP/1.1 200 ") == 2
        client.close()
    assert max(most) == 2


def test_a_drain_waits_for_what_runs_after_its_response(tasks) -> None:
    done: list[int] = []
    answered = threading.Event()

    async def app(scope, receive, send) -> None:
        await answer(send, b"")
        answered.set()
        await asyncio.sleep(0.3)
        done.append(1)

    engine = tasks(app)
    engine.talk(get(extra=CLOSE))
    assert answered.wait(20)
    engine.drain()
    assert engine.ended()
    assert done == [1]


def test_files_go_out_by_their_path(tasks, tmp_path) -> None:
    content = bytes(i % 251 for i in range(3_000_000))
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")

    async def app(scope, receive, send) -> None:
        assert "http.response.pathsend" in scope["extensions"]
        await send(START)
        path = str(tmp_path) + scope["path"]
        await send({"type": "http.response.pathsend", "path": path})

    engine = tasks(app)
    with engine.connect() as client:
        for _ in range(2):
            client.sendall(get("/file"))
            assert read_response(client)[2] == content
            client.sendall(get("/empty"))
            assert read_response(client)[2] == b""
            client.sendall(b"HEAD /empty HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_response(client)[0] == 200
            client.sendall(get("/missing"))
            assert read_response(client)[0] == 500


def test_early_hints(tasks) -> None:
    async def app(scope, receive, send) -> None:
        link = b"</style.css>; rel=preload"
        await send({"type": "http.response.early_hint", "links": [link]})
        await answer(send, b"then")

    told = tasks(app, server_early_hints=True).talk(get(extra=CLOSE))
    hint, _, rest = told.partition(b"\r\n\r\n")
    assert hint == b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload"
    assert body_of(rest) == b"then"
    assert body_of(tasks(app).talk(get(extra=CLOSE))) == b"then"


def test_health_while_the_event_loop_is_blocked(tasks) -> None:
    go = threading.Event()
    inside = threading.Event()

    async def app(scope, receive, send) -> None:
        inside.set()
        go.wait(30)
        await answer(send, b"")

    engine = tasks(app, server_health="/healthz")
    with engine.connect() as busy, engine.connect() as kept:
        kept.sendall(get("/healthz"))
        assert read_response(kept)[2] == b"ok\n"
        busy.sendall(GET)
        assert inside.wait(20)
        for _ in range(3):
            kept.sendall(get("/healthz"))
            assert read_response(kept)[2] == b"ok\n"
        go.set()
        assert read_response(busy)[0] == 200


def test_a_request_that_takes_too_long(tasks) -> None:
    async def deep() -> None:
        await asyncio.sleep(60)

    ended: list[str] = []

    async def app(scope, receive, send) -> None:
        if scope["path"] == "/stream":
            await answer(send, b"begun", more=True)
            await asyncio.sleep(1)
            return await send({"type": "http.response.body", "body": b"done"})
        try:
            await deep()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    engine = tasks(app, timeouts_request=0.3)
    with engine.connect() as streaming:
        streaming.sendall(get("/stream", CLOSE))
        told = engine.talk(get("/slow"))
        assert told.startswith(b"HTTP/1.1 504 ")
        assert b"Connection: close" in told
        assert eventually(lambda: ended == ["cancelled"])
        assert read_all(streaming).endswith(b"4\r\ndone\r\n0\r\n\r\n")
    text = engine.reports[0][0]
    assert text.startswith("GET /slow: not answered after 0.3 s (timeouts.request)")
    assert "in deep" in text
    assert len(engine.reports) == 1
