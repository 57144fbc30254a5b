"""WebSocket conversations made by hypothesis: what a client says, and what can befall it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from frames import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TAIL, TEXT, frame
from hypothesis import strategies as st

from sockd.http.handshake import Deflate
from sockd.http.websocket import Closed, Ping, Pong


@dataclass(frozen=True)
class Conversation:
    frames: list[bytes]
    events: list[object]
    deflate: Deflate | None
    interrupted: bool
    """Whether a control frame comes within a compressed message."""

    @property
    def wire(self) -> bytes:
        return b"".join(self.frames)


MASKS = st.sampled_from([b"\x01\x02\x03\x04", bytes(4), b"\xff\x00\x80\x7f"])
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["", "a" * 125, "é" * 63, "€" * 200, "\U0001f600" * 40, "ab" * 40000]),
)
BYTES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\0" * 126, bytes(range(256)) * 3, b"\xff" * 65536, b"xyz" * 25000]),
)
CONTROLS = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=10))
CODES = st.sampled_from([1000, 1001, 1003, 1007, 1012, 3000, 4999])
AGREED = st.builds(
    Deflate,
    client_no_context_takeover=st.booleans(),
    client_max_window_bits=st.integers(9, 15),
)


@st.composite
def conversations(draw: st.DrawFn, *, compressed: bool = True) -> Conversation:
    deflate = draw(st.none() | AGREED) if compressed else None
    deflater = None
    interrupted = False
    frames: list[bytes] = []
    events: list[object] = []

    def controls() -> None:
        for opcode, payload in draw(st.lists(CONTROLS, max_size=2)):
            frames.append(frame(opcode, payload, mask=draw(MASKS)))
            events.append(Ping(payload) if opcode == PING else Pong(payload))

    for _ in range(draw(st.integers(0, 4))):
        controls()
        message = draw(TEXTS | BYTES)
        payload = message.encode() if isinstance(message, str) else message
        opcode, bits = TEXT if isinstance(message, str) else BINARY, 0
        if deflate and draw(st.booleans()):
            if deflater is None or deflate.client_no_context_takeover:
                deflater = zlib.compressobj(wbits=-deflate.client_max_window_bits)
            payload = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
            payload, bits = payload.removesuffix(TAIL), RSV1
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True):
            part = frame(opcode, payload[start:end], bits, mask=draw(MASKS))
            frames.append(part)
            opcode, bits = CONTINUATION, 0
            controls()
        # The last of the message's frames may have control frames behind it.
        last = max(at for at, one in enumerate(frames) if one[0] & 0x0F < CLOSE)
        frames[last] = bytes([frames[last][0] | FIN]) + frames[last][1:]
        behind = len(frames) - 1 - last
        first = max(at for at in range(last + 1) if frames[at][0] & 0x0F in (TEXT, BINARY))
        among = {one[0] & 0x0F for one in frames[first:last]}
        interrupted |= bool(frames[first][0] & RSV1 and among & {PING, PONG})
        events.insert(len(events) - behind, message)
    controls()
    if draw(st.booleans()):
        code, reason = draw(CODES), draw(st.text(max_size=20))
        frames.append(frame(CLOSE, code.to_bytes(2, "big") + reason.encode()))
        events.append(Closed(code, reason, False))
    return Conversation(frames, events, deflate, interrupted)


@st.composite
def mutated(draw: st.DrawFn, *, compressed: bool = True) -> tuple[bytes, Deflate | None]:
    """A conversation with frames lost, repeated or out of order, and bits flipped."""
    conversation = draw(conversations(compressed=compressed))
    frames = list(conversation.frames)
    for _ in range(draw(st.integers(0, 3))):
        frames = [one for one in frames if one]
        if not frames:
            break
        at = draw(st.integers(0, len(frames) - 1))
        one = frames[at]
        how = draw(st.sampled_from(["head", "head", "body", "lose", "repeat", "swap", "cut"]))
        if how == "head":
            one = flip(one, draw(st.integers(0, min(13, len(one) - 1))), draw(st.integers(0, 7)))
        elif how == "body":
            one = flip(one, draw(st.integers(0, len(one) - 1)), draw(st.integers(0, 7)))
        elif how == "cut":
            one = one[: draw(st.integers(0, len(one)))]
        frames[at] = one
        if how == "lose":
            del frames[at]
        elif how == "repeat":
            frames.insert(at, one)
        elif how == "swap":
            frames[at], frames[-1] = frames[-1], frames[at]
    return b"".join(frames), conversation.deflate


def flip(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
