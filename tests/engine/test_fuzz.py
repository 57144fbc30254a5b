"""Random requests: split anywhere, mutated, and read by other parsers (h11, httptools)."""

from __future__ import annotations

import re

import pytest
import sansio
from corpus import CASES, LIMITS
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from oracles import ORACLES, Message, Refusal
from requests_made import CONVERSATIONS, Made, mutated

from tests.seed import FACTOR, SEED

FRAMING_IN_A_TRAILER = r"(?is)\r\n0+(;[^\r]*)?\r\n([^\r]+\r\n)*(content-length|transfer-encoding):"

# What an oracle refuses and sockd accepts: its reason, which requests, and why it is so.
EXPLAINED = [
    (
        "httptools",
        "HttpParserInvalidMethodError",
        r"^(\r\n)?(?!(GET|HEAD|POST|PUT|DELETE|OPTIONS|M-SEARCH) )",
        "it knows a list of methods; any token is one (RFC 9110 9.1)",
    ),
    (
        "httptools",
        "Content-Length|Transfer-Encoding",
        FRAMING_IN_A_TRAILER,
        "it takes a trailer for framing; trailers are dropped (RFC 9110 6.5.1)",
    ),
    (
        "httptools",
        "invalid `Transfer-Encoding`",
        r"(?i)\r\ntransfer-encoding:[ \t]*chunked[ \t]+\r\n",
        "it takes space behind a value for a part of it (RFC 9112 5.1)",
    ),
    (
        "httptools",
        "HttpParserUpgrade",
        r"(?i)\r\nupgrade:",
        "it stops behind the head; a body belongs to the request all the same (RFC 9110 7.8)",
    ),
    (
        "h11",
        "Content-Length|Transfer-Encoding",
        FRAMING_IN_A_TRAILER,
        "it reads framing in trailers, too",
    ),
    (
        "h11",
        "no request line received",
        r"^\r\n",
        "one empty line before a request SHOULD be ignored (RFC 9112 2.2)",
    ),
]


def many(examples: int):
    """A run of its own seed (see the report's head), never cut short for a slow machine."""

    def decorate(test):
        quiet = settings(
            max_examples=int(examples * FACTOR),
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        return seed(SEED)(quiet(test))

    return decorate


@many(2000)
@given(CONVERSATIONS)
def test_what_is_valid_is_accepted_as_it_was_made(conversation: list[Made]) -> None:
    data = b"".join(one.wire for one in conversation)
    outcome = sansio.read(data)
    assert outcome.end == "idle"
    for one, request in zip(conversation, outcome.requests, strict=True):
        framing = (b"content-length", b"transfer-encoding")
        fields = tuple(field for field in request.fields if field[0].lower() not in framing)
        assert (request.method, request.target, request.body) == (one.method, one.target, one.body)
        assert fields == one.fields
    assert outcome.requests[-1].end == len(data)


@many(3000)
@given(mutated(), st.data())
def test_every_split_has_one_verdict(data: bytes, draw: st.DataObject) -> None:
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=6))
    limits = draw.draw(st.sampled_from([{}, TIGHT]))
    whole = sansio.read(data, **limits)
    assert sansio.read(data, cuts, **limits) == whole
    assert sansio.read(data, range(len(data)), **limits) == whole


TIGHT = {"request_line": 24, "header_field": 24, "headers": 3, "head": 80, "body": 20}


@many(5000)
@given(mutated())
def test_oracles_delimit_what_is_accepted_in_the_same_way(data: bytes) -> None:
    hold_against_oracles(data, sansio.read(data))


@pytest.mark.parametrize("name", CASES)
def test_oracles_delimit_the_corpus_in_the_same_way(name: str) -> None:
    data = CASES[name].sent
    hold_against_oracles(data, sansio.read(data, **LIMITS))


def hold_against_oracles(data: bytes, outcome: sansio.Outcome) -> None:
    start = 0
    for request in outcome.requests:
        for name, reads in ORACLES.items():
            reading = reads(data[start:])
            if isinstance(reading, Refusal):
                assert explained(name, reading, data[start : request.end]), (reading, request)
                continue
            assert reading is not None, f"{name} waits for more of {request}"
            assert (reading.method, reading.target) == (request.method, request.target), name
            assert (reading.body, reading.end) == (request.body, request.end - start), name
            assert kept(reading) == kept(request), name
            if request.target.startswith((b"/", b"*")):
                assert host(reading) == request.host, name
        start = request.end


def host(message: Message) -> bytes:
    hosts = [value.strip(b" \t") for key, value in message.fields if key.lower() == b"host"]
    assert len(hosts) <= 1
    return hosts[0] if hosts else b""


def kept(message: Message | sansio.Request) -> list[tuple[bytes, bytes]]:
    """Fields without those that sockd drops, in what all parsers agree to show."""
    fields = []
    for name, value in message.fields:
        name, value = name.lower(), value.strip(b" \t")
        if name == b"transfer-encoding":
            value = value.lower()
        if name not in (b"host", b"proxy") and b"_" not in name:
            fields.append((name, value))
    return fields


def explained(oracle: str, refusal: Refusal, wire: bytes) -> bool:
    return any(
        oracle == name and re.search(reason, refusal.reason) and re.search(pattern.encode(), wire)
        for name, reason, pattern, _ in EXPLAINED
    )
