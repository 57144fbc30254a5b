"""A worker's engine in a thread of the test: real sockets, a real loop, any WSGI application."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any
from wsgiref.validate import WSGIWarning, validator

import pytest

from sockd.board import Board
from sockd.http.loop import Loop
from sockd.settings import Settings
from sockd.worker.wsgi import WSGIHandler

DEADLINE = 20.0


class Engine:
    """A running loop. `reports` collects what it would have written to the journal."""

    def __init__(self, app: Callable[..., Any], listener: socket.socket, settings: Settings):
        self.reports: list[tuple[str, Any]] = []
        self.listener = listener
        self.threads = settings.threads
        self.board = Board.create(1)
        handler = WSGIHandler(
            app, settings, report=lambda text, exc, _: self.reports.append((text, exc))
        )
        self.loop = Loop(handler, [listener], settings, self.board, 0)
        self._wake_here, self._wake_there = socket.socketpair()
        self._orders: list[Callable[[], None]] = []
        self.loop.watch(self._wake_there.fileno(), self._obey)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

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
            with closing(iterable):
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
    return Engine(validated(app) if valid else app, listener, settings)


Serve = Callable[..., Engine]


@pytest.fixture(params=[1, 4], ids=["inline", "threads"])
def serve(tmp_path, request) -> Iterator[Serve]:
    """Every test that serves does so with the application in the loop's thread and in a pool."""
    engines: list[Engine] = []

    def start(app: Callable[..., Any], *, unix: bool = False, **options: Any) -> Engine:
        listener = None
        if unix:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / f"{len(engines)}.sock"))
            listener.listen(128)
        options.setdefault("threads", request.param)
        engines.append(start_engine(app, listener, **options))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()
