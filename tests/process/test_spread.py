"""Which worker takes a connection: nobody has more than its share while others are idle."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import PATIENCE, Service, eventually

WORKERS = 4
CONNECTIONS = 64
MEAN = CONNECTIONS // WORKERS
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, service: Service) -> Iterator[str | tuple[str, int]]:
    """Where a service of four workers listens."""
    service.settings["workers"] = WORKERS
    if request.param == "unix":
        service.start().ready()
        yield service.bind
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service.settings["bind"] = [f"127.0.0.1:{port}"]
    service.start().ready()
    yield ("127.0.0.1", port)


def connect(address: str | tuple[str, int]) -> socket.socket:
    client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    client.settimeout(PATIENCE)
    client.connect(address)
    return client


def ask(client: socket.socket) -> None:
    client.sendall(REQUEST)
    assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def spread(service: Service) -> list[int]:
    """Connections of each worker, once all are accepted."""

    def counted() -> list[int]:
        counts = [worker["connections"] for worker in service.status()["workers"]]
        return counts if sum(counts) == CONNECTIONS else []

    return list(eventually(counted))


def close(clients: list[socket.socket], service: Service) -> None:
    for client in clients:
        client.close()
    eventually(lambda: not any(w["connections"] for w in service.status()["workers"]))


def assert_fair(counts: list[int]) -> None:
    assert all(MEAN * 3 / 4 <= count <= MEAN * 5 / 4 for count in counts), counts


def test_one_after_the_other(service: Service, address: str | tuple[str, int]) -> None:
    clients = []
    for _ in range(CONNECTIONS):
        clients.append(connect(address))
        ask(clients[-1])
    assert_fair(spread(service))
    for client in clients:
        ask(client)
    close(clients, service)


@pytest.mark.parametrize("asking", [False, True], ids=["silent", "asking"])
def test_bursts_of_one_client(
    service: Service, address: str | tuple[str, int], asking: bool
) -> None:
    for _ in range(5):
        clients = [connect(address) for _ in range(CONNECTIONS)]
        if asking:
            for client in clients:
                client.sendall(REQUEST)
            for client in clients:
                assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert_fair(spread(service))
        close(clients, service)


def test_bursts_of_several_clients(service: Service, address: str | tuple[str, int]) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in range(5):
            clients = list(pool.map(lambda _: connect(address), range(CONNECTIONS)))
            assert_fair(spread(service))
            list(pool.map(ask, clients))
            close(clients, service)


def test_a_stuck_worker_is_left_out(service: Service, address: str | tuple[str, int]) -> None:
    """Its share is not waited for: the others take all that comes."""
    stuck = threading.Thread(target=lambda: service_sleeps(address))
    stuck.start()
    busy = eventually(lambda: [w["id"] for w in service.status()["workers"] if w["active"]])
    clients = [connect(address) for _ in range(CONNECTIONS)]
    for client in clients:
        ask(client)
    workers = service.status()["workers"]
    share = CONNECTIONS / (WORKERS - 1)
    counts = [worker["connections"] for worker in workers if worker["id"] not in busy]
    assert len(counts) == WORKERS - 1
    assert all(share * 3 / 4 <= count <= share * 5 / 4 for count in counts), counts
    stuck.join(PATIENCE)
    close(clients, service)


def service_sleeps(address: str | tuple[str, int]) -> None:
    with connect(address) as client:
        client.sendall(b"GET /sleep/3 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_every_thread_of_every_worker_gets_one(service: Service) -> None:
    """16 requests that sleep, 4 workers of 4 threads: all run at the same time."""
    service.settings.update({"workers": WORKERS, "threads": 4})
    service.start().ready()
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(service.get, "/sleep/3") for _ in range(16)]
        eventually(lambda: [w["active"] for w in service.status()["workers"]] == [4] * WORKERS)
        assert all(answer.result()[0] == 200 for answer in answers)
