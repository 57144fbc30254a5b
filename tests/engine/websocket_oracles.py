"""Other engines' reading of WebSocket frames (wsproto, websockets), to hold against sockd's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import wsproto.events as events
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import SERVER, Protocol
from wsproto.connection import Connection, ConnectionType
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from sockd.http.handshake import Deflate
from sockd.http.websocket import Closed, Ping, Pong


@dataclass
class Reading:
    events: list[object] = field(default_factory=list)
    """As sockd's; Closed of a failure has the oracle's own reason."""


def wsproto_reads(data: bytes, deflate: Deflate | None) -> Reading:
    extensions = []
    if deflate is not None:
        extension = WsprotoDeflate(client_max_window_bits=deflate.client_max_window_bits)
        extension.client_no_context_takeover = deflate.client_no_context_takeover
        extension._enabled = True
        extensions.append(extension)
    connection = Connection(ConnectionType.SERVER, extensions)
    reading, text, binary = Reading(), "", b""
    connection.receive_data(data)
    for event in connection.events():
        if isinstance(event, events.TextMessage):
            text += event.data
            if event.message_finished:
                reading.events.append(text)
                text = ""
        elif isinstance(event, events.BytesMessage):
            binary += event.data
            if event.message_finished:
                reading.events.append(bytes(binary))
                binary = b""
        elif isinstance(event, events.Ping):
            reading.events.append(Ping(bytes(event.payload)))
        elif isinstance(event, events.Pong):
            reading.events.append(Pong(bytes(event.payload)))
        elif isinstance(event, events.CloseConnection):
            failed = connection.state.name == "OPEN"
            reading.events.append(Closed(int(event.code), event.reason or "", failed))
            break
    return reading


def websockets_reads(data: bytes, deflate: Deflate | None) -> Reading:
    protocol = Protocol(SERVER, max_size=None)
    if deflate is not None:
        protocol.extensions = [
            PerMessageDeflate(
                deflate.client_no_context_takeover, deflate.server_no_context_takeover,
                deflate.client_max_window_bits, deflate.server_max_window_bits,
            )
        ]  # fmt: skip
    protocol.receive_data(data)
    reading, parts, is_text = Reading(), [], False
    for frame in protocol.events_received():
        if frame.opcode is Opcode.PING:
            reading.events.append(Ping(bytes(frame.data)))
        elif frame.opcode is Opcode.PONG:
            reading.events.append(Pong(bytes(frame.data)))
        elif frame.opcode is Opcode.CLOSE:
            closed = protocol.close_rcvd
            assert closed is not None
            reading.events.append(Closed(int(closed.code), closed.reason, False))
        else:
            if frame.opcode is not Opcode.CONT:
                is_text = frame.opcode is Opcode.TEXT
            parts.append(bytes(frame.data))
            if frame.fin:
                message: str | bytes = b"".join(parts)
                parts = []
                if is_text:
                    try:
                        message = bytes(message).decode()
                    except UnicodeDecodeError as error:
                        reading.events.append(Closed(1007, str(error), True))
                        return reading
                reading.events.append(message)
    error = protocol.parser_exc
    if isinstance(error, ProtocolError | UnicodeDecodeError):
        assert protocol.close_sent is not None
        reading.events.append(Closed(int(protocol.close_sent.code), str(error), True))
    return reading


ORACLES: dict[str, Callable[[bytes, Deflate | None], Reading]] = {
    "wsproto": wsproto_reads,
    "websockets": websockets_reads,
}
