"""A WebSocket echo server on the engine, with a thread and a blocking socket for each connection.

`python -m tests.echo PORT` serves Autobahn's fuzzing client (dev/autobahn); PORT 0 takes any. It
prints its address.
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress

from sockd.http.handshake import Deflate, Opening, Refused
from sockd.http.parser import RequestHead
from sockd.http.websocket import WebSocket

LIMIT = 1 << 25


def serve(connection: socket.socket) -> None:
    with connection, suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head, came = RequestHead(), b""
        while not (size := head.feed(came)):
            piece = connection.recv(65536)
            if not piece:
                return
            came += piece
        try:
            opening = Opening(head.method, head.minor, head.fields, deflate=Deflate())
        except Refused as refused:
            fields = b"".join(b"%s: %s\r\n" % field for field in refused.fields)
            body = f"{refused}\n".encode()
            connection.sendall(
                b"HTTP/1.1 %d Refused\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                % (refused.status, fields, len(body), body)
            )
            return
        connection.sendall(opening.accept())
        echo(connection, WebSocket(limit=LIMIT, deflate=opening.deflate), came[size:])


def echo(connection: socket.socket, websocket: WebSocket, came: bytes) -> None:
    while True:
        at = 0
        while at < len(came):
            event, at = websocket.receive(came, at)
            if isinstance(event, str | bytes):
                websocket.send(event)
        connection.sendall(websocket.take())
        if websocket.over:
            break
        came = connection.recv(65536)
        if not came:
            websocket.eof()
            return
    # RFC 6455 7.1.1: closed by the server first; what still comes would make it a reset.
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65536):
        pass


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128) as listener:
        print("ws://{}:{}".format(*listener.getsockname()), flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
