"""A worker's engine in a thread of the test: real sockets, a real loop, any application."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from wsgiref.validate import WSGIWarning, validator

import pytest

from sockd.board import Board
from sockd.http.guest import Guest
from sockd.http.loop import Loop
from sockd.settings import Settings
from sockd.worker.asgi import ASGIHandler
from sockd.worker.wsgi import WSGIHandler

DEADLINE = 20.0


class Engine:
    """A running loop. `reports` collects what it would have written to the journal."""

    def __init__(self, app: Callable[..., Any], listener: socket.socket, settings: Settings):
        self.reports: list[tuple[str, Any]] = []
        self.listener = listener
        self.threads = settings.threads
        self.board = Board.create(1)
        self.settings = settings
        run = self._make_loop(app)
        self._wake_here, self._wake_there = socket.socketpair()
        self._orders: list[Callable[[], None]] = []
        self.loop.watch(self._wake_there.fileno(), self._obey)
        self.thread = threading.Thread(target=run)
        self.thread.start()

    def _report(self, text: str, exc: Any, fields: dict[str, str]) -> None:
        self.reports.append((text, exc))

    def _make_loop(self, app: Callable[..., Any]) -> Callable[[], None]:
        handler = WSGIHandler(app, self.settings, report=self._report)
        self.loop = Loop(handler, [self.listener], self.settings, self.board, 0)
        return self.loop.run

    def _obey(self) -> None:
        self._wake_there.recv(1)
        self._orders.pop(0)()

    def order(self, action: Callable[[], None]) -> None:
        """Run `action` in the loop's thread, as a signal or the lifeline would."""
        self._orders.append(action)
        self._wake_here.send(b"!")

    def drain(self, seconds: float = DEADLINE, **how: bool) -> None:
        self.loop.drain(seconds, **{"close_idle": True, **how})  # as from a signal handler
        self.order(lambda: None)

    def ended(self) -> bool:
        self.thread.join(DEADLINE)
        return not self.thread.is_alive()

    def close(self) -> None:
        if self.thread.is_alive():
            self.order(self.loop.stop)
        assert self.ended(), "the loop does not end"
        assert self.slot["connections"] == 0
        assert self.slot["active"] == 0
        # A thread that outlives the loop has its request in hand still.
        assert self.threads > 1 or self.board.in_hand(0) == []
        for end in (self._wake_here, self._wake_there, self.listener):
            end.close()
        os.close(self.board.fd)  # which outlives a Board
        for _, exc in self.reports:
            assert exc is None or not isinstance(exc[1], (AssertionError, WSGIWarning)), exc

    @property
    def slot(self) -> dict[str, Any]:
        return self.board.read(0)

    def connect(self) -> socket.socket:
        client = socket.socket(self.listener.family)
        client.settimeout(DEADLINE)
        client.connect(self.listener.getsockname())
        return client

    def talk(self, *pieces: bytes) -> bytes:
        """All that comes back for `pieces`, each sent by itself, until the engine closes."""
        with self.connect() as client:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                try:
                    client.sendall(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break  # it answered and closed before all was sent
            return read_all(client)


class TaskEngine(Engine):
    """The same for ASGI: the loop is a guest of an asyncio event loop in the thread."""

    def _make_loop(self, app: Callable[..., Any]) -> Callable[[], None]:
        self.host = asyncio.new_event_loop()
        self.handler = ASGIHandler(app, self.settings, host=self.host, report=self._report)
        self.loop: Guest = Guest(self.handler, [self.listener], self.settings, self.board, 0)
        return self._run

    def _run(self) -> None:
        with contextlib.closing(self.host):
            self.host.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self.loop.attach(self.host)
        await self.loop.ended
        self.loop.detach()
        cut = self.handler.cancel()
        if cut:
            await asyncio.wait(cut, timeout=DEADLINE)
        assert not self.handler.exchanges


def as_asgi(app: Callable[..., Any]) -> Callable[..., Any]:
    """A WSGI application in ASGI's words, called in the event loop's own thread: so that one test
    holds for both workers."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            if not event["more_body"]:
                break
        started: list[Any] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
            if exc_info and started and started[0] is None:
                raise exc_info[1].with_traceback(exc_info[2])
            started[:] = [(status, headers)]

        iterable = app(environ_of(scope, body), start_response)

        async def give(piece: bytes, more: bool) -> None:
            if started[0] is not None:
                status, headers = started[0]
                fields = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers]
                start = {"status": int(status[:3]), "headers": fields}
                await send({"type": "http.response.start", **start})
                started[0] = None
            await send({"type": "http.response.body", "body": piece, "more_body": more})

        try:
            if isinstance(iterable, list):
                await give(b"".join(iterable), False)
            else:
                for piece in iterable:
                    await give(piece, True)
                await give(b"", False)
        finally:
            if hasattr(iterable, "close"):
                iterable.close()

    return call


def environ_of(scope: Any, body: bytes) -> dict[str, Any]:
    query = scope["query_string"].decode("ascii")
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": scope["root_path"],
        "PATH_INFO": urllib.parse.unquote(scope["raw_path"], "latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": scope["raw_path"].decode("ascii") + ("?" + query if query else ""),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": str(scope["server"][0]),
        "SERVER_PORT": str(scope["server"][1] or 80),
        "REMOTE_ADDR": scope["client"][0] if scope["client"] else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        key = "HTTP_" + name.decode().upper().replace("-", "_")
        key = {"HTTP_CONTENT_TYPE": key[5:], "HTTP_CONTENT_LENGTH": key[5:]}.get(key, key)
        text = value.decode("latin-1")
        joint = "; " if name == b"cookie" else ","
        environ[key] = environ[key] + joint + text if key in environ else text
    return environ


def read_all(client: socket.socket) -> bytes:
    """Everything until EOF; a reset is an error."""
    answer = b""
    while piece := client.recv(65536):
        answer += piece
    return answer


def read_response(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One response with a Content-Length: status, headers, body; leaves the connection open."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(1)
        assert piece, f"closed after {data!r}"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    while missing := int(headers.get("content-length", 0)) - len(body):
        piece = client.recv(missing)
        assert piece, "closed in the body"
        body += piece
    return int(lines[0].split()[1]), headers, body


def validated(app: Callable[..., Any]) -> Callable[..., Any]:
    """`app` behind wsgiref's validator. A list or tuple comes out as one, once the validator has
    seen its pieces: sockd sends those in other ways than what it has to iterate over."""

    def checked(environ: Any, start_response: Any) -> Any:
        returned: list[Any] = []

        def remember(environ: Any, start_response: Any) -> Any:
            returned.append(app(environ, start_response))
            return returned[0]

        iterable = validator(remember)(environ, start_response)
        kind = type(returned[0])
        if kind is list or kind is tuple:
            with contextlib.closing(iterable):
                return kind(iterable)
        return iterable

    return checked


def start_engine(
    app: Callable[..., Any],
    listener: socket.socket | None = None,
    *,
    valid: bool = True,
    **options: Any,
) -> Engine:
    """An engine for `app`; `timeouts_header=0.5` sets one option of Settings.

    wsgiref's validator stands between the two, and what it objects to fails the test when the
    engine is closed. `valid=False` leaves it out: for an application that breaks or bypasses PEP
    3333 on purpose, or does what the validator forbids and hides though PEP 3333 allows it."""
    settings = Settings(threads=options.pop("threads", 1))
    for key, value in options.items():
        section, _, name = key.partition("_")
        settings = replace(
            settings, **{section: replace(getattr(settings, section), **{name: value})}
        )
    if listener is None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    if settings.app.interface == "asgi":
        return TaskEngine(app, listener, settings)
    return Engine(validated(app) if valid else app, listener, settings)


Serve = Callable[..., Engine]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that serves does so with the application in the loop's thread and in a pool;
    those that are marked with `tasks` also in the tasks of an event loop."""
    chosen = [m.args[0] for m in metafunc.definition.iter_markers("parametrize")]
    if "serve" in metafunc.fixturenames and "serve" not in chosen:
        ways = ["inline", "threads"]
        if metafunc.definition.get_closest_marker("tasks"):
            ways.append("tasks")
        metafunc.parametrize("serve", ways, indirect=True)


@pytest.fixture
def serve(tmp_path, request) -> Iterator[Serve]:
    engines: list[Engine] = []

    def start(app: Callable[..., Any], *, unix: bool = False, **options: Any) -> Engine:
        listener = None
        if unix:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / f"{len(engines)}.sock"))
            listener.listen(128)
        if request.param == "tasks":
            app, options["app_interface"] = as_asgi(app), "asgi"
        else:
            options.setdefault("threads", 4 if request.param == "threads" else 1)
        engines.append(start_engine(app, listener, **options))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()
