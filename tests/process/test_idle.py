"""A service that ends when nobody needs it. The test holds the socket, as systemd does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from .conftest import Manager, Service, eventually

Activated = Callable[[], Service]


@pytest.fixture
def activated(service: Service) -> Iterator[Activated]:
    service.bind = str(service.directory / "activated.sock")
    service.settings["timeouts.idle_exit"] = "1s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(service.bind)
        listener.listen(64)
        service.inherit = (listener.fileno(),)

        def start() -> Service:
            passes = f'exec 3<&{listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
            return service.start(["bash", "-c", passes, "bash"])

        yield start


def test_it_ends_and_the_next_client_finds_the_next_one(activated: Activated, manager: Manager):
    service = activated().ready()
    assert service.wait() == 0
    assert "no connection for 1 s: ending until the next one" in service.log()
    manager.expect("STOPPING=1")
    answer: list[int] = []
    thread = threading.Thread(target=lambda: answer.append(service.get()[0]))
    thread.start()
    time.sleep(0.2)
    assert not answer  # queued in the kernel
    activated().ready()
    thread.join()
    assert answer == [200]
    assert service.wait() == 0


def test_an_open_connection_keeps_it(activated: Activated):
    service = activated().ready()
    with contextlib.closing(service.connect()) as connection:
        connection.connect()
        time.sleep(3)
        connection.request("GET", "/")
        assert connection.getresponse().read()
    assert service.wait() == 0


def test_requests_keep_it(activated: Activated):
    service = activated().ready()
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert service.get()[0] == 200
        time.sleep(0.3)
    assert service.process
    assert service.process.poll() is None
    assert service.wait() == 0


def test_no_client_is_lost_between_two_of_them(activated: Activated):
    """One that comes at any moment of an end is answered, by this one or the next."""
    service = activated().ready()
    service.stop()
    service.settings |= {"timeouts.idle_exit": "100ms", "workers": 1}
    end = threading.Event()
    answers: list[object] = []

    def ask() -> None:
        pause = 0.0
        while not end.is_set():
            try:
                answers.append(service.get()[0])
            except OSError as error:
                answers.append(error)
            pause = (pause + 0.013) % 0.3
            time.sleep(pause)

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(12):
        activated()
        assert service.wait() == 0
    end.set()
    activated()
    thread.join()
    assert set(answers) == {200}
    assert len(answers) >= 12
    assert service.wait() == 0


def test_sockets_of_its_own_end_with_it_so_it_stays(service: Service):
    service.settings["timeouts.idle_exit"] = "100ms"
    service.start().ready()
    assert "timeouts.idle_exit has no effect" in service.log()
    time.sleep(1)
    assert service.get()[0] == 200
    eventually(lambda: service.workers())
    assert service.stop() == 0
