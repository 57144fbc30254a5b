"""WebSocket frames as a client makes them, and the engine fed with them in pieces."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sockd.http.handshake import Deflate
from sockd.http.websocket import Closed, Event, Ping, WebSocket

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
MASK = b"\x01\x80\xff\x37"
TAIL = b"\x00\x00\xff\xff"


def frame(
    opcode: int, payload: bytes = b"", bits: int = FIN, *, mask: bytes = MASK, form: int = 0
) -> bytes:
    """`form`: bytes of the extended length, 2 or 8, if not the shortest; `mask` b"" for none."""
    size = len(payload)
    form = form or (0 if size < 126 else 2 if size < 65536 else 8)
    short = {0: size, 2: 126, 8: 127}[form]
    head = bytes([bits | opcode, (0x80 if mask else 0) | short])
    head += size.to_bytes(form, "big") if form else b""
    return head + mask + (masked(payload, mask) if mask else payload)


def masked(payload: bytes, mask: bytes) -> bytes:
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(key), "big")


def answer(opcode: int, payload: bytes, bits: int = FIN) -> bytes:
    """A frame as a server makes it."""
    return frame(opcode, payload, bits, mask=b"")


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def deflated(data: bytes, bits: int = 15) -> bytes:
    """A message of its own, compressed (RFC 7692 7.2.1)."""
    deflater = zlib.compressobj(wbits=-bits)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


@dataclass
class Outcome:
    events: list[Event]
    sent: bytes


def read(
    data: bytes, cuts: Iterable[int] = (), *, websocket: WebSocket | None = None,
    limit: int = 1 << 20, deflate: Deflate | None = None,
) -> Outcome:  # fmt: skip
    """What the engine says of `data` when it comes in pieces that end at `cuts`."""
    websocket = websocket or WebSocket(limit=limit, deflate=deflate)
    events: list[Event] = []
    start = 0
    for end in (*sorted(cuts), len(data)):
        piece, at = data[start:end], 0
        while at < len(piece):
            event, at = websocket.receive(piece, at)
            if event is not None:
                events.append(event)
            else:
                assert at == len(piece)
        start = end
    assert any(isinstance(event, Closed) for event in events) == websocket.over
    return Outcome(events, websocket.take())


def splits(frames: Sequence[bytes]) -> dict[str, list[int]]:
    """How the bytes of `frames` may come: where they are cut."""
    size, boundaries = 0, []
    for one in frames:
        size += len(one)
        boundaries.append(size)
    step = max(1, size // 2000)
    return {
        "whole": [],
        "byte by byte": list(range(0, size, step)),
        "frame by frame": boundaries,
        "before each boundary": [end - 1 for end in boundaries],
    }


def answers(events: Iterable[Event]) -> bytes:
    """What is sent for `events` by itself."""
    sent = b""
    for event in events:
        if isinstance(event, Ping):
            sent += answer(PONG, event.data)
        elif isinstance(event, Closed):
            payload = b""
            if event.code != 1005:
                payload = event.code.to_bytes(2, "big") + event.reason.encode()
            sent += answer(CLOSE, payload)
    return sent


def frames_of(sent: bytes) -> list[tuple[int, int, bytes]]:
    """The server's frames: bits, opcode, payload."""
    frames, at = [], 0
    while at < len(sent):
        bits, opcode, size = sent[at] & 0xF0, sent[at] & 0x0F, sent[at + 1]
        at += 2
        assert size < 128, "a server masks nothing (RFC 6455 5.1)"
        if size >= 126:
            form = 2 if size == 126 else 8
            size = int.from_bytes(sent[at : at + form], "big")
            at += form
            assert size > (125 if form == 2 else 65535), "not the shortest form (RFC 6455 5.2)"
        assert at + size <= len(sent)
        frames.append((bits, opcode, sent[at : at + size]))
        at += size
    return frames
