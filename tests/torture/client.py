"""The kinds of clients, and a run of many of them.

    python3 -m torture [OPTIONS] KIND:COUNT@URL...
    python3 -m torture --self-test

    close   a connection for each request, GET and POST
    keep    GET on a connection that is kept
    post    POST on a connection that is kept: plain, chunked, or waiting for 100 Continue
    drip    as `keep` and `post`, byte by byte, 10 ms apart
    pipe    two to six requests at once on a connection that is kept
    idle    a request, then silence for one to three seconds
    sleep   requests that the application takes 10 s for
    child   requests whose child process takes 3 s

URL is http://HOST:PORT/ or unix:PATH; in plain runs http://HOST:PORT/TARGET or unix:PATH?/TARGET.
It runs for --seconds, or until its standard input ends, and
prints one JSON object: `report()`. --executed names the file of the application that counts; with
--plain any 200 is right, and the texts that were answered are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from .connection import WITHDRAWN, Asked, Connection
from .ledger import ANSWERED, Ledger, Rules
from .wire import Request, Response, filling, receipt

PATIENCE = 60.0  # seconds; what is not answered then never will be
BYTE_APART = 0.01  # seconds
LARGEST = 1 << 17
SLEEP, CHILD = 10.0, 3.0  # seconds that the application takes


@dataclass(frozen=True)
class Plan:
    """Who asks: `clients` are (kind, how many, URL). `think`: seconds from one answer to the next
    request, on the average."""

    clients: list[tuple[str, int, str]]
    seed: int = 0
    plain: bool = False
    think: float = 0.05
    rules: Rules = field(default_factory=Rules)
    executed: str = ""


class Run:
    """Clients that ask until `finish()` is called, from any thread."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ledger = Ledger(secrets.token_hex(3))
        self.answers: list[tuple[float, str]] = []  # when it was asked, text; of plain runs
        self.connections: set[Connection] = set()
        self._done = threading.Event()

    def finish(self) -> None:
        self._done.set()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """In a thread, for as long as the block lasts."""
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(lambda: asyncio.run(self.run()))
            try:
                yield
            finally:
                self.finish()
                running.result()

    async def run(self, seconds: float | None = None) -> None:
        until = None if seconds is None else time.monotonic() + seconds
        clients = [
            Client(self, kind, url, random.Random(f"{self.plan.seed} {kind} {number}"))
            for kind, count, url in self.plan.clients
            for number in range(count)
        ]
        tasks = [asyncio.create_task(client.run()) for client in clients]
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=0.05)
            if until and time.monotonic() >= until:
                self.finish()
            self._give_up_the_late()
        for task in tasks:
            task.result()

    def _give_up_the_late(self) -> None:
        late = time.monotonic() - PATIENCE
        for connection in list(self.connections):
            if connection.pending and connection.pending[0].sent < late:
                connection.give_up(f"no answer within {PATIENCE:.0f} s")

    def report(self) -> dict[str, object]:
        """JSON: counts, the verdict, the longest wait in seconds by kind, and of plain runs how
        often which text was answered, and which to the request that was asked last."""
        ledger, plan = self.ledger, self.plan
        executed = Path(plan.executed).read_text().split() if plan.executed else None
        return {
            "requests": len(ledger.fates),
            "answered": ledger.count(ANSWERED),
            "connections": ledger.connections,
            "announced": ledger.announced,
            "longest": max(ledger.longest.values(), default=0.0),
            "longest_by_kind": ledger.longest,
            "wrong": ledger.verdict(plan.rules, executed),
            "answers": Counter(text for _, text in self.answers),
            "last": max(self.answers, default=(0.0, ""))[1],
            "seed": plan.seed,
            "rules": asdict(plan.rules),
        }


class Client:
    def __init__(self, run: Run, kind: str, url: str, random_: random.Random) -> None:
        self.owner = run
        self.ledger = run.ledger
        self.kind = kind
        self.random = random_
        self.parts = parts = urlsplit(url)
        whole = parts.query if parts.scheme == "unix" else f"{parts.path}?{parts.query}"
        self.target = whole.strip("?").removeprefix("/")  # of plain runs
        self.turn: Callable[[], Awaitable[None]] = getattr(self, f"_{kind}")
        self.connection: Connection | None = None

    async def run(self) -> None:
        while not self.owner.done:
            await self.turn()
            if think := self.owner.plan.think:
                await asyncio.sleep(self.random.uniform(0, 2 * think))
            elif self.connection is None or self.connection.over:
                await asyncio.sleep(0)  # what answers at once leaves others no turn
        if self.connection:
            await self.connection.leave()

    # The kinds

    async def _close(self) -> None:
        await self._ask(self._any(closing=True))

    async def _keep(self) -> None:
        await self._ask(self._get())

    async def _post(self) -> None:
        await self._ask(self._upload())

    async def _pipe(self) -> None:
        requests = [self._any() for _ in range(self.random.randint(2, 6))]
        connection = await self._connected(requests)
        if connection is None:
            return
        asked = [connection.add(request) for request in requests]
        data = b"".join(request.head() + request.content() for request in requests)
        # In two writes, cut anywhere.
        cut = self.random.randrange(len(data))
        connection.transport.write(data[:cut])
        await asyncio.sleep(0)
        connection.transport.write(data[cut:])
        for one in asked:
            await self._judge(one)

    async def _drip(self) -> None:
        request = self._any(small=True)
        connection = await self._connected([request])
        if connection is None:
            return
        asked = connection.add(request)
        for byte in request.head() + request.content():
            if asked.outcome.done():
                break
            connection.transport.write(bytes([byte]))
            asked.sent = time.monotonic()
            await asyncio.sleep(BYTE_APART)
        await self._judge(asked)

    async def _idle(self) -> None:
        await self._ask(self._get())
        until = time.monotonic() + self.random.uniform(1, 3)
        while not self.owner.done and time.monotonic() < until:
            await asyncio.sleep(0.1)

    async def _sleep(self) -> None:
        await self._ask(self._request(f"sleep/{SLEEP}", None))

    async def _child(self) -> None:
        await self._ask(self._request(f"child/{CHILD}", None))

    # Requests

    def _any(self, closing: bool = False, small: bool = False) -> Request:
        post = self.random.random() < 0.5 and not self.owner.plan.plain
        return self._upload(closing, small) if post else self._get(closing, small)

    def _size(self, small: bool) -> int:
        """Mostly small, sometimes many times what a socket's buffer takes at once."""
        return int(self.random.randint(1, 20 if small else LARGEST) ** self.random.random())

    def _get(self, closing: bool = False, small: bool = False) -> Request:
        size = self._size(small)
        return self._request(str(size), None, closing=closing, size=size)

    def _upload(self, closing: bool = False, small: bool = False) -> Request:
        size, form = self._size(small), self.random.random()
        return self._request("", size, closing, chunked=form < 0.3, waits=form > 0.8 and not small)

    def _request(
        self,
        target: str,
        body: int | None,
        closing: bool = False,
        chunked: bool = False,
        waits: bool = False,
        size: int | None = None,
    ) -> Request:
        """`body`: its size, None for a GET; `size`: the answer's, None for any answer."""
        ident = self.ledger.ask()
        content = None if body is None else filling(ident, body)
        expected = None if size is None else filling(ident, size)
        if content is not None:
            expected = receipt(ident, content)
        if self.owner.plan.plain:
            target, expected = self.target, None
        host = self.parts.netloc or "localhost"
        return Request(f"/{target}", host, ident, content, chunked, closing, waits, expected)

    # Asking

    async def _ask(self, request: Request) -> None:
        connection = await self._connected([request])
        if connection is None:
            return
        if not request.waits:
            asked = connection.send(request)
        else:
            asked = connection.add(request)
            connection.transport.write(request.head())
            await asked.go_on.wait()
            if not asked.outcome.done():
                connection.transport.write(request.content())
        await self._judge(asked)

    async def _connected(self, requests: list[Request]) -> Connection | None:
        """None, and `requests` failed, when no connection is to be had."""
        if self.connection and not self.connection.over:
            return self.connection
        if self.connection:
            await self.connection.leave()
            self.owner.connections.discard(self.connection)
            self.connection = None
        loop = asyncio.get_running_loop()
        make = lambda: Connection(self.ledger)  # noqa: E731
        try:
            if self.parts.scheme == "unix":
                opening = loop.create_unix_connection(make, self.parts.path)
            else:
                host, port = self.parts.hostname or "", self.parts.port or 80
                opening = loop.create_connection(make, host, port)
            _, connection = await asyncio.wait_for(opening, PATIENCE)
        except (OSError, TimeoutError) as error:
            for request in requests:
                self.ledger.failed(request.ident, self._what(f"no connection: {error!r}"))
            await asyncio.sleep(0.01)
            return None
        self.connection = connection
        self.owner.connections.add(connection)
        return connection

    async def _judge(self, asked: Asked) -> None:
        outcome, request = await asked.outcome, asked.request
        waited = time.monotonic() - asked.sent
        if outcome == WITHDRAWN:
            self.ledger.withdrawn(request.ident)
        elif isinstance(outcome, str):
            self.ledger.failed(request.ident, self._what(f"{outcome} after {waited:.3f} s"))
        elif why := self._wrong(request, outcome):
            self.ledger.failed(request.ident, self._what(why))
        else:
            self.ledger.answered(request.ident, self.kind, waited)
            if self.owner.plan.plain:
                text = outcome.body[:100].decode("utf-8", "replace").strip()
                self.owner.answers.append((asked.sent, text))

    def _wrong(self, request: Request, response: Response) -> str:
        if response.status != 200:
            return f"{response.status} {response.body[:200]!r}"
        if request.expected is not None and response.body != request.expected:
            return f"another body: {len(response.body)} bytes, {response.body[:80]!r}"
        named = response.fields.get("x-id")
        if not self.owner.plan.plain and named != request.ident:
            return f"the answer of {named}"
        if request.closing and not response.closing:
            return "it does not say that it closes, as was asked"
        return ""

    def _what(self, why: str) -> str:
        return f"{time.strftime('%T')} {self.kind}: {why}"


def parsed(text: str) -> tuple[str, int, str]:
    who, _, url = text.partition("@")
    kind, _, count = who.partition(":")
    return kind, int(count or 1), url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clients", nargs="+", type=parsed)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--think", type=float, default=Plan.think)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--executed", default="")
    parser.add_argument("--may-close", action="store_true")
    parser.add_argument("--longest", type=float, default=0.0)
    asked = parser.parse_args()
    rules = Rules(asked.may_close, asked.longest)
    run = Run(Plan(asked.clients, asked.seed, asked.plain, asked.think, rules, asked.executed))
    if asked.seconds is None:
        threading.Thread(target=_wait_for_the_end, args=(run,), daemon=True).start()
    asyncio.run(run.run(asked.seconds))
    print(json.dumps(run.report()))


def _wait_for_the_end(run: Run) -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    run.finish()
