"""How a worker calls its application: WSGI from the connection loop, ASGI in the tasks of an event
loop that the connection loop is a guest of."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import select
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sockd.board import Board
from sockd.errors import AppError
from sockd.http.guest import Guest
from sockd.http.loop import Loop
from sockd.settings import Settings
from sockd.worker.application import Application
from sockd.worker.asgi import ASGIHandler
from sockd.worker.lifespan import Lifespan
from sockd.worker.wsgi import WSGIHandler

if TYPE_CHECKING:
    from sockd.http.loop import Report

LINGERS = 1.0  # seconds that cancelled tasks are given to end


class Convention(Protocol):
    """Its methods are called in this order, `loop` and `run` once for each loop of connections."""

    def start(self) -> None:
        """What the application does before its first request. AppError."""

    def loop(
        self,
        listeners: Sequence[Any],
        settings: Settings,
        board: Board,
        slot: int,
        report: Report | None,
    ) -> Loop: ...

    def wait(self, descriptors: Sequence[int], enough: Callable[[], bool]) -> None:
        """Call `enough` now and whenever one of `descriptors` is readable, until it is true."""

    def run(self, loop: Any) -> None:
        """Serve until `loop` was stopped or has drained."""

    def stop(self) -> None:
        """What the application does after its last request."""


class WSGI:
    def __init__(self, app: Application) -> None:
        self._app = app

    def start(self) -> None:
        pass

    def loop(
        self,
        listeners: Sequence[Any],
        settings: Settings,
        board: Board,
        slot: int,
        report: Report | None,
    ) -> Loop:
        handler = WSGIHandler(self._app.callable, settings, report=report)
        return Loop(handler, listeners, settings, board, slot)

    def wait(self, descriptors: Sequence[int], enough: Callable[[], bool]) -> None:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        while not enough():
            poll.poll()

    def run(self, loop: Loop) -> None:
        loop.run()

    def stop(self) -> None:
        pass


class ASGI:
    def __init__(self, app: Application, settings: Settings) -> None:
        self._app = app
        self._host = _event_loop(settings.server.loop)
        asyncio.set_event_loop(self._host)
        self._lifespan = Lifespan(app.callable, settings.app.lifespan)
        self._handlers: list[ASGIHandler] = []

    def start(self) -> None:
        self._host.run_until_complete(self._lifespan.startup())

    def loop(
        self,
        listeners: Sequence[Any],
        settings: Settings,
        board: Board,
        slot: int,
        report: Report | None,
    ) -> Loop:
        handler = ASGIHandler(self._app.callable, settings, host=self._host, report=report)
        handler.state = self._lifespan.state
        self._handlers.append(handler)
        return Guest(handler, listeners, settings, board, slot)

    def wait(self, descriptors: Sequence[int], enough: Callable[[], bool]) -> None:
        done = self._host.create_future()

        def look() -> None:
            if not done.done() and enough():
                done.set_result(None)

        for descriptor in descriptors:
            self._host.add_reader(descriptor, look)
        self._host.call_soon(look)
        self._host.run_until_complete(done)
        for descriptor in descriptors:
            self._host.remove_reader(descriptor)

    def run(self, loop: Guest) -> None:
        self._host.run_until_complete(self._serve(loop))

    async def _serve(self, loop: Guest) -> None:
        loop.attach(self._host)
        try:
            await loop.ended
        finally:
            loop.detach()

    def stop(self) -> None:
        self._host.run_until_complete(self._finish())
        self._host.close()

    async def _finish(self) -> None:
        cut = [task for handler in self._handlers for task in handler.cancel()]
        if cut:
            await asyncio.wait(cut, timeout=LINGERS)
        await self._lifespan.shutdown()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=LINGERS)
        await self._host.shutdown_asyncgens()


def _event_loop(wish: str) -> asyncio.AbstractEventLoop:
    """`server.loop`."""
    if wish != "asyncio":
        with contextlib.suppress(ImportError):
            return importlib.import_module("uvloop").new_event_loop()  # type: ignore[no-any-return]
        if wish == "uvloop":
            raise AppError(
                'server.loop = "uvloop": the environment of the application has no uvloop'
            )
    return asyncio.new_event_loop()


def of(app: Application, settings: Settings) -> Convention:
    return ASGI(app, settings) if app.interface == "asgi" else WSGI(app)
