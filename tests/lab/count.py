"""The client that counts bytes: runs inside a machine, with the standard library only.

    python3 count.py PORT CLIENTS REQUESTS

Each client asks so many times over one connection, or a new one when the server has closed it, and
prints as one JSON object what all of them have sent and received: `requests`, `failed` (5xx),
`missing` (4xx), `sent` and `received` (bytes).
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter

PATHS = ("/", "/", "/404", "/500", "/large")


def client(port: int, requests: int, tally: Counter[str]) -> None:
    connection = None
    for number in range(requests):
        if connection is None:
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        path = PATHS[number % len(PATHS)]
        request = f"GET {path}?{number} HTTP/1.1\r\nHost: count\r\n\r\n".encode()
        connection.sendall(request)
        head, body = b"", b""
        while b"\r\n\r\n" not in head:
            head += receive(connection)
        head, _, body = head.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        while len(body) < int(fields["Content-Length"]):
            body += receive(connection)
        status = int(head.split()[1])
        tally["requests"] += 1
        tally["failed"] += status >= 500
        tally["missing"] += 400 <= status < 500
        tally["sent"] += len(request)
        tally["received"] += len(head) + 4 + len(body)
        if fields.get("Connection") == "close":
            connection.close()
            connection = None
    if connection:
        connection.close()


def receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "closed within a response"
    return data


def main() -> None:
    port, clients, requests = map(int, sys.argv[1:])
    tallies: list[Counter[str]] = [Counter() for _ in range(clients)]
    threads = [threading.Thread(target=client, args=(port, requests, t)) for t in tallies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(sum(tallies, Counter())))


if __name__ == "__main__":
    main()
