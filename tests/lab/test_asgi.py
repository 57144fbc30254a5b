"""An ASGI application behind nginx, WebSocket included."""

from __future__ import annotations

from tests.lab.service import Service

APP = """
VERSION = "{version}"

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            asked = (await receive())["type"]
            await send({{"type": f"{{asked}}.complete"}})
    elif scope["type"] == "websocket":
        await receive()
        await send({{"type": "websocket.accept"}})
        while (event := await receive())["type"] == "websocket.receive":
            await send({{**event, "type": "websocket.send"}})
    else:
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": VERSION.encode()}})
"""

# Says hello in a WebSocket, reloads the service, and prints the code that it is closed with.
CLIENT = """
import socket, subprocess, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)
client.sendall(
    b"GET /talk HTTP/1.1\\r\\nHost: a\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    b"Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n"
    b"\\x81\\x85\\0\\0\\0\\0hello"
)
told = client.makefile("rb")
assert told.readline().startswith(b"HTTP/1.1 101 ")
while told.readline() != b"\\r\\n":
    pass
assert told.read(7) == b"\\x81\\x05hello"
subprocess.run(["systemctl", "reload", sys.argv[2]], check=True)
head = told.read(2)
assert head[0] == 0x88, head
print(int.from_bytes(told.read(head[1])[:2], "big"))
client.sendall(b"\\x88\\x82\\0\\0\\0\\0\\x03\\xf4")
assert told.read() == b""
"""


def test_requests_and_websockets_through_nginx(service: Service) -> None:
    service.configure(APP.format(version="one"))
    service.systemctl("start")
    assert service.get() == "one"
    with service.load(service.url) as load:
        service.write(APP.format(version="two"))
        code = service.machine.out("python3", "-c", CLIENT, str(service.port), service.name)
        assert code.strip() == "1012"
        assert service.get() == "two"
    load.assert_nothing_failed()
