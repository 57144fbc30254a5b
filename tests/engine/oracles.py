"""Other parsers' reading of a request, to hold against sockd's."""

from __future__ import annotations

from dataclasses import dataclass

import h11
import httptools


@dataclass(frozen=True)
class Message:
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    end: int


@dataclass(frozen=True)
class Refusal:
    reason: str


Reading = Message | Refusal | None
"""None: the request is not complete."""


def h11_reads(data: bytes) -> Reading:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    body = b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                end = len(data) - len(connection.trailing_data[0])
                fields = tuple((bytes(name), bytes(value)) for name, value in request.headers)
                return Message(request.method, request.target, fields, body, end)
    except h11.RemoteProtocolError as error:
        return Refusal(str(error))


class _Collector:
    def __init__(self) -> None:
        self.target = b""
        self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.in_head = True
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:
            self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.in_head = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def httptools_reads(data: bytes) -> Reading:
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    for at in range(len(data)):  # byte by byte, which tells where the request ends
        try:
            parser.feed_data(data[at : at + 1])
        except httptools.HttpParserUpgrade:
            return Refusal("HttpParserUpgrade")
        except httptools.HttpParserError as error:
            return Refusal(f"{type(error).__name__}: {error}")
        if collector.complete:
            method = parser.get_method()
            fields = tuple(collector.fields)
            return Message(method, collector.target, fields, collector.body, at + 1)
    return None


ORACLES = {"h11": h11_reads, "httptools": httptools_reads}
