from typing import NamedTuple

from sockd.http.handshake import Deflate

FAILURES: tuple[tuple[str, int, str, str], ...]
"""Name, close code, reason and rule of each failure; the first is none."""

NO_CODE: int
NO_CLOSE: int

class Ping(NamedTuple):
    data: bytes

class Pong(NamedTuple):
    data: bytes

class Closed(NamedTuple):
    code: int
    reason: str
    failed: bool

Event = str | bytes | Ping | Pong | Closed

class WebSocket:
    close_sent: bool
    over: bool
    def __init__(self, *, limit: int = 1 << 24, deflate: Deflate | None = None) -> None: ...
    def receive(
        self, data: bytes | bytearray | memoryview, start: int = 0
    ) -> tuple[Event | None, int]: ...
    def eof(self) -> Closed | None: ...
    def send(self, message: str | bytes | bytearray | memoryview) -> None: ...
    def ping(self, data: bytes = b"") -> None: ...
    def close(self, code: int = 1000, reason: str = "") -> None: ...
    def take(self) -> bytes: ...
