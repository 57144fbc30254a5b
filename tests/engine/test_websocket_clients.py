"""Whole connections of other implementations' clients (wsproto, websockets) to the engine."""

from __future__ import annotations

import pytest
import websockets.client
import websockets.extensions.permessage_deflate
import websockets.frames
import websockets.uri
import wsproto
import wsproto.events
import wsproto.extensions
from frames import RSV1, frames_of
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import many

from sockd.http.handshake import Deflate, Opening
from sockd.http.parser import RequestHead
from sockd.http.websocket import Closed, Event, Ping, Pong, WebSocket

Message = str | bytes


class Websockets:
    """A client by websockets; it answers pings by itself."""

    def __init__(self, deflate: Deflate | None) -> None:
        factories = []
        if deflate is not None:
            factories.append(
                websockets.extensions.permessage_deflate.ClientPerMessageDeflateFactory(
                    server_no_context_takeover=deflate.server_no_context_takeover,
                    client_no_context_takeover=deflate.client_no_context_takeover,
                    server_max_window_bits=deflate.server_max_window_bits,
                    client_max_window_bits=deflate.client_max_window_bits,
                )
            )
        self.protocol = websockets.client.ClientProtocol(
            websockets.uri.parse_uri("ws://example.org/"), extensions=factories
        )

    @property
    def compressed(self) -> bool:
        return bool(self.protocol.extensions)

    def request(self) -> bytes:
        self.protocol.send_request(self.protocol.connect())
        return b"".join(self.protocol.data_to_send())

    def send(self, event: Event) -> bytes:
        if isinstance(event, str):
            self.protocol.send_text(event.encode())
        elif isinstance(event, bytes):
            self.protocol.send_binary(event)
        elif isinstance(event, Ping):
            self.protocol.send_ping(event.data)
        elif isinstance(event, Closed):
            self.protocol.send_close(event.code, event.reason)
        return b"".join(self.protocol.data_to_send())

    def pong(self, ping: Ping) -> bytes:
        return b"".join(self.protocol.data_to_send())

    def receive(self, data: bytes) -> list[Event]:
        self.protocol.receive_data(data)
        assert self.protocol.handshake_exc is None and self.protocol.parser_exc is None
        events: list[Event] = []
        for frame in self.protocol.events_received():
            if not isinstance(frame, websockets.frames.Frame):
                continue  # the handshake's
            opcode = frame.opcode.name
            if opcode == "PING":
                events.append(Ping(bytes(frame.data)))
            elif opcode == "PONG":
                events.append(Pong(bytes(frame.data)))
            elif opcode == "CLOSE":
                close = websockets.frames.Close.parse(frame.data)
                events.append(Closed(close.code, close.reason, False))
            else:
                assert frame.fin
                message = bytes(frame.data)
                events.append(message.decode() if opcode == "TEXT" else message)
        return events


class Wsproto:
    """A client by wsproto."""

    def __init__(self, deflate: Deflate | None) -> None:
        self.connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.deflate = None
        if deflate is not None:
            self.deflate = wsproto.extensions.PerMessageDeflate(
                client_no_context_takeover=deflate.client_no_context_takeover,
                server_no_context_takeover=deflate.server_no_context_takeover,
                client_max_window_bits=deflate.client_max_window_bits,
                server_max_window_bits=deflate.server_max_window_bits,
            )

    @property
    def compressed(self) -> bool:
        return bool(self.deflate and self.deflate.enabled())

    def request(self) -> bytes:
        extensions = [self.deflate] if self.deflate else []
        return self.connection.send(
            wsproto.events.Request(host="example.org", target="/", extensions=extensions)
        )

    def send(self, event: Event) -> bytes:
        if isinstance(event, str):
            return self.connection.send(wsproto.events.TextMessage(event))
        if isinstance(event, bytes):
            return self.connection.send(wsproto.events.BytesMessage(event))
        if isinstance(event, Ping):
            return self.connection.send(wsproto.events.Ping(event.data))
        assert isinstance(event, Closed)
        return self.connection.send(wsproto.events.CloseConnection(event.code, event.reason))

    def pong(self, ping: Ping) -> bytes:
        return self.connection.send(wsproto.events.Pong(ping.data))

    def receive(self, data: bytes) -> list[Event]:
        self.connection.receive_data(data)
        events: list[Event] = []
        parts: list[Message] = []
        for event in self.connection.events():
            if isinstance(event, wsproto.events.Message):
                parts.append(event.data)
                if event.message_finished:
                    events.append(type(parts[0])().join(parts))  # type: ignore[arg-type]
                    parts = []
            elif isinstance(event, wsproto.events.Ping):
                events.append(Ping(bytes(event.payload)))
            elif isinstance(event, wsproto.events.Pong):
                events.append(Pong(bytes(event.payload)))
            elif isinstance(event, wsproto.events.CloseConnection):
                events.append(Closed(int(event.code), event.reason or "", False))
        return events


Client = Websockets | Wsproto
CLIENTS = {"websockets": Websockets, "wsproto": Wsproto}


def connect(client: Client, wish: Deflate | None) -> WebSocket:
    head, data = RequestHead(), client.request()
    assert head.feed(data) == len(data)
    opening = Opening(head.method, head.minor, head.fields, deflate=wish)
    client.receive(opening.accept())
    assert client.compressed == (opening.deflate is not None)
    return WebSocket(deflate=opening.deflate)


def read(websocket: WebSocket, data: bytes) -> list[Event]:
    events: list[Event] = []
    at = 0
    while at < len(data):
        event, at = websocket.receive(data, at)
        if event is not None:
            events.append(event)
    return events


WISHES = st.none() | st.builds(
    Deflate,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    server_max_window_bits=st.integers(9, 15),
    client_max_window_bits=st.integers(9, 15),
)
SAID = st.lists(
    st.one_of(
        st.text(max_size=40), st.binary(max_size=40), st.builds(Ping, st.binary(max_size=125)),
        st.sampled_from([b"ab" * 40000, "€uro" * 5000, bytes(range(256)) * 2]),
    ),
    max_size=6,
)  # fmt: skip


@pytest.mark.parametrize("name", CLIENTS)
@many(150)
@given(WISHES, WISHES, SAID, SAID)
def test_a_connection(
    name: str, offered: Deflate | None, wish: Deflate | None, said: list[Event], told: list[Event]
) -> None:
    client = CLIENTS[name](offered)
    websocket = connect(client, wish)
    for event in said:
        assert read(websocket, client.send(event)) == [event]
        answers = client.receive(websocket.take())
        assert answers == ([Pong(event.data)] if isinstance(event, Ping) else [])
    for event in told:
        if isinstance(event, Ping):
            websocket.ping(event.data)
            assert client.receive(websocket.take()) == [event]
            assert read(websocket, client.pong(event)) == [Pong(event.data)]
        else:
            websocket.send(event)
            ((bits, _, _),) = frames_of(sent := websocket.take())
            size = len(event.encode() if isinstance(event, str) else event)
            assert bool(bits & RSV1) == (client.compressed and size >= 64)
            assert client.receive(sent) == [event]
    # Echoes, in one go.
    messages = [event for event in said if not isinstance(event, Ping)]
    assert read(websocket, b"".join(client.send(message) for message in messages)) == messages
    for message in messages:
        websocket.send(message)
    assert client.receive(websocket.take()) == messages


@pytest.mark.parametrize("name", CLIENTS)
def test_the_client_closes(name: str) -> None:
    client = CLIENTS[name](Deflate())
    websocket = connect(client, Deflate())
    assert read(websocket, client.send(Closed(3001, "Tschüß", False))) == [
        Closed(3001, "Tschüß", False)
    ]
    assert client.receive(websocket.take()) == [Closed(3001, "Tschüß", False)]


@pytest.mark.parametrize("name", CLIENTS)
def test_the_server_closes(name: str) -> None:
    client = CLIENTS[name](None)
    websocket = connect(client, None)
    websocket.close(1012, "restart")
    assert client.receive(websocket.take()) == [Closed(1012, "restart", False)]
