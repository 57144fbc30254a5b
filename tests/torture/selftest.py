"""A server that is honest but for one fault: what the client has to see, or its silence says
nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

from .client import Plan, Run
from .ledger import Rules
from .wire import filling, receipt

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends a RST (socket(7))


class Server:
    """Answers as the application does; to its `at`-th request it does `fault` instead. `behind`,
    which needs a request that was sent at once with another, is tried until there is one."""

    def __init__(self, executed: Path, fault: str, at: int = 50) -> None:
        self.executed = executed
        self.fault = fault
        self.left = at
        self.done = False
        self.talks: list[asyncio.Task[None]] = []
        executed.write_text("")

    def note(self, ident: str) -> None:
        with self.executed.open("a") as file:
            file.write(f"{ident}\n")

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.talks.append(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        method, target, _ = first.split()
        fields = dict(line.split(": ") for line in lines)
        if "Expect" in fields:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._body(reader, fields)
        ident = fields["X-Id"]
        self.left -= 1
        fault = self.fault if self.left <= 0 and not self.done else ""
        self.done = self.left <= 0 and fault != "behind"
        self.note(ident)
        if fault == "twice":
            self.note(ident)
        if fault == "reset":
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return False
        if fault == "cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234")
            return False
        if fault == "silent end":
            return False
        answer = receipt(ident, body) if method == "POST" else filling(ident, int(target[1:]))
        if fault == "body":
            answer = bytes([answer[0] ^ 1]) + answer[1:]
        if fault == "another":
            ident += "0"
        closing = "Connection" in fields
        said = closing or fault in ("announced", "behind")
        last = "Connection: close\r\n" if said else ""
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nX-Id: {ident}\r\n{last}\r\n"
        writer.write(head.encode() + answer)
        if fault == "unasked":
            writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        if fault == "behind":
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.note(head.partition("X-Id: ")[2].split()[0])
            self.done = True
        await writer.drain()
        return not said and fault != "idle end"

    async def _body(self, reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
        if "Content-Length" in fields:
            return await reader.readexactly(int(fields["Content-Length"]))
        body = b""
        while "Transfer-Encoding" in fields:
            size = int(await reader.readline(), 16)
            piece = (await reader.readexactly(size + 2))[:-2]
            if not size:
                break
            body += piece
        return body


def tried(
    directory: Path,
    fault: str,
    kinds: str,
    rules: Rules | None = None,
) -> Run:
    """A run against a server with this fault, from before it until some requests after it."""
    server = Server(directory / "executed", fault)

    async def both() -> Run:
        listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        clients = [(kind, 3, f"http://127.0.0.1:{port}/") for kind in kinds.split()]
        plan = Plan(clients, 1, think=0.01, rules=rules or Rules(), executed=str(server.executed))
        run = Run(plan)
        asking = asyncio.create_task(run.run())
        while not server.done and not asking.done():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        run.finish()
        await asking
        await asyncio.gather(*server.talks)
        listening.close()
        return run

    return asyncio.run(both())


SEEN = {"reset": "1 requests failed", "twice": "1 executed too often", "": ""}
"""What a verdict begins with when the server has this fault."""


def check(directory: Path) -> None:
    """AssertionError when the client is blind."""
    for fault, start in SEEN.items():
        wrong = tried(directory, fault, "close keep post").report()["wrong"]
        assert isinstance(wrong, list)
        assert len(wrong) == bool(fault), (fault, wrong)
        assert "".join(wrong).startswith(start), (fault, wrong)
