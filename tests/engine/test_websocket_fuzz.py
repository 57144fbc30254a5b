"""Random WebSocket conversations: split anywhere, mutated, and read by wsproto and websockets."""

from __future__ import annotations

import pytest
from conversations import Conversation, conversations, mutated
from frames import RSV1, answers, frame, read
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import many
from test_websocket import CASES, FAILED
from websocket_oracles import ORACLES

from sockd.http.handshake import Deflate
from sockd.http.websocket import Closed

# Where an oracle differs: how sockd's reading ends, and why it is so.
EXPLAINED = [
    ("websockets", FAILED["LONG_FORM"], "it takes lengths in any form"),
    ("websockets", FAILED["BAD_TEXT"], "it looks at whole messages, sockd at what has come"),
    ("websockets", FAILED["BAD_CLOSE_CODE"], "it looks at the reason before the code"),
    ("wsproto", FAILED["BAD_TEXT"], "it looks at whole frames, sockd at what has come"),
    ("websockets", FAILED["BAD_DEFLATE"], "it calls that a protocol error, 1002"),
]


@many(500)
@given(conversations(), st.data())
def test_what_is_said_is_heard(conversation: Conversation, data: st.DataObject) -> None:
    wire = conversation.wire
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    outcome = read(wire, cuts, deflate=conversation.deflate)
    assert outcome.events == conversation.events
    assert outcome.sent == answers(conversation.events)


@many(800)
@given(mutated(), st.data())
def test_every_split_has_the_same_events(
    made: tuple[bytes, Deflate | None], data: st.DataObject
) -> None:
    wire, deflate = made
    limit = data.draw(st.sampled_from([30, 300, 100_000]))
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    whole = read(wire, limit=limit, deflate=deflate)
    assert read(wire, cuts, limit=limit, deflate=deflate) == whole
    step = max(1, len(wire) // 1000)
    assert read(wire, range(0, len(wire), step), limit=limit, deflate=deflate) == whole


@many(1000)
@given(st.binary(max_size=64), st.booleans(), st.data())
def test_no_bytes_do_harm(wire: bytes, compressed: bool, data: st.DataObject) -> None:
    deflate = Deflate() if compressed else None
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    assert read(wire, cuts, deflate=deflate, limit=50) == read(wire, deflate=deflate, limit=50)


@many(500)
@given(st.binary(min_size=1, max_size=200), st.data())
def test_no_compressed_bytes_do_harm(payload: bytes, data: st.DataObject) -> None:
    wire = b"".join(frame(1 + (size & 1), payload[:size], 0x80 | RSV1) for size in range(1, 9))
    wire += frame(2, payload * 300, 0x80 | RSV1)
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    whole = read(wire, deflate=Deflate(), limit=1000)
    assert read(wire, cuts, deflate=Deflate(), limit=1000) == whole


@many(400)
@given(conversations())
def test_oracles_hear_what_is_said(conversation: Conversation) -> None:
    for name, reads in ORACLES.items():
        if name == "wsproto" and conversation.interrupted:
            continue  # it takes what follows the control frame for plain
        reading = reads(conversation.wire, conversation.deflate)
        assert reading.events == conversation.events, name


@many(1500)
@given(mutated(compressed=False))
def test_oracles_read_what_is_mutated_in_the_same_way(made: tuple[bytes, Deflate | None]) -> None:
    hold_against_oracles(made[0])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.deflate])
def test_oracles_read_the_rules_in_the_same_way(name: str) -> None:
    if not name.startswith("7.4.1"):  # the limits of these cases are not the oracles'
        hold_against_oracles(b"".join(CASES[name].frames))


def hold_against_oracles(wire: bytes) -> None:
    ours = read(wire).events
    for name, reads in ORACLES.items():
        theirs = reads(wire, None).events
        if without_reason(theirs) == without_reason(ours):
            continue
        assert theirs[: len(ours) - 1] == ours[:-1], name
        rest = theirs[len(ours) - 1 :]
        if is_cut(wire) and (not rest or ours[-1] == FAILED["TOO_LARGE"]):
            # It waits for the whole frame, or judges the part that has come; sockd judges the
            # first bytes, and the length that they announce.
            continue
        assert explained(name, ours[-1], rest), (name, ours, theirs)


def is_cut(wire: bytes) -> bool:
    """Whether the last frame is not there as a whole."""
    at = 0
    while at + 2 <= len(wire):
        size, form = wire[at + 1] & 0x7F, {126: 2, 127: 8}.get(wire[at + 1] & 0x7F, 0)
        if form:
            size = int.from_bytes(wire[at + 2 : at + 2 + form], "big")
        at += 2 + form + (4 if wire[at + 1] & 0x80 else 0) + size
    return at != len(wire)


def without_reason(events: list[object]) -> list[object]:
    """A failure's reason is in each engine's own words."""
    return [e._replace(reason="") if isinstance(e, Closed) and e.failed else e for e in events]


def explained(oracle: str, end: object, theirs: list[object]) -> bool:
    if isinstance(end, Closed) and not end.failed and len(theirs) == 1:
        (other,) = theirs
        if isinstance(other, Closed) and other.failed and other.code == 1002:
            # RFC 6455 5.4: a control frame may come between fragments, and Close is one.
            between = oracle == "websockets" and "fragmented" in other.reason
            # The registry of IANA has it, RFC 6455 does not.
            return between or (oracle == "wsproto" and end.code == 1014)
    return any((oracle, end) == (name, failure) for name, failure, _ in EXPLAINED)
