"""The opening handshake of WebSocket (RFC 6455 4.2) and what it agrees upon (RFC 7692 7.1): pure.

A request that is no valid opening raises Refused, which has the answer: status, reason, fields.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Fields = Sequence[tuple[bytes, bytes]]

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
VERSION = b"13"
# RFC 6455 4.2.2, RFC 9110 15.5.22 and 7.8
UPGRADE_REQUIRED = (
    (b"Sec-WebSocket-Version", VERSION),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
)

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 5.6.2
FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# RFC 6455 9.1: what a quoted string holds has to be a token, too.
BLANK = re.compile(rb"[ \t]*,|[ \t]+$")
EXTENSION = re.compile(rb"[ \t]*(%s)[ \t]*" % TOKEN)
PARAMETER = re.compile(rb';[ \t]*(%s)[ \t]*(?:=[ \t]*(?:(%s)|"((?:\\?%s)+)")[ \t]*)?' % (
    TOKEN, TOKEN, TOKEN[:-1]
))  # fmt: skip
WINDOW_BITS = re.compile(rb"[89]|1[0-5]")

# The answer writes these itself; what an application says of the connection is not asked for.
OURS = {
    b"connection",
    b"content-length",
    b"sec-websocket-accept",
    b"sec-websocket-extensions",
    b"sec-websocket-protocol",
    b"transfer-encoding",
    b"upgrade",
}


class Refused(Exception):
    """An opening that cannot be accepted: the peer's fault. `fields` belong to the answer."""

    def __init__(self, reason: str, status: int = 400, fields: Fields = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.fields = fields


@dataclass(frozen=True)
class Deflate:
    """The parameters of permessage-deflate (RFC 7692 7.1): what is agreed upon, or, as the
    server's wish, the most that it agrees to.

    Window bits are the logarithm of the window's size in bytes. Once both sides have sent
    compressed messages, a connection of 12 bits keeps 50 KiB, one of 15 bits up to 310 KiB, and
    without takeover of the context nothing."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 12
    client_max_window_bits: int = 12


class Opening:
    """A client's opening handshake. `fields` are the request's, `deflate` is what the server
    wishes, None without compression.

    `subprotocols` are those that the client speaks, the dearest first. `deflate` is what an answer
    agrees to, None for no compression."""

    def __init__(
        self, method: bytes, minor: int, fields: Iterable[tuple[bytes, bytes]],
        *, deflate: Deflate | None = None,
    ) -> None:  # fmt: skip
        named: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            named.setdefault(name.lower(), []).append(value)
        if method != b"GET" or minor != 1:
            raise Refused("a WebSocket is opened by GET in HTTP/1.1")
        if b"websocket" not in words(named.get(b"upgrade", [])):
            raise Refused("Upgrade does not name websocket")
        if b"upgrade" not in words(named.get(b"connection", [])):
            raise Refused("Connection does not name Upgrade")
        if only(named, b"Sec-WebSocket-Version") != VERSION:
            raise Refused("the version of WebSocket is not 13", 426, UPGRADE_REQUIRED)
        self._key = only(named, b"Sec-WebSocket-Key")
        try:
            nonce = base64.b64decode(self._key, validate=True)
        except binascii.Error:
            nonce = b""
        if len(nonce) != 16:
            raise Refused("Sec-WebSocket-Key is not 16 bytes in base64")
        self.subprotocols = subprotocols(named.get(b"sec-websocket-protocol"))
        offers = list(extensions(named.get(b"sec-websocket-extensions", [])))
        self.deflate: Deflate | None = None
        self._extension = b""
        if deflate is not None:
            for name, parameters in offers:
                agreed = agree(parameters, deflate) if name == b"permessage-deflate" else None
                if agreed:
                    self.deflate, self._extension = agreed
                    break

    def accept(self, subprotocol: str | None = None, fields: Fields = ()) -> bytes:
        """The head of the answer that opens the connection; `fields` are the application's.

        ValueError for what may not be in it."""
        accept = base64.b64encode(hashlib.sha1(self._key + GUID, usedforsecurity=False).digest())
        head = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + accept,
        ]
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise ValueError(f"the client does not speak the subprotocol {subprotocol!r}")
            head.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode())
        if self._extension:
            head.append(b"Sec-WebSocket-Extensions: " + self._extension)
        for name, value in fields:
            if name.lower() in OURS or not re.fullmatch(TOKEN, name):
                raise ValueError(f"{name!r} is no field of an answer that opens a WebSocket")
            if not FIELD_VALUE.fullmatch(value):
                raise ValueError(f"{value!r} is no value of a field")
            head.append(name + b": " + value)
        return b"\r\n".join(head) + b"\r\n\r\n"


def only(named: dict[bytes, list[bytes]], name: bytes) -> bytes:
    """The value of a field that has to be there once (RFC 6455 11.3)."""
    values = named.get(name.lower(), [])
    if len(values) != 1:
        raise Refused(f"{name.decode()} is {'repeated' if values else 'missing'}")
    return values[0]


def words(values: list[bytes]) -> list[bytes]:
    """The members of lists (RFC 9110 5.6.1), in lower case."""
    return [word.strip(b" \t").lower() for value in values for word in value.split(b",")]


def subprotocols(values: list[bytes] | None) -> list[str]:
    """RFC 6455 4.1, 11.3.4: tokens, each named once."""
    if values is None:
        return []
    names = [word.strip(b" \t") for value in values for word in value.split(b",")]
    names = [name for name in names if name]
    if not names or not all(re.fullmatch(TOKEN, name) for name in names):
        raise Refused("malformed Sec-WebSocket-Protocol")
    if len(set(names)) < len(names):
        raise Refused("Sec-WebSocket-Protocol names one twice")
    return [name.decode() for name in names]


def extensions(values: list[bytes]) -> Iterator[tuple[bytes, list[tuple[bytes, bytes | None]]]]:
    """Names and parameters of all that is offered (RFC 6455 9.1)."""
    for value in values:
        at = 0
        while True:
            while blank := BLANK.match(value, at):
                at = blank.end()  # RFC 9110 5.6.1: empty members are ignored
            if at == len(value):
                break
            match = EXTENSION.match(value, at)
            if not match:
                raise Refused("malformed Sec-WebSocket-Extensions")
            name, parameters, at = match[1], [], match.end()
            while match := PARAMETER.match(value, at):
                text = match[2] if match[3] is None else match[3].replace(b"\\", b"")
                parameters.append((match[1], text))
                at = match.end()
            if at < len(value) and value[at] != ord(","):
                raise Refused("malformed Sec-WebSocket-Extensions")
            yield name, parameters


def agree(
    parameters: list[tuple[bytes, bytes | None]], wish: Deflate
) -> tuple[Deflate, bytes] | None:
    """What is agreed upon and the words of the answer; None to decline (RFC 7692 5.1, 7.1)."""
    offer = dict(parameters)
    if len(offer) < len(parameters):
        return None
    server_alone = client_alone = False
    server_bits, client_bits = wish.server_max_window_bits, 15
    for name, value in parameters:
        if name == b"server_no_context_takeover" and value is None:
            server_alone = True
        elif name == b"client_no_context_takeover" and value is None:
            client_alone = True
        elif name == b"server_max_window_bits" and value and WINDOW_BITS.fullmatch(value):
            server_bits = min(int(value), server_bits)
        elif name == b"client_max_window_bits" and value is None:
            client_bits = wish.client_max_window_bits
        elif name == b"client_max_window_bits" and value and WINDOW_BITS.fullmatch(value):
            client_bits = min(int(value), wish.client_max_window_bits)
        else:
            return None
    if server_bits == 8:
        return None  # zlib.h, deflateInit2: no raw deflate with a window of 256 bytes
    agreed = Deflate(
        server_no_context_takeover=server_alone or wish.server_no_context_takeover,
        client_no_context_takeover=client_alone or wish.client_no_context_takeover,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
    )
    words = [b"permessage-deflate"]
    if agreed.server_no_context_takeover:
        words.append(b"server_no_context_takeover")
    if agreed.client_no_context_takeover:
        words.append(b"client_no_context_takeover")
    if server_bits < 15 or b"server_max_window_bits" in offer:  # RFC 7692 7.1.2.1
        words.append(b"server_max_window_bits=%d" % server_bits)
    if client_bits < 15:
        words.append(b"client_max_window_bits=%d" % client_bits)
    return agreed, b"; ".join(words)
