"""One connection, whose every end is told to the ledger as what it is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from .ledger import Ledger
from .wire import Request, Response, Responses


@dataclass
class Asked:
    """A request on its way; `sent` is when its last byte was given to the kernel's buffer. The
    outcome is its response, or why there is none."""

    request: Request
    outcome: asyncio.Future[Response | str]
    sent: float = field(default_factory=time.monotonic)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


WITHDRAWN = "withdrawn"


class Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.pending: deque[Asked] = deque()
        self.over = False  # nothing more may be asked on it
        self._left = False  # by us
        self._lost = asyncio.Event()
        self._responses = Responses()
        ledger.connections += 1

    def add(self, request: Request) -> Asked:
        """A request whose bytes the caller is about to write."""
        assert not self.over
        asked = Asked(request, asyncio.get_running_loop().create_future())
        self.pending.append(asked)
        return asked

    def send(self, request: Request) -> Asked:
        asked = self.add(request)
        self.transport.write(request.head() + request.content())
        return asked

    async def leave(self) -> None:
        """Close an idle connection, or what is left of one that is over."""
        self._left = self.over = True
        self.transport.abort()
        await self._lost.wait()

    def give_up(self, why: str) -> None:
        self._ended(why)
        self.transport.abort()

    # Of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for response in self._responses.feed(data):
                self._came(response)
        except ValueError as error:
            self.give_up(f"malformed: {error}")

    def eof_received(self) -> None:
        if response := self._responses.end():
            self._came(response)
        self._ended("EOF")

    def connection_lost(self, error: Exception | None) -> None:
        self._ended(repr(error) if error else "closed")
        self._lost.set()

    def _came(self, response: Response) -> None:
        if not self.pending:
            self.ledger.strays.append(f"{response.status} {response.body[:100]!r}")
            return
        self.pending[0].go_on.set()
        if response.status < 200:
            return
        asked = self.pending.popleft()
        if response.closing:
            self.over = True
            self.ledger.announced += not asked.request.closing
            self._withdraw()
        asked.outcome.set_result(response)

    def _withdraw(self) -> None:
        while self.pending:
            asked = self.pending.popleft()
            asked.go_on.set()
            asked.outcome.set_result(WITHDRAWN)

    def _ended(self, how: str) -> None:
        if self.over and not self.pending:
            return
        self.over = True
        if self.pending:
            within = " within the response" if self._responses.within else ""
            for asked in self.pending:
                asked.go_on.set()
                asked.outcome.set_result(how + within)
            self.pending.clear()
        elif not self._left:
            self.ledger.ends.append(how)
