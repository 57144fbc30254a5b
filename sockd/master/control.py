"""The control socket: HTTP/1.1 with JSON, for `sockd status`, `reload`, `stop` and curl; and the
listeners named `status` and `metrics`, if systemd passes such.

One request a connection. Everything is bounded and non-blocking: a slow, silent or hostile client
costs the master a descriptor for PATIENCE seconds and nothing else. Who may speak is decided by
the peer's credentials (SO_PEERCRED, unix(7)): root, and the user that the service runs as.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from sockd.activation import Listener, bind_unix
from sockd.http import parser
from sockd.http.parser import RequestHead
from sockd.master.inheritance import Asked, ControlSocket

LARGEST = 8192  # bytes of a request
MOST_CLIENTS = 32
BACKLOG = 64
PATIENCE = 5.0  # seconds for a client to send its request or to take its answer

Selector = selectors.BaseSelector


class Refused(Exception):
    """A request that gets no more than a status and a sentence."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def socket_path(name: str, environ: dict[str, str] | os._Environ[str] = os.environ) -> Path | None:
    """Where the control socket of the service `name` belongs; None when there is no such place.

    $RUNTIME_DIRECTORY under systemd, else /run/sockd/NAME for root, else below $XDG_RUNTIME_DIR.
    """
    if environ.get("RUNTIME_DIRECTORY"):
        return Path(environ["RUNTIME_DIRECTORY"].split(":")[0]) / "control.sock"
    if os.geteuid() == 0:
        return Path("/run/sockd") / name / "control.sock"
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "sockd" / name / "control.sock"
    return None


Answer = Callable[["Client", str, str, Any], None]


class Control:
    """Accepts clients, and calls `answer(client, method, path, body)` for each whole request.

    `answer` calls `client.reply(status, content)`, at once or later; it may raise Refused.
    """

    def __init__(
        self, listener: Listener, selector: Selector, answer: Answer, *, open_to_all: bool = False
    ) -> None:
        """`open_to_all`: whoever can connect may ask."""
        self.listener = listener
        self.open_to_all = open_to_all
        self._made: Path | None = None
        self.selector = selector
        self.answer = answer
        self.clients: set[Client] = set()
        self.closing = False
        self.listener.socket.setblocking(False)
        self.accepting = False
        self._listen(True)

    def state(self) -> ControlSocket:
        assert self.listener.inode
        return ControlSocket(
            self.listener.socket.fileno(),
            self.listener.address,
            self.listener.inode,
            str(self._made) if self._made else None,
            [client.state() for client in self.clients],
        )

    @classmethod
    def at(cls, path: Path, selector: Selector, answer: Answer) -> Control:
        """At a path that is made for it. BindError, PermissionDenied."""
        made: Path | None = None
        with contextlib.suppress(OSError):  # binding says what is wrong
            if not path.parent.is_dir():
                path.parent.mkdir(mode=0o755, parents=True)
                made = path.parent
        control = cls(bind_unix(str(path), backlog=BACKLOG, umask=0o177), selector, answer)
        control._made = made
        return control

    @classmethod
    def inherited(cls, state: ControlSocket, selector: Selector, answer: Answer) -> Control:
        """The one that an earlier master in this process has made, with its clients."""
        device, number = state.inode
        sock = socket.socket(fileno=state.fd)
        name = Path(state.path).stem
        control = cls(Listener(name, sock, state.path, (device, number)), selector, answer)
        control._made = Path(state.made) if state.made else None
        control.clients |= {Client.inherited(client, control) for client in state.clients}
        return control

    def _listen(self, on: bool) -> None:
        if on and not self.accepting:
            self.selector.register(self.listener.socket, selectors.EVENT_READ, self._accept)
        elif self.accepting and not on:
            self.selector.unregister(self.listener.socket)
        self.accepting = on

    def _accept(self) -> None:
        """Those beyond MOST_CLIENTS wait in the backlog."""
        while len(self.clients) < MOST_CLIENTS:
            try:
                sock, _ = self.listener.socket.accept()
            except OSError:
                return
            self.clients.add(Client(sock, self))
        self._listen(False)

    def forget(self, client: Client) -> None:
        self.clients.discard(client)
        if not self.closing:
            self._listen(True)

    def turn(self, now: float) -> float | None:
        """Drop clients that were too slow; when the next one will have been."""
        for client in [c for c in self.clients if c.deadline is not None and c.deadline <= now]:
            client.close()
        return min((c.deadline for c in self.clients if c.deadline is not None), default=None)

    def close(self) -> None:
        self.closing = True
        for client in list(self.clients):
            client.finish()
        self._listen(False)
        self.listener.close()
        if self._made:
            with contextlib.suppress(OSError):
                self._made.rmdir()


class Client:
    """One connection to the control socket: reading, then waiting for its answer, then writing."""

    def __init__(self, sock: socket.socket, control: Control) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.control = control
        self.received = bytearray()
        self.to_send = b""
        self.asked = False
        self.upgrading = False  # it waits for the answer of the master to come
        self.asked_of = ""  # the version of the master before, if it asked that one
        self.deadline: float | None = time.monotonic() + PATIENCE
        self._watch(selectors.EVENT_READ)

    @classmethod
    def inherited(cls, state: Asked, control: Control) -> Self:
        self = cls(socket.socket(fileno=state.fd), control)
        self.received += state.received.encode("latin-1")
        self.to_send = state.to_send.encode("latin-1")
        self.asked, self.upgrading = state.asked, state.upgrading
        if self.to_send:
            self._watch(selectors.EVENT_WRITE)
        elif self.asked:
            self.deadline = None
        return self

    def state(self) -> Asked:
        return Asked(
            self.socket.fileno(),
            self.received.decode("latin-1"),
            self.to_send.decode("latin-1"),
            self.asked,
            self.upgrading,
        )

    def _watch(self, events: int) -> None:
        selector = self.control.selector
        if self.socket in selector.get_map():
            selector.modify(self.socket, events, self._turn)
        else:
            selector.register(self.socket, events, self._turn)

    def _turn(self) -> None:
        if self.to_send:
            self._write()
        else:
            self._read()

    def _read(self) -> None:
        try:
            data = self.socket.recv(LARGEST + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()  # what it asked for goes on
            return
        if self.asked:
            return
        self.received += data
        try:
            if self._allowed() and (request := parse(bytes(self.received))):
                self.asked = True
                self.deadline = None
                self.control.answer(self, *request)
        except Refused as refusal:
            self.reply(refusal.status, {"ok": False, "error": str(refusal)})

    def _allowed(self) -> bool:
        if self.control.open_to_all:
            return True
        size = struct.calcsize("3i")
        credentials = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        _, uid, _ = struct.unpack("3i", credentials)
        if uid not in (0, os.geteuid()):
            raise Refused(HTTPStatus.FORBIDDEN, "only root and the service's user may ask")
        return True

    def reply(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        """Answer with JSON."""
        self.send(status, "application/json", json.dumps(content) + "\n")

    def send(self, status: HTTPStatus, content_type: str, text: str) -> None:
        """Answer and close. A client that has gone away is no error."""
        if self.socket.fileno() < 0:
            return
        self.asked = True
        body = text.encode("utf-8", "backslashreplace")
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            "Connection: close\r\n\r\n"
        )
        self.to_send = head.encode() + body
        self.deadline = time.monotonic() + PATIENCE
        self._write()

    def _write(self) -> None:
        try:
            sent = self.socket.send(self.to_send, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self.to_send = self.to_send[sent:]
        if self.to_send:
            self._watch(selectors.EVENT_WRITE)
        else:
            self.close()

    def finish(self) -> None:
        """The master ends: what is still to be sent gets PATIENCE, without more than that."""
        if self.to_send:
            with contextlib.suppress(OSError):
                self.socket.settimeout(PATIENCE)
                self.socket.sendall(self.to_send)
        self.close()

    def close(self) -> None:
        if self.socket.fileno() >= 0:
            self.control.selector.unregister(self.socket)
            self.socket.close()
        self.control.forget(self)


def parse(data: bytes) -> tuple[str, str, Any] | None:
    """Method, path and JSON body of a whole request; None while it is incomplete. Refused."""
    head = RequestHead(head=LARGEST)
    try:
        size = head.feed(data)
    except parser.Refused as refusal:
        raise Refused(HTTPStatus(refusal.status), str(refusal)) from None
    if head.chunked:
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "give the length of the body")
    length = max(head.content_length, 0)
    if size + length > LARGEST:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large")
    if not size or len(data) < size + length:
        return None
    try:
        body = json.loads(data[size : size + length]) if length else {}
    except (ValueError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is no JSON") from None
    return head.method.decode(), head.path.decode(), body
