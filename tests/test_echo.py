"""The echo server that Autobahn's client is sent to, by the synchronous client of websockets."""

import socket
import threading
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.echo import serve


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=lambda: serve(listener.accept()[0]))
        server.start()
        yield listener.getsockname()
        server.join(20)
        assert not server.is_alive()


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_echoes(address: tuple[str, int], compression: str | None) -> None:
    with connect("ws://{}:{}/".format(*address), compression=compression) as client:
        for message in ("", "Tschüß", b"", bytes(100_000), "€" * 40_000, ["in ", "frag", "ments"]):
            client.send(message)
            assert client.recv() == ("".join(message) if type(message) is list else message)
        assert client.ping().wait(20)
        client.close(3000, "enough")
        assert (client.close_code, client.close_reason) == (3000, "enough")


def test_another_version_is_refused(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n\r\n"
        )
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in answer
