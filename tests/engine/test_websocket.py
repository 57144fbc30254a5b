"""The WebSocket engine, rule by rule (RFC 6455, RFC 7692), in every split of the same bytes."""

from __future__ import annotations

import tracemalloc
import zlib
from contextlib import suppress
from typing import NamedTuple

import pytest
from frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TAIL,
    TEXT,
    answer,
    answers,
    close,
    deflated,
    frame,
    frames_of,
    read,
    splits,
)

from sockd.http.handshake import Deflate
from sockd.http.websocket import FAILURES, Closed, Ping, Pong, WebSocket

LIMIT = 100_000
DEFLATE = Deflate(client_max_window_bits=15)
ALONE = Deflate(client_no_context_takeover=True, server_no_context_takeover=True)


class Case(NamedTuple):
    frames: list[bytes]
    events: list[object]
    deflate: Deflate | None = None


FAILED = {name: Closed(code, reason, True) for name, code, reason, _ in FAILURES[1:]}
HELLO = frame(TEXT, b"Hello")
BYE = Closed(1000, "", False)
KINDS = bytes(range(256)) * 4

CASES = {
    "5.2 text": Case([HELLO], ["Hello"]),
    "5.2 binary": Case([frame(BINARY, KINDS)], [KINDS]),
    "5.2 two messages": Case([HELLO, frame(BINARY, b"\x00")], ["Hello", b"\x00"]),
    "5.2 empty text": Case([frame(TEXT)], [""]),
    "5.2 empty binary": Case([frame(BINARY)], [b""]),
    "5.1 no mask": Case([frame(TEXT, b"Hello", mask=b"")], [FAILED["NOT_MASKED"]]),
    "5.1 no mask on close": Case([frame(CLOSE, mask=b"")], [FAILED["NOT_MASKED"]]),
    "5.2 shortest form of 126": Case(
        [frame(BINARY, b"a" * 125, form=2)], [FAILED["LONG_FORM"]]
    ),
    "5.2 shortest form of 127": Case(
        [frame(BINARY, b"a" * 65535, form=8)], [FAILED["LONG_FORM"]]
    ),
    "5.2 zero in a long form": Case([frame(BINARY, form=2)], [FAILED["LONG_FORM"]]),
    "5.2 zero in the longest form": Case([frame(TEXT, form=8)], [FAILED["LONG_FORM"]]),
    "5.2 the highest bit of a length": Case(
        [b"\x82\xff\x80" + bytes(11)], [FAILED["LENGTH_BEYOND"]]
    ),
    "5.2 63 bits of length": Case([b"\x82\xff\x7f" + b"\xff" * 11], [FAILED["TOO_LARGE"]]),
    "5.4 two fragments": Case(
        [frame(TEXT, b"Hel", 0), frame(CONTINUATION, b"lo")], ["Hello"]
    ),
    "5.4 fragments of nothing": Case(
        [frame(TEXT, b"", 0), frame(CONTINUATION, b"", 0), frame(CONTINUATION)], [""]
    ),
    "5.4 an empty fragment between": Case(
        [frame(BINARY, b"a", 0), frame(CONTINUATION, b"", 0), frame(CONTINUATION, b"b")], [b"ab"]
    ),
    "5.4 an empty fragment first": Case(
        [frame(BINARY, b"", 0), frame(CONTINUATION, b"ab")], [b"ab"]
    ),
    "5.4 an empty fragment last": Case(
        [frame(BINARY, b"ab", 0), frame(CONTINUATION)], [b"ab"]
    ),
    "5.4 many fragments": Case(
        [frame(BINARY, b"", 0), *[frame(CONTINUATION, b"ab", 0)] * 500, frame(CONTINUATION)],
        [b"ab" * 500],
    ),
    "5.4 large fragments": Case(
        [frame(BINARY, b"a" * 40000, 0), frame(CONTINUATION, b"b" * 50000)],
        [b"a" * 40000 + b"b" * 50000],
    ),
    "5.4 control frames between fragments": Case(
        [
            frame(TEXT, b"Hel", 0), frame(PING, b"1"), frame(CONTINUATION, b"l", 0),
            frame(PONG, b"2"), frame(PING, b"3"), frame(CONTINUATION, b"o"),
        ],
        [Ping(b"1"), Pong(b"2"), Ping(b"3"), "Hello"],
    ),
    "5.4 close between fragments": Case(
        [frame(TEXT, b"Hel", 0), close(1000), frame(CONTINUATION, b"lo")], [BYE]
    ),
    "5.4 continuation of nothing": Case(
        [frame(CONTINUATION, b"a")], [FAILED["NOTHING_TO_CONTINUE"]]
    ),
    "5.4 the start of continuing nothing": Case(
        [frame(CONTINUATION, b"a", 0)], [FAILED["NOTHING_TO_CONTINUE"]]
    ),
    "5.4 continuation of a whole message": Case(
        [HELLO, frame(CONTINUATION, b"a")], ["Hello", FAILED["NOTHING_TO_CONTINUE"]]
    ),
    "5.4 continuation of what has ended": Case(
        [frame(TEXT, b"a", 0), frame(CONTINUATION, b"b"), frame(CONTINUATION, b"c")],
        ["ab", FAILED["NOTHING_TO_CONTINUE"]],
    ),
    "5.4 text within a message": Case(
        [frame(TEXT, b"a", 0), HELLO], [FAILED["MESSAGE_WITHIN"]]
    ),
    "5.4 binary within a message": Case(
        [frame(TEXT, b"a", 0), frame(BINARY, b"b", 0)], [FAILED["MESSAGE_WITHIN"]]
    ),
    "5.4 text within an empty fragment": Case(
        [frame(TEXT, b"", 0), HELLO], [FAILED["MESSAGE_WITHIN"]]
    ),
    "5.5 a ping of 125 bytes": Case([frame(PING, KINDS[:125])], [Ping(KINDS[:125])]),
    "5.5 a ping of 126 bytes": Case([frame(PING, KINDS[:126])], [FAILED["LONG_CONTROL"]]),
    "5.5 a ping of 65536 bytes": Case([frame(PING, bytes(65536))], [FAILED["LONG_CONTROL"]]),
    "5.5 a long close": Case([frame(CLOSE, bytes(126))], [FAILED["LONG_CONTROL"]]),
    "5.5 a ping in fragments": Case([frame(PING, b"", 0)], [FAILED["CONTROL_IN_FRAGMENTS"]]),
    "5.5 a pong in fragments": Case([frame(PONG, b"", 0)], [FAILED["CONTROL_IN_FRAGMENTS"]]),
    "5.5 a close in fragments": Case([frame(CLOSE, b"", 0)], [FAILED["CONTROL_IN_FRAGMENTS"]]),
    "5.5.1 close": Case([frame(CLOSE)], [Closed(1005, "", False)]),
    "5.5.1 close with a code": Case([close(1000)], [BYE]),
    "5.5.1 close with a reason": Case(
        [close(1001, "Tschüß".encode())], [Closed(1001, "Tschüß", False)]
    ),
    "5.5.1 the longest reason": Case(
        [close(4999, b"r" * 123)], [Closed(4999, "r" * 123, False)]
    ),
    "5.5.1 half a code": Case([frame(CLOSE, b"\x03")], [FAILED["CLOSE_OF_ONE_BYTE"]]),
    "5.5.1 a reason that is not UTF-8": Case(
        [close(1000, b"a\xff")], [FAILED["BAD_CLOSE_REASON"]]
    ),
    "5.5.1 a reason that is cut": Case(
        [close(1000, b"\xe2\x82")], [FAILED["BAD_CLOSE_REASON"]]
    ),
    "1.4 nothing counts behind close": Case(
        [HELLO, close(1000), HELLO, frame(PING), b"\xff" * 40], ["Hello", BYE]
    ),
    "7.1.7 nothing counts behind a failure": Case(
        [frame(CONTINUATION), HELLO, frame(PING), close(1000)], [FAILED["NOTHING_TO_CONTINUE"]]
    ),
    "5.5.2 ping": Case([frame(PING, b"Hello")], [Ping(b"Hello")]),
    "5.5.2 an empty ping": Case([frame(PING)], [Ping(b"")]),
    "5.5.3 ten pings": Case(
        [frame(PING, b"%d" % i) for i in range(10)], [Ping(b"%d" % i) for i in range(10)]
    ),
    "5.5.3 a pong that nobody asked for": Case([frame(PONG, b"Hello")], [Pong(b"Hello")]),
    "7.4.1 a message of the limit": Case([frame(BINARY, bytes(LIMIT))], [bytes(LIMIT)]),
    "7.4.1 a byte too much": Case([frame(BINARY, bytes(LIMIT + 1))], [FAILED["TOO_LARGE"]]),
    "7.4.1 the head says too much": Case(
        [frame(TEXT, bytes(LIMIT + 1))[:14]], [FAILED["TOO_LARGE"]]
    ),
    "7.4.1 fragments of the limit": Case(
        [frame(BINARY, bytes(LIMIT), 0), frame(CONTINUATION)], [bytes(LIMIT)]
    ),
    "7.4.1 fragments of too much": Case(
        [frame(BINARY, bytes(LIMIT), 0), frame(PING), frame(CONTINUATION, b"a")[:6]],
        [Ping(b""), FAILED["TOO_LARGE"]],
    ),
    "7.4.1 each message has the limit for itself": Case(
        [frame(BINARY, bytes(LIMIT))] * 2, [bytes(LIMIT)] * 2
    ),
    "8.1 a character in two fragments": Case(
        [frame(TEXT, b"\xe2\x82", 0), frame(PING), frame(CONTINUATION, b"\xac")],
        [Ping(b""), "€"],
    ),
    "8.1 text is judged before its frame ends": Case(
        [frame(TEXT, b"ok\xff" + b"a" * 50)[:9]], [FAILED["BAD_TEXT"]]
    ),
    "8.1 text is judged before its message ends": Case(
        [frame(TEXT, b"\xed\xa0", 0)], [FAILED["BAD_TEXT"]]
    ),
    "8.1 a character is cut": Case([frame(TEXT, b"\xe2\x82")], [FAILED["BAD_TEXT"]]),
    "8.1 a character is cut by the last fragment": Case(
        [frame(TEXT, b"\xe2", 0), frame(CONTINUATION, b"\x82", 0), frame(CONTINUATION)],
        [FAILED["BAD_TEXT"]],
    ),
    "8.1 every message begins anew": Case(
        [frame(TEXT, "€".encode()), frame(BINARY, b"\xe2"), frame(TEXT, b"\x82")],
        ["€", b"\xe2", FAILED["BAD_TEXT"]],
    ),
    "7692 6 compressed but not agreed": Case(
        [frame(TEXT, deflated(b"Hello"), FIN | RSV1)], [FAILED["RESERVED_BIT"]]
    ),
    "7692 7.2.3.1 one frame": Case(
        [frame(TEXT, bytes.fromhex("f248cdc9c90700"), FIN | RSV1)], ["Hello"], DEFLATE
    ),
    "7692 7.2.3.1 two frames": Case(
        [
            frame(TEXT, bytes.fromhex("f248cd"), RSV1),
            frame(CONTINUATION, bytes.fromhex("c9c90700")),
        ],
        ["Hello"], DEFLATE,
    ),
    "7692 7.2.3.2 the window is shared": Case(
        [
            frame(TEXT, bytes.fromhex("f248cdc9c90700"), FIN | RSV1),
            frame(TEXT, bytes.fromhex("f200110000"), FIN | RSV1),
        ],
        ["Hello", "Hello"], DEFLATE,
    ),
    "7692 7.1.1.2 the window is not shared": Case(
        [
            frame(TEXT, bytes.fromhex("f248cdc9c90700"), FIN | RSV1),
            frame(TEXT, bytes.fromhex("f200110000"), FIN | RSV1),
        ],
        ["Hello", FAILED["BAD_DEFLATE"]], ALONE,
    ),
    "7692 7.2.3.3 a block without compression": Case(
        [frame(TEXT, bytes.fromhex("000500faff48656c6c6f00"), FIN | RSV1)], ["Hello"], DEFLATE
    ),
    "7692 7.2.3.4 a final block": Case(
        [frame(TEXT, bytes.fromhex("f348cdc9c9070000"), FIN | RSV1)] * 70, ["Hello"] * 70,
        DEFLATE,
    ),
    "7692 7.2.3.4 a final block in each fragment": Case(
        [
            frame(TEXT, bytes.fromhex("f348cdc9c90700"), RSV1),
            frame(CONTINUATION, bytes.fromhex("f348cdc9c9070000")),
        ],
        ["HelloHello"], DEFLATE,
    ),
    "7692 7.2.3.5 two blocks": Case(
        [frame(TEXT, bytes.fromhex("f248050000 00ffffcac9c90700"), FIN | RSV1)],
        ["Hello"], DEFLATE,
    ),
    "7692 7.2.3.6 an empty message": Case(
        [frame(TEXT, b"\x00", FIN | RSV1), frame(BINARY, b"\x00", FIN | RSV1)], ["", b""], DEFLATE
    ),
    "7692 7.2.3.6 a message of no bytes": Case(
        [frame(TEXT, b"", FIN | RSV1)], [FAILED["BAD_DEFLATE"]], DEFLATE
    ),
    "7692 7.2 fragments of no bytes": Case(
        [
            frame(TEXT, b"", RSV1), frame(CONTINUATION, deflated(b"Hello"), 0), frame(PING),
            frame(CONTINUATION),
        ],
        [Ping(b""), "Hello"], DEFLATE,
    ),
    "7692 6 messages without compression between": Case(
        [
            frame(TEXT, bytes.fromhex("f248cdc9c90700"), FIN | RSV1), frame(TEXT, b"plain"),
            frame(TEXT, bytes.fromhex("f200110000"), FIN | RSV1),
        ],
        ["Hello", "plain", "Hello"], DEFLATE,
    ),
    "7692 6.1 a compressed continuation": Case(
        [
            frame(TEXT, bytes.fromhex("f248cd"), RSV1),
            frame(CONTINUATION, bytes.fromhex("c9c90700"), FIN | RSV1),
        ],
        [FAILED["RESERVED_BIT"]], DEFLATE,
    ),
    "7692 6.1 a compressed ping": Case(
        [frame(PING, b"", FIN | RSV1)], [FAILED["RESERVED_BIT"]], DEFLATE
    ),
    "7692 6.1 a compressed close": Case(
        [frame(CLOSE, b"", FIN | RSV1)], [FAILED["RESERVED_BIT"]], DEFLATE
    ),
    "7692 7.2.2 no deflate": Case(
        [frame(TEXT, b"\xff" * 20, FIN | RSV1)], [FAILED["BAD_DEFLATE"]], DEFLATE
    ),
    "7692 7.2.2 compressed text is text": Case(
        [frame(TEXT, deflated(b"ok\xff"), FIN | RSV1)], [FAILED["BAD_TEXT"]], DEFLATE
    ),
    "7692 7.2.2 compressed text is cut": Case(
        [frame(TEXT, deflated(b"ok\xe2\x82"), FIN | RSV1)], [FAILED["BAD_TEXT"]], DEFLATE
    ),
    "7692 7.2.2 bad text before bad deflate": Case(
        [frame(TEXT, deflated(b"\xff" * 9000) + b"\xff" * 1000, FIN | RSV1)],
        [FAILED["BAD_DEFLATE"]], DEFLATE,
    ),
    "7692 the limit counts what was inflated": Case(
        [frame(BINARY, deflated(bytes(LIMIT)), FIN | RSV1)], [bytes(LIMIT)], DEFLATE
    ),
    "7692 a byte too much": Case(
        [frame(BINARY, deflated(bytes(LIMIT + 1)), FIN | RSV1)], [FAILED["TOO_LARGE"]], DEFLATE
    ),
    "7692 too much in fragments": Case(
        [
            frame(BINARY, deflated(bytes(LIMIT)) + TAIL, RSV1),
            frame(CONTINUATION, deflated(b"a")),
        ],
        [FAILED["TOO_LARGE"]], DEFLATE,
    ),
    "7692 more bytes than they inflate to": Case(
        [frame(BINARY, b"\x00\x00\x00\xff\xff" * 50000 + b"\x00", FIN | RSV1)], [b""], DEFLATE
    ),
}  # fmt: skip
CASES |= {
    f"5.2 opcode {opcode:x}{within}": Case(
        [*first, frame(opcode, b"a")], [FAILED["UNKNOWN_OPCODE"]]
    )
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    for within, first in (("", []), (" within a message", [frame(TEXT, b"", 0)]))
}
CASES |= {
    f"5.2 reserved bits {bits:x} of opcode {opcode}": Case(
        [frame(opcode, b"", FIN | bits)], [FAILED["RESERVED_BIT"]], deflate
    )
    for bits in (RSV1, RSV2, RSV3, RSV1 | RSV2, RSV1 | RSV3, RSV2 | RSV3, RSV1 | RSV2 | RSV3)
    for opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
    for deflate in (None, DEFLATE)
    if not (bits == RSV1 and deflate and opcode in (CONTINUATION, TEXT, BINARY))
}
CASES |= {
    f"5.2 {size} bytes": Case([frame(BINARY, KINDS[:1] * size), HELLO], [bytes(size), "Hello"])
    for size in (1, 2, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537)
}
CASES |= {
    f"5.3 {size} bytes masked": Case([frame(BINARY, KINDS[7 : 7 + size], mask=mask)] * 2,
                                     [KINDS[7 : 7 + size]] * 2)
    for size in (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65)
    for mask in (b"\x01\x02\x03\x04", bytes(4))
}  # fmt: skip
CASES |= {
    f"7.4 close code {code}": Case([close(code)], [Closed(code, "", False)])
    for code in (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999)
}
CASES |= {
    f"7.4 close code {code}": Case([close(code)], [FAILED["BAD_CLOSE_CODE"]])
    for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
}
CASES |= {
    f"8.1 {text!r}": Case(
        [frame(TEXT, text.encode()), frame(TEXT, b"", 0), frame(CONTINUATION, text.encode())],
        [text, text],
    )
    for text in (
        "κόσμε", "\0", "\x7f\x80", "\u07ff\u0800", "\ud7ff\ue000", "\ufffd\ufffe\uffff",
        "\U00010000", "\U0010ffff", "a" * 7 + "é", "a" * 8 + "é" * 9 + "a" * 17 + "€" * 5,
    )
}  # fmt: skip
CASES |= {
    f"8.1 not UTF-8: {data!r}": Case([frame(TEXT, data)], [FAILED["BAD_TEXT"]])
    for data in (
        b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xc2a", b"\xc2\xc2",
        b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xef\xbf",
        b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80",
        b"\xf0\x9f\x98", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xfe", b"\xff",
        b"a" * 8 + b"\xff", b"a" * 15 + b"\xc3", "κόσμε".encode() + b"\xed\xa0\x80edited",
    )
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    case = CASES[name]
    data = b"".join(case.frames)
    for split, cuts in splits(case.frames).items():
        outcome = read(data, cuts, limit=LIMIT, deflate=case.deflate)
        assert outcome.events == case.events, split
        assert outcome.sent == answers(case.events), split


def test_every_failure_has_a_case() -> None:
    assert {event for case in CASES.values() for event in case.events} >= set(FAILED.values())


COMPLETIONS = [b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xa0\x80", b"\x90\x80\x80"]


def is_start_of_text(data: bytes) -> bool:
    for completion in COMPLETIONS:
        with suppress(UnicodeDecodeError):
            (data + completion).decode()
            return True
    return False


@pytest.mark.parametrize("first", range(0x80, 0x100))
def test_text_is_judged_at_the_first_byte_that_is_wrong(first: int) -> None:
    for second in range(0x00, 0x100, 1 if first in (0xE0, 0xED, 0xF0, 0xF4) else 0x10):
        for rest in (b"\x80\x80", b"\xbf\xbf", b"a", b"\x80\xc2"):
            data = bytes([first, second]) + rest
            websocket = WebSocket()
            websocket.receive(frame(TEXT, b"", 0))
            for size in range(1, len(data) + 1):
                event, _ = websocket.receive(frame(CONTINUATION, data[size - 1 : size], 0))
                if not is_start_of_text(data[:size]):
                    assert event == FAILED["BAD_TEXT"], data
                    break
                assert event is None, data


def test_nothing_is_decided_before_it_can_be() -> None:
    data = frame(TEXT, b"Hello") + close(1000)
    for size in range(len(frame(TEXT, b"Hello"))):
        assert read(data[:size]).events == []


# Sending.


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, str])
def test_sends(size: int, kind: type) -> None:
    websocket = WebSocket()
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    websocket.send(data.decode() if kind is str else kind(data))
    assert frames_of(websocket.take()) == [(FIN, TEXT if kind is str else BINARY, data)]
    assert websocket.take() == b""


def test_sends_text_as_utf_8() -> None:
    websocket = WebSocket()
    websocket.send("κόσμε \U0001f600")
    assert websocket.take() == answer(TEXT, "κόσμε \U0001f600".encode())
    with pytest.raises(UnicodeEncodeError):
        websocket.send("\ud800")
    with pytest.raises(TypeError):
        websocket.send(1)  # type: ignore[arg-type]
    assert websocket.take() == b""


def test_sends_in_order() -> None:
    websocket = WebSocket()
    websocket.send("1")
    read_into(websocket, frame(PING, b"2"))
    websocket.ping(b"3")
    websocket.send(b"4")
    websocket.close(1001, "5")
    assert websocket.take() == (
        answer(TEXT, b"1") + answer(PONG, b"2") + answer(PING, b"3") + answer(BINARY, b"4")
        + answer(CLOSE, b"\x03\xe95")
    )  # fmt: skip


def read_into(websocket: WebSocket, data: bytes) -> list[object]:
    events, at = [], 0
    while at < len(data):
        event, at = websocket.receive(data, at)
        if event is not None:
            events.append(event)
    return events


def test_closes_on_a_drain() -> None:
    """RFC 6455 5.5.1: behind its Close a server sends nothing, but hears the client out."""
    websocket = WebSocket()
    websocket.close(1012, "restart")
    assert websocket.close_sent and not websocket.over
    assert websocket.take() == answer(CLOSE, (1012).to_bytes(2, "big") + b"restart")
    events = read_into(websocket, HELLO + frame(PING, b"a") + close(1012) + HELLO)
    assert events == ["Hello", Ping(b"a"), Closed(1012, "", False)]
    assert websocket.over and websocket.take() == b""


def test_a_failure_behind_close_is_not_told() -> None:
    websocket = WebSocket()
    websocket.close()
    websocket.take()
    assert read_into(websocket, frame(CONTINUATION)) == [FAILED["NOTHING_TO_CONTINUE"]]
    assert websocket.over and websocket.take() == b""


@pytest.mark.parametrize("ended", ["by us", "by them", "by a failure", "by eof"])
def test_nothing_is_sent_behind_close(ended: str) -> None:
    websocket = WebSocket()
    if ended == "by us":
        websocket.close(3000)
    elif ended == "by eof":
        assert websocket.eof() == Closed(1006, "", True)
    else:
        read_into(websocket, close(1000) if ended == "by them" else frame(CONTINUATION))
    assert websocket.close_sent and websocket.over == (ended != "by us")
    websocket.take()
    for late in (
        lambda: websocket.send("a"),
        lambda: websocket.ping(),
        lambda: websocket.close(),
    ):
        with pytest.raises(RuntimeError):
            late()
    assert websocket.take() == b""


@pytest.mark.parametrize("begun", [b"", HELLO[:3], frame(TEXT, b"Hel", 0)])
def test_eof_without_close(begun: bytes) -> None:
    websocket = WebSocket()
    assert read_into(websocket, begun) == []
    assert websocket.eof() == Closed(1006, "", True)
    assert websocket.eof() is None
    assert websocket.take() == b""


def test_eof_behind_close() -> None:
    websocket = WebSocket()
    read_into(websocket, close(1000))
    assert websocket.eof() is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65536, -1])
def test_codes_that_are_not_for_the_wire(code: int) -> None:
    websocket = WebSocket()
    with pytest.raises(ValueError, match=str(code)):
        websocket.close(code)
    with pytest.raises(ValueError, match="123 bytes"):
        websocket.close(1000, "é" * 62)
    with pytest.raises(ValueError, match="125 bytes"):
        websocket.ping(bytes(126))
    assert not websocket.close_sent and websocket.take() == b""
    websocket.ping(bytes(125))
    websocket.close(1000, "r" * 123)
    sent = answer(PING, bytes(125)) + answer(CLOSE, b"\x03\xe8" + b"r" * 123)
    assert websocket.take() == sent


def test_a_place_behind_the_data() -> None:
    with pytest.raises(IndexError):
        WebSocket().receive(b"abc", 4)
    assert WebSocket().receive(b"abc", 3) == (None, 3)


def test_reads_any_buffer() -> None:
    for data in (bytearray(HELLO), memoryview(HELLO)):
        assert WebSocket().receive(data) == ("Hello", len(HELLO))
        assert bytes(data) == HELLO, "the caller's bytes are its own"


# What a peer can make us keep.


def test_pongs_are_bounded() -> None:
    websocket = WebSocket()
    for number in range(10_000):
        read_into(websocket, frame(PING, b"%0100d" % number))
    sent = frames_of(websocket.take())
    assert len(sent) < 50
    numbers = [int(payload) for _, _, payload in sent]
    assert numbers[:-1] == list(range(len(sent) - 1)) and numbers[-1] == 9999
    read_into(websocket, frame(PING, b"a"))
    assert websocket.take() == answer(PONG, b"a")


def test_a_bounded_pong_takes_nothing_else_with_it() -> None:
    websocket = WebSocket()
    websocket.send(bytes(5000))
    read_into(websocket, frame(PING, b"1") + frame(PING, b"2"))
    websocket.send("kept")
    read_into(websocket, frame(PING, b"3") + frame(PING, b"4"))
    websocket.ping(b"kept")
    read_into(websocket, frame(PING, b"5"))
    websocket.close()
    assert [payload for _, _, payload in frames_of(websocket.take())] == [
        bytes(5000), b"2", b"kept", b"4", b"kept", b"5", b"\x03\xe8",
    ]  # fmt: skip


@pytest.mark.parametrize("fragments", [1, 64])
def test_bombs(fragments: int) -> None:
    """What would be 128 MiB is not inflated beyond the limit, nor are its parts."""
    deflater = zlib.compressobj(wbits=-15)
    bomb = b"".join(deflater.compress(bytes(1 << 20)) for _ in range(128))
    bomb += deflater.flush(zlib.Z_SYNC_FLUSH).removesuffix(TAIL)
    size = len(bomb) // fragments + 1
    frames = [
        frame(
            CONTINUATION if at else BINARY,
            bomb[at : at + size],
            (0 if at else RSV1) | (FIN if at + size >= len(bomb) else 0),
        )
        for at in range(0, len(bomb), size)
    ]
    data = b"".join(frames)
    websocket = WebSocket(limit=1 << 20, deflate=DEFLATE)
    tracemalloc.start()
    events = read_into(websocket, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert events == [FAILED["TOO_LARGE"]]
    assert peak < 1 << 19, "inflated in steps that are counted"


def test_a_stream_cannot_end_without_end() -> None:
    """Two bytes would cost an inflater each."""
    ends = b"\x03\x00"
    for count, fails in ((64, False), (65, True), (100_000, True)):
        data = frame(BINARY, ends * count + b"\x00", FIN | RSV1)
        events = read(data, deflate=DEFLATE).events
        assert events == [FAILED["BAD_DEFLATE"] if fails else b""]


def test_any_limit() -> None:
    data = frame(BINARY, deflated(bytes(200_000)), FIN | RSV1)
    for limit in (200_000, 1 << 62, (1 << 64) - 1):
        assert read(data, deflate=DEFLATE, limit=limit).events == [bytes(200_000)]
    for limit in (0, 1, 199_999):
        assert read(data, deflate=DEFLATE, limit=limit).events == [FAILED["TOO_LARGE"]]
    assert read(frame(TEXT), limit=0).events == [""]


def test_messages_come_one_at_a_time() -> None:
    """However much is inflated, it is one message that is held."""
    data = frame(BINARY, deflated(bytes(LIMIT)), FIN | RSV1) * 100
    websocket = WebSocket(limit=LIMIT, deflate=ALONE)
    event, at = websocket.receive(data)
    assert event == bytes(LIMIT) and at == len(data) // 100


# Compression of what is sent.


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("alone", [False, True])
def test_compresses_in_the_agreed_window(bits: int, alone: bool) -> None:
    agreed = Deflate(server_no_context_takeover=alone, server_max_window_bits=bits)
    websocket = WebSocket(deflate=agreed)
    inflater = zlib.decompressobj(-bits)
    message = bytes(zlib.crc32(b"%d" % i) & 0xFF for i in range(40_000)) * 2
    sizes = []
    for sent in (message, message.hex(), message, message.hex()):
        websocket.send(sent)
        ((flags, opcode, payload),) = frames_of(websocket.take())
        text = isinstance(sent, str)
        assert (flags, opcode) == (FIN | RSV1, TEXT if text else BINARY)
        assert not payload.endswith(TAIL)
        if alone:
            inflater = zlib.decompressobj(-bits)
        assert inflater.decompress(payload + TAIL) == (sent.encode() if text else sent)
        sizes.append(len(payload))
    assert not alone or sizes[:2] == sizes[2:]


def test_a_shared_window_makes_repeated_messages_small() -> None:
    message = b"".join(zlib.crc32(b"%d" % i).to_bytes(4, "big") for i in range(250))
    for agreed, small in ((Deflate(), True), (ALONE, False)):
        websocket = WebSocket(deflate=agreed)
        websocket.send(message)
        first = len(websocket.take())
        websocket.send(message)
        assert (len(websocket.take()) < first / 10) == small


def test_short_messages_are_sent_as_they_are() -> None:
    websocket = WebSocket(deflate=Deflate())
    websocket.send("a" * 63)
    websocket.send("a" * 64)
    plain, compressed = frames_of(websocket.take())
    assert plain == (FIN, TEXT, b"a" * 63)
    assert compressed[:2] == (FIN | RSV1, TEXT) and len(compressed[2]) < 20


@pytest.mark.parametrize("bits", range(9, 16))
def test_inflates_in_the_agreed_window(bits: int) -> None:
    message = bytes(zlib.crc32(b"%d" % i) & 0xFF for i in range(20_000)) * 2
    data = frame(BINARY, deflated(message, bits), FIN | RSV1)
    agreed = Deflate(client_max_window_bits=bits)
    assert read(data, deflate=agreed).events == [message]


def test_a_window_larger_than_agreed() -> None:
    message = bytes(zlib.crc32(b"%d" % i) & 0xFF for i in range(20_000)) * 2
    data = frame(BINARY, deflated(message, 15), FIN | RSV1)
    agreed = Deflate(client_max_window_bits=9)
    assert read(data, deflate=agreed).events == [FAILED["BAD_DEFLATE"]]
