"""The lifespan of an ASGI application (ASGI Lifespan 2.0): its startup before the worker is ready,
its shutdown after the last request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sockd import journal, loader
from sockd.errors import AppError

Message = dict[str, Any]


class Lifespan:
    """`mode` is `app.lifespan`. `state` is what the application keeps for its requests, None where
    it has no lifespan."""

    def __init__(self, app: Callable[..., Awaitable[object]], mode: str) -> None:
        self._app = app
        self._mode = mode
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._answered = asyncio.Event()
        self._answer: Message = {}
        self._error: BaseException | None = None
        self._heard = False
        self._task: asyncio.Task[None] | None = None
        self.state: dict[str, Any] | None = None

    async def startup(self) -> None:
        """AppError when the application says that it failed, or has no lifespan and must."""
        if self._mode == "off":
            return
        self.state = {}
        self._task = asyncio.create_task(self._run(self.state), name="lifespan")
        await self._ask("startup")
        if self._answer.get("type") == "lifespan.startup.complete":
            return
        if self._answer:
            raise _failure("startup", self._answer)
        if self._mode == "on":
            if self._error is None:
                raise AppError("lifespan: the application returned without an answer to startup")
            raise AppError(
                f"lifespan: the application {loader.verb(self._error, 'raised')}",
                detail=loader.describe(self._error),
            )
        # "If an exception is raised, the server must continue", as the protocol has it.
        self.state = None
        if self._error is not None and self._heard:
            journal.log(
                journal.WARNING,
                f"lifespan: the application {loader.verb(self._error, 'raised')} at startup; "
                'it is taken to have no lifespan (app.lifespan = "on" fails instead)',
            )

    async def shutdown(self) -> None:
        if self.state is None or self._task is None or self._task.done():
            return
        await self._ask("shutdown")
        if self._error is not None:
            detail = loader.describe(self._error)
            journal.log(journal.ERR, f"lifespan: shutdown failed\n{detail}".rstrip())
        elif self._answer and self._answer.get("type") != "lifespan.shutdown.complete":
            failure = _failure("shutdown", self._answer)
            journal.log(journal.ERR, f"{failure}\n{failure.detail}".rstrip())

    async def _ask(self, what: str) -> None:
        """Put the question, and wait for the answer or the end of the task."""
        self._answer = {}
        self._answered.clear()
        self._asked.put_nowait({"type": f"lifespan.{what}"})
        await self._answered.wait()

    async def _run(self, state: dict[str, Any]) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = error
        finally:
            self._answered.set()

    async def _receive(self) -> Message:
        message = await self._asked.get()
        self._heard = True
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if not kind.startswith("lifespan."):
            raise RuntimeError(f"{kind} is no message of a lifespan")
        self._answer = message
        self._answered.set()


def _failure(what: str, answer: Message) -> AppError:
    text = str(answer.get("message", "")).strip()
    last = text.splitlines()[-1] if text else "without a word"
    return AppError(f"lifespan: {what} failed: {last[: loader.MESSAGE_LIMIT]}", detail=text)
