"""Request heads: what is accepted, what is refused with what, the same for every split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockd.http.parser import Refused, RequestHead

HOST = b"Host: example.org\r\n"


def parse(data: bytes, cuts: tuple[int, ...] = (), **limits: int):
    """The outcome of feeding `data` in pieces that end at `cuts`: a head, a status or None."""
    head = RequestHead(**limits)
    try:
        for end in (*sorted(cuts), len(data)):
            if size := head.feed(data[:end]):
                found = (head.method, head.target, head.path, head.query, head.authority)
                framing = (head.keep_alive, head.chunked, head.content_length)
                return (size, *found, *framing, head.fields)
    except Refused as error:
        return error.status, str(error)
    return None


ACCEPTED = {
    "simple": b"GET / HTTP/1.1\r\n" + HOST,
    "1.0 without a host": b"GET / HTTP/1.0\r\n",
    "query": b"GET /a?b=c?d HTTP/1.1\r\n" + HOST,
    "empty query": b"GET /a? HTTP/1.1\r\n" + HOST,
    "absolute form": b"GET http://other.example:81/a?b HTTP/1.1\r\n" + HOST,
    "absolute form without a path": b"GET http://other.example HTTP/1.1\r\n" + HOST,
    "absolute form, query only": b"GET https://other.example?q HTTP/1.1\r\n" + HOST,
    "asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST,
    "any method": b"M-SEARCH / HTTP/1.1\r\n" + HOST,
    "host with a port": b"GET / HTTP/1.1\r\nHost: a.b:65535\r\n",
    "host with an empty port": b"GET / HTTP/1.1\r\nHost: a.b:\r\n",
    "host of IPv6": b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:8000\r\n",
    "host with an escape": b"GET / HTTP/1.1\r\nHost: a%2Db\r\n",
    "empty value": b"GET / HTTP/1.1\r\n" + HOST + b"X:\r\n",
    "obs-text and tab in a value": b"GET / HTTP/1.1\r\n" + HOST + b"X: \xe9\tb \r\n",
    "repeated field": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\nX: b\r\n",
    "leading empty line": b"\r\nGET / HTTP/1.1\r\n" + HOST,
    "length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n",
    "greatest length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9223372036854775807\r\n",
    "chunked": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: ChunKed\r\n",
    "expect": b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n",
    "connection list": b"GET / HTTP/1.1\r\n" + HOST + b"Connection: x, Close\r\n",
    "odd bytes in a path": b'GET /%00|"<>^`{}\\ HTTP/1.1\r\n' + HOST,
}

REFUSED = {
    "bare LF after the request line": (400, b"GET / HTTP/1.1\n" + HOST),
    "bare LF after a field": (400, b"GET / HTTP/1.1\r\nHost: a\n"),
    "bare CR in a value": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n"),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\nHost: a\r\r\n"),
    "two leading empty lines": (400, b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST),
    "no method": (400, b" / HTTP/1.1\r\n" + HOST),
    "bad method": (400, b"G(T / HTTP/1.1\r\n" + HOST),
    "two spaces": (400, b"GET  / HTTP/1.1\r\n" + HOST),
    "tab for a space": (400, b"GET\t/ HTTP/1.1\r\n" + HOST),
    "trailing space": (400, b"GET / HTTP/1.1 \r\n" + HOST),
    "HTTP/0.9": (400, b"GET /\r\n"),
    "lower case version": (400, b"GET / http/1.1\r\n" + HOST),
    "long version": (400, b"GET / HTTP/1.10\r\n" + HOST),
    "version 2": (505, b"PRI / HTTP/2.0\r\n" + HOST),
    "version 1.2": (505, b"GET / HTTP/1.2\r\n" + HOST),
    "relative target": (400, b"GET a HTTP/1.1\r\n" + HOST),
    "authority form": (400, b"GET example.org:80 HTTP/1.1\r\n" + HOST),
    "CONNECT": (400, b"CONNECT example.org:80 HTTP/1.1\r\n" + HOST),
    "asterisk without OPTIONS": (400, b"GET * HTTP/1.1\r\n" + HOST),
    "user info": (400, b"GET http://user@host/ HTTP/1.1\r\n" + HOST),
    "empty authority": (400, b"GET http:///a HTTP/1.1\r\n" + HOST),
    "other scheme": (400, b"GET ftp://a/ HTTP/1.1\r\n" + HOST),
    "fragment": (400, b"GET /a#b HTTP/1.1\r\n" + HOST),
    "byte above ASCII in the target": (400, b"GET /\xe9 HTTP/1.1\r\n" + HOST),
    "NUL in the target": (400, b"GET /\0 HTTP/1.1\r\n" + HOST),
    "no host": (400, b"GET / HTTP/1.1\r\n"),
    "empty host": (400, b"GET / HTTP/1.1\r\nHost:\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n"),
    "two hosts behind an absolute form": (
        400,
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
    ),
    "host list": (400, b"GET / HTTP/1.1\r\nHost: a, b\r\n"),
    "host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n"),
    "host with a user": (400, b"GET / HTTP/1.1\r\nHost: u@a\r\n"),
    "host with a bad port": (400, b"GET / HTTP/1.1\r\nHost: a:8x\r\n"),
    "host with a great port": (400, b"GET / HTTP/1.1\r\nHost: a:65536\r\n"),
    "host with an open bracket": (400, b"GET / HTTP/1.1\r\nHost: [::1\r\n"),
    "host with a bad escape": (400, b"GET / HTTP/1.1\r\nHost: a%2\r\n"),
    "space before the colon": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X : a\r\n"),
    "space in a name": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X Y: a\r\n"),
    "no colon": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X\r\n"),
    "no name": (400, b"GET / HTTP/1.1\r\n" + HOST + b": a\r\n"),
    "folded": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n"),
    "folded first field": (400, b"GET / HTTP/1.1\r\n Host: a\r\n"),
    "NUL in a value": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0\r\n"),
    "DEL in a value": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x7f\r\n"),
    "byte above ASCII in a name": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X\xe9: a\r\n"),
    "length repeated": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n" * 2),
    "length list": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n"),
    "length signed": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n"),
    "length hexadecimal": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x1\r\n"),
    "length with an underscore": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1_0\r\n"),
    "length of other digits": (
        400,
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: \xd9\xa1\r\n",
    ),
    "length empty": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n"),
    "length of 20 digits": (
        400,
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 00000000000000000001\r\n",
    ),
    "length beyond 63 bits": (
        400,
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9223372036854775808\r\n",
    ),
    "length and coding": (
        400,
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
    ),
    "coding and length": (
        400,
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
    ),
    "chunked twice": (
        400,
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, chunked\r\n",
    ),
    "two codings": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n" * 2),
    "chunked not last": (
        400,
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n",
    ),
    "empty coding": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\r\n"),
    "coding on 1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n"),
    "unknown coding": (501, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n"),
    "other coding first": (
        501,
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n",
    ),
    "unknown expectation": (417, b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 200-ok\r\n"),
    "long request line": (414, b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n" + HOST),
    "long field": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 8192 + b"\r\n"),
    "many fields": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 100),
    "large head": (431, b"GET / HTTP/1.1\r\n" + HOST + (b"X: " + b"a" * 8000 + b"\r\n") * 9),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts(case: str) -> None:
    data = ACCEPTED[case] + b"\r\n"
    outcome = parse(data + b"rest")
    assert outcome is not None and outcome[0] == len(data)
    for cut in range(len(data)):
        assert parse(data, (cut,)) == outcome
    assert parse(data, tuple(range(len(data)))) == outcome
    assert all(parse(data[:cut]) is None for cut in range(len(data)))


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    status, data = REFUSED[case]
    outcome = parse(data + b"\r\n")
    assert outcome is not None and outcome[0] == status, outcome
    data += b"\r\n"
    step = max(1, len(data) // 500)
    for cut in range(0, len(data), step):
        assert parse(data, (cut,)) == outcome
    assert parse(data, tuple(range(0, len(data), step))) == outcome


def test_finds_what_it_should() -> None:
    data = b"POST http://h:81/a%20b?c=d HTTP/1.1\r\nHost: x\r\nA-b:  c d \r\n\r\n"
    assert parse(data) == (
        len(data), b"POST", b"http://h:81/a%20b?c=d", b"/a%20b", b"c=d", b"h:81",
        True, False, -1, [(b"A-b", b"c d")],
    )  # fmt: skip


@pytest.mark.parametrize("field", [b"X_Forwarded_For: 1", b"Proxy: http://evil", b"_: 1"])
def test_drops_fields_that_alias_others(field: bytes) -> None:
    outcome = parse(b"GET / HTTP/1.1\r\n" + HOST + field + b"\r\n\r\n")
    assert outcome is not None and outcome[-1] == []


@pytest.mark.parametrize(("version", "expects"), [(b"1.1", True), (b"1.0", False)])
def test_an_expectation_of_http_1_0_is_ignored(version: bytes, expects: bool) -> None:
    head = RequestHead()  # RFC 9110 10.1.1
    assert head.feed(b"PUT / HTTP/" + version + b"\r\n" + HOST + b"Expect: 100-continue\r\n\r\n")
    assert head.expect_continue is expects


@pytest.mark.parametrize(
    ("line", "connection", "keeps"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: keep-alive, close\r\n", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
    ],
)
def test_persistence(line: bytes, connection: bytes, keeps: bool) -> None:
    outcome = parse(line + b"\r\n" + HOST + connection + b"\r\n")
    assert outcome is not None and outcome[6] is keeps


PIECES = st.sampled_from(
    b"GET|POST| |/|?|HTTP/1.1|HTTP/1.0|\r\n|\r|\n|\t|Host:|a|X:|Content-Length:|1|,|_|:|\0|\xff"
    b"|Transfer-Encoding:|chunked|Host: example.org\r\n|GET / HTTP/1.1\r\nHost: a\r\n".split(b"|")
)


@given(st.lists(PIECES, max_size=24), st.data())
def test_every_split_of_anything_has_one_verdict(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"GET / HTTP/1.1\r\n" + b"".join(pieces) if len(pieces) % 2 else b"".join(pieces)
    limits = {"request_line": 24, "header_field": 20, "headers": 3, "head": 60}
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
    expected = parse(whole, **limits)
    assert parse(whole, tuple(cuts), **limits) == expected
    assert parse(whole, tuple(range(len(whole))), **limits) == expected


@pytest.mark.parametrize("byte", [*range(32), 127, 128, 255])
def test_a_byte_at_every_place_of_a_value(byte) -> None:
    """Values are judged by eight bytes at a time: whatever their length and the byte's place."""
    passes = byte == 9 or byte >= 128
    for size in range(1, 26):
        for place in range(size):
            value = bytearray(b"x" * size)
            value[place] = byte
            data = b"GET / HTTP/1.1\r\n" + HOST + b"X: " + value + b"\r\n\r\n"
            outcome = parse(data)
            assert (outcome[0] == len(data)) == passes, (bytes(value), outcome)
