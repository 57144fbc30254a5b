"""Requests and responses as bytes (RFC 9112), without sockets. The application shares it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field


def filling(ident: str, size: int) -> bytes:
    """`size` bytes that no other request has."""
    unit = f"{ident}|".encode()
    return (unit * (size // len(unit) + 1))[:size]


def receipt(ident: str, body: bytes) -> bytes:
    """What the application answers to a body."""
    return f"{ident} {len(body)} {zlib.crc32(body)}".encode()


@dataclass(frozen=True)
class Request:
    """`body`: None for a GET. `expected`: the body of the only right answer, None for any."""

    target: str
    host: str
    ident: str
    body: bytes | None = None
    chunked: bool = False
    closing: bool = False
    waits: bool = False
    expected: bytes | None = None

    def head(self) -> bytes:
        lines = [f"{'GET' if self.body is None else 'POST'} {self.target} HTTP/1.1"]
        lines += [f"Host: {self.host}", f"X-Id: {self.ident}"]
        if self.body is not None:
            size = f"Content-Length: {len(self.body)}"
            lines.append("Transfer-Encoding: chunked" if self.chunked else size)
        if self.waits:
            lines.append("Expect: 100-continue")
        if self.closing:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "\r\n"]).encode()

    def content(self) -> bytes:
        """The body as it is sent."""
        if self.body is None or not self.chunked:
            return self.body or b""
        size = max(1, len(self.body) // 3)
        pieces = [self.body[at : at + size] for at in range(0, len(self.body), size)]
        return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in [*pieces, b""])


@dataclass(frozen=True)
class Response:
    status: int
    fields: dict[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""

    @property
    def closing(self) -> bool:
        """It says that no other follows on this connection."""
        return self.fields.get("connection", "").lower() == "close"


class Responses:
    """What comes on a connection, cut into responses."""

    def __init__(self) -> None:
        self._data = b""
        self._head: Response | None = None
        self._chunks: list[bytes] | None = None

    @property
    def within(self) -> bool:
        """A response has begun and is not complete."""
        return bool(self._data or self._head)

    def feed(self, data: bytes) -> list[Response]:
        """The responses that `data` completes. ValueError for what is none."""
        self._data += data
        found = []
        while response := self._next():
            found.append(response)
        return found

    def end(self) -> Response | None:
        """The response that the end of the connection completes."""
        head = self._head
        if head and "content-length" not in head.fields and self._chunks is None:
            self._head = None
            body, self._data = self._data, b""
            return Response(head.status, head.fields, body)
        return None

    def _next(self) -> Response | None:
        if self._head is None and not self._take_head():
            return None
        assert self._head
        body = self._body()
        if body is None:
            return None
        done = Response(self._head.status, self._head.fields, body)
        self._head = self._chunks = None
        return done

    def _take_head(self) -> bool:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = f"{first} ".split(" ", 2)
        if not version.startswith("HTTP/1."):
            raise ValueError(f"no status line: {first[:80]!r}")
        fields = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"no field line: {line[:80]!r}")
            fields[name.lower()] = value.strip()
        self._head, self._data = Response(int(status), fields), rest
        if fields.get("transfer-encoding") == "chunked":
            self._chunks = []
        return True

    def _body(self) -> bytes | None:
        """None while it is not complete."""
        assert self._head
        if self._head.status < 200 or self._head.status in (204, 304):
            return b""
        if self._chunks is not None:
            return self._chunked(self._chunks)
        length = self._head.fields.get("content-length")
        if length is None or len(self._data) < int(length):
            return None
        body, self._data = self._data[: int(length)], self._data[int(length) :]
        return body

    def _chunked(self, chunks: list[bytes]) -> bytes | None:
        while True:
            line, end, rest = self._data.partition(b"\r\n")
            if not end:
                return None
            size = int(line.split(b";")[0], 16)
            if len(rest) < size + 2:
                return None
            if rest[size : size + 2] != b"\r\n":
                raise ValueError(f"a chunk without an end: {rest[size : size + 80]!r}")
            self._data = rest[size + 2 :]
            if not size:
                return b"".join(chunks)
            chunks.append(rest[:size])
