"""Opening handshakes of WebSocket (RFC 6455 4.2) and the offers of compression (RFC 7692 7.1)."""

from __future__ import annotations

import pytest

from sockd.http.handshake import Deflate, Opening, Refused

Field = tuple[bytes, bytes]

SAMPLE: list[Field] = [  # RFC 6455 1.2
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"Origin", b"http://example.com"),
    (b"Sec-WebSocket-Version", b"13"),
]
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
)
WISH = Deflate(server_max_window_bits=15, client_max_window_bits=15)


def fields(*others: Field) -> list[Field]:
    """The sample's, with `others` in place of those of the same name; a None value removes."""
    names = {name.lower() for name, _ in others}
    kept = [field for field in SAMPLE if field[0].lower() not in names]
    return kept + [field for field in others if field[1] is not None]


def offer(*values: bytes, wish: Deflate | None = WISH) -> Opening:
    lines = [(b"Sec-WebSocket-Extensions", value) for value in values]
    return Opening(b"GET", 1, fields(*lines), deflate=wish)


def test_the_sample_of_the_rfc() -> None:
    opening = Opening(b"GET", 1, SAMPLE)
    assert opening.subprotocols == [] and opening.deflate is None
    assert opening.accept() == ACCEPTED + b"\r\n"


@pytest.mark.parametrize(
    "others",
    [
        [(b"UPGRADE", b"WebSocket")],
        [(b"Upgrade", b"h2c, websocket")],
        [(b"Upgrade", b"h2c"), (b"Upgrade", b"websocket")],
        [(b"Connection", b"keep-alive, upgrade")],
        [(b"connection", b"keep-alive"), (b"Connection", b"UPGRADE")],
        [(b"sec-websocket-extensions", b"")],
        [(b"sec-websocket-extensions", b" , ,")],
    ],
)
def test_accepts(others: list[Field]) -> None:
    assert Opening(b"GET", 1, fields(*others), deflate=WISH).accept() == ACCEPTED + b"\r\n"


KEY, VERSION = b"Sec-WebSocket-Key", b"Sec-WebSocket-Version"
PROTOCOL, EXTENSIONS = b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions"

REFUSED = {
    "no Upgrade": [(b"Upgrade", None)],
    "another Upgrade": [(b"Upgrade", b"websockets")],
    "a version in Upgrade": [(b"Upgrade", b"websocket/13")],
    "no Connection": [(b"Connection", None)],
    "another Connection": [(b"Connection", b"keep-alive")],
    "no key": [(KEY, None)],
    "two keys": [(KEY, b"dGhlIHNhbXBsZSBub25jZQ=="), (KEY, b"dGhlIHNhbXBsZSBub25jZQ==")],
    "a key of 15 bytes": [(KEY, b"dGhlIHNhbXBsZSBub25j")],
    "a key of 17 bytes": [(KEY, b"dGhlIHNhbXBsZSBub25jZWE=")],
    "a key without padding": [(KEY, b"dGhlIHNhbXBsZSBub25jZQ")],
    "a key with a space": [(KEY, b"dGhlIHNhbXBsZSBub25j ZQ==")],
    "a key that is not base64": [(KEY, b"dGhlIHNhbXBsZSBub25j*Q==")],
    "a key beyond ASCII": [(KEY, b"\xe9" * 24)],
    "no version": [(VERSION, None)],
    "two versions": [(VERSION, b"13"), (VERSION, b"13")],
    "an empty subprotocol": [(PROTOCOL, b"")],
    "only empty subprotocols": [(PROTOCOL, b", ,")],
    "a subprotocol that is no token": [(PROTOCOL, b"chat, a b")],
    "a subprotocol beyond ASCII": [(PROTOCOL, b"ch\xe4t")],
    "a subprotocol twice": [(PROTOCOL, b"chat, soap, chat")],
    "a subprotocol twice in two lines": [(PROTOCOL, b"chat"), (PROTOCOL, b"chat")],
    "an extension that is no token": [(EXTENSIONS, b"a b")],
    "an extension without a name": [(EXTENSIONS, b"; a")],
    "a parameter without a name": [(EXTENSIONS, b"a; =1")],
    "a parameter without a value": [(EXTENSIONS, b"a; b=")],
    "an empty parameter": [(EXTENSIONS, b"a;")],
    "an empty parameter between": [(EXTENSIONS, b"a;;b")],
    "an empty quoted string": [(EXTENSIONS, b'a; b=""')],
    "a quoted string that is no token": [(EXTENSIONS, b'a; b="c d"')],
    "a quoted string without end": [(EXTENSIONS, b'a; b="c')],
    "bytes behind a quoted string": [(EXTENSIONS, b'a; b="c"d')],
    "a second value": [(EXTENSIONS, b"a; b=c=d")],
    "malformed behind a good offer": [(EXTENSIONS, b"permessage-deflate, a; b=")],
    "malformed in the second line": [(EXTENSIONS, b"permessage-deflate"), (EXTENSIONS, b"=")],
}


@pytest.mark.parametrize("wish", [None, WISH])
@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str, wish: Deflate | None) -> None:
    with pytest.raises(Refused) as refused:
        Opening(b"GET", 1, fields(*REFUSED[name]), deflate=wish)
    assert refused.value.status == 400 and refused.value.fields == ()
    assert str(refused.value)


@pytest.mark.parametrize(("method", "minor"), [(b"POST", 1), (b"get", 1), (b"GET", 0)])
def test_refuses_another_request(method: bytes, minor: int) -> None:
    with pytest.raises(Refused, match=r"GET in HTTP/1\.1") as refused:
        Opening(method, minor, SAMPLE)
    assert refused.value.status == 400


@pytest.mark.parametrize("version", [b"8", b"0", b"14", b"", b"013", b"13, 8", b"thirteen"])
def test_another_version_is_told_ours(version: bytes) -> None:
    with pytest.raises(Refused) as refused:
        Opening(b"GET", 1, fields((VERSION, version)))
    assert refused.value.status == 426
    assert dict(refused.value.fields) == {
        VERSION: b"13", b"Upgrade": b"websocket", b"Connection": b"Upgrade",
    }  # fmt: skip


def test_subprotocols() -> None:
    lines = [(PROTOCOL, b"soap, ,wamp"), (b"sec-websocket-protocol", b"\tchat ")]
    opening = Opening(b"GET", 1, fields(*lines))
    assert opening.subprotocols == ["soap", "wamp", "chat"]
    assert opening.accept() == ACCEPTED + b"\r\n"
    assert opening.accept("wamp") == ACCEPTED + b"Sec-WebSocket-Protocol: wamp\r\n\r\n"
    with pytest.raises(ValueError, match="'mqtt'"):
        opening.accept("mqtt")
    with pytest.raises(ValueError, match="'Chat'"):
        opening.accept("Chat")


def test_fields_of_the_application() -> None:
    opening = Opening(b"GET", 1, SAMPLE)
    mine = [(b"Set-Cookie", b"a=b"), (b"x", b"\xe9\t")]
    assert opening.accept(fields=mine) == ACCEPTED + b"Set-Cookie: a=b\r\nx: \xe9\t\r\n\r\n"


@pytest.mark.parametrize(
    "field",
    [
        (b"a b", b""), (b"", b""), (b"a:", b""), (b"a\r\nb", b""), (b"a", b"b\r\nc: d"),
        (b"a", b"\n"), (b"a", b"\0"), (b"a\n", b""), (b"Upgrade", b"h2c"),
        (b"CONNECTION", b"close"), (b"sec-websocket-accept", b"x"), (EXTENSIONS, b"x"),
        (PROTOCOL, b"x"), (b"Content-Length", b"0"), (b"transfer-encoding", b"chunked"),
    ],
)  # fmt: skip
def test_fields_that_may_not_be_in_the_answer(field: Field) -> None:
    with pytest.raises(ValueError, match=r"no field of|no value of"):
        Opening(b"GET", 1, SAMPLE).accept(fields=[field])


def agreed(opening: Opening) -> bytes | None:
    head = opening.accept()
    assert (b"Sec-WebSocket-Extensions" in head) == (opening.deflate is not None)
    return head.partition(b"Extensions: ")[2].partition(b"\r\n")[0] or None


SERVER_ALONE, CLIENT_ALONE = b"; server_no_context_takeover", b"; client_no_context_takeover"
ON = b"permessage-deflate"

# What is offered, and what is answered to it by a server that agrees to anything.
OFFERS = {
    ON: ON,
    ON + SERVER_ALONE: ON + SERVER_ALONE,
    ON + CLIENT_ALONE: ON + CLIENT_ALONE,
    ON + CLIENT_ALONE + SERVER_ALONE: ON + SERVER_ALONE + CLIENT_ALONE,
    ON + b"; server_max_window_bits=10": ON + b"; server_max_window_bits=10",
    ON + b'; server_max_window_bits="10"': ON + b"; server_max_window_bits=10",
    ON + b'; server_max_window_bits="1\\0"': ON + b"; server_max_window_bits=10",
    ON + b"; server_max_window_bits=15": ON + b"; server_max_window_bits=15",
    ON + b"; client_max_window_bits": ON,
    ON + b"; client_max_window_bits=15": ON,
    ON + b"; client_max_window_bits=8": ON + b"; client_max_window_bits=8",
    ON + b";server_max_window_bits =\t9 ; client_max_window_bits = 9 ":
        ON + b"; server_max_window_bits=9; client_max_window_bits=9",
    b"x-webkit-deflate-frame, " + ON: ON,
    b" ,,\t" + ON + b" , ": ON,
    b"a; b; c=d; e=\"f\", " + ON: ON,
    # 7.1.2.1 etc.: offers that are declined, alone and before one that is not.
    b"": None,
    b"permessage-bzip2": None,
    b"Permessage-Deflate": None,
    ON + b"; unknown": None,
    ON + b"; unknown=1": None,
    ON + b"; server_no_context_takeover=1": None,
    ON + b"; client_no_context_takeover=true": None,
    ON + SERVER_ALONE + SERVER_ALONE: None,
    ON + b"; client_max_window_bits; client_max_window_bits=9": None,
    ON + b"; server_max_window_bits": None,
    ON + b"; server_max_window_bits=7": None,
    ON + b"; server_max_window_bits=8": None,  # zlib has no such compressor
    ON + b"; server_max_window_bits=16": None,
    ON + b"; server_max_window_bits=09": None,
    ON + b"; server_max_window_bits=1": None,
    ON + b"; client_max_window_bits=7": None,
    ON + b"; client_max_window_bits=16": None,
    ON + b"; client_max_window_bits=a": None,
    ON + b"; client_max_window_bits=015": None,
    ON + b"; unknown, " + ON + SERVER_ALONE: ON + SERVER_ALONE,
    ON + b"; server_max_window_bits=8, " + ON: ON,
}  # fmt: skip


@pytest.mark.parametrize("offered", OFFERS)
def test_offers(offered: bytes) -> None:
    assert agreed(offer(offered)) == OFFERS[offered]
    assert agreed(offer(offered, wish=None)) is None
    assert agreed(offer(b"other", offered)) == OFFERS[offered]
    # RFC 7692 5.1: the first that can be accepted.
    assert agreed(offer(offered, ON + b"; server_max_window_bits=9")) == (
        OFFERS[offered] or ON + b"; server_max_window_bits=9"
    )


@pytest.mark.parametrize(
    ("wish", "offered", "answered", "inflates"),
    [
        (Deflate(), ON, ON + b"; server_max_window_bits=12", 15),
        (
            Deflate(), ON + b"; client_max_window_bits",
            ON + b"; server_max_window_bits=12; client_max_window_bits=12", 12,
        ),
        (
            Deflate(), ON + b"; server_max_window_bits=10; client_max_window_bits=11",
            ON + b"; server_max_window_bits=10; client_max_window_bits=11", 11,
        ),
        (
            Deflate(), ON + b"; server_max_window_bits=14; client_max_window_bits=14",
            ON + b"; server_max_window_bits=12; client_max_window_bits=12", 12,
        ),
        (
            Deflate(True, True), ON,
            ON + SERVER_ALONE + CLIENT_ALONE + b"; server_max_window_bits=12", 15,
        ),
    ],
)  # fmt: skip
def test_what_the_server_wishes(
    wish: Deflate, offered: bytes, answered: bytes, inflates: int
) -> None:
    opening = offer(offered, wish=wish)
    assert agreed(opening) == answered
    assert opening.deflate is not None
    # RFC 7692 7.1.2.2: a client that does not say so may use any window.
    assert opening.deflate.client_max_window_bits == inflates
