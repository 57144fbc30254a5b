"""Signals and upgrades in any order, as fast as they come; afterwards everything is as it was.

`make storm` runs the same at length, by FUZZ_FACTOR.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from sockd.errors import OK
from tests.seed import FACTOR, SEED

from .conftest import Load, Service, alive, children, descriptors, eventually
from .test_torture import loaded

UPGRADES = max(1, round(10 * FACTOR))  # under signals each millisecond
STOPS = max(1, round(5 * FACTOR))
KILLS = max(1, round(4 * FACTOR))
MILLISECOND = 0.001


class Storm:
    """Signals to the master, each millisecond, for as long as the block lasts."""

    def __init__(self, service: Service, *numbers: int) -> None:
        self.service = service
        self.numbers = numbers
        self.sent = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.wait(MILLISECOND):
            for number in self.numbers:
                with contextlib.suppress(ProcessLookupError):
                    self.service.send(number)
                    self.sent += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()


def settled(service: Service, fds: int, family: int) -> None:
    """No reload is left to do, and no process or descriptor is too many."""
    eventually(lambda: service.status()["state"] == "serving", patience=120)
    eventually(lambda: len(children(service.pid)) == family, patience=120)
    eventually(lambda: descriptors(service.pid) <= fds)


def test_a_hundred_reloads_in_a_second(service: Service):
    service.start().ready()
    fds, family = descriptors(service.pid), len(children(service.pid))
    with loaded(service):
        for _ in range(100):
            service.send(signal.SIGHUP)
            time.sleep(0.01)
        answer = service.ask("POST", "/reload")[1]
        assert answer["ok"]
        settled(service, fds, family)
    reloads = service.status()["reloads"]
    assert reloads["failed"] == 0
    assert 1 <= reloads["ok"] <= 101
    assert service.stop() == OK


def test_upgrades_under_signals_each_millisecond(service: Service):
    service.start().ready()
    fds, family = descriptors(service.pid), len(children(service.pid))
    with loaded(service), Storm(service, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1) as storm:
        for _ in range(UPGRADES):
            answer = service.ask("POST", "/upgrade")[1]
            assert answer["ok"], answer
            assert answer["from"]
    assert storm.sent > 100
    settled(service, fds, family)
    assert service.ask("POST", "/reload")[1]["ok"]
    assert service.log().count("in place") == UPGRADES
    assert service.status()["reloads"]["failed"] == 0
    settled(service, fds, family)
    assert service.stop() == OK


class Supervised:
    """A service whose listening socket outlives it, and that is started again when it ends."""

    def __init__(self, service: Service, listener: socket.socket) -> None:
        self.service = service
        self.passes = f'exec 3<&{listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        service.inherit = (listener.fileno(),)

    def start(self) -> None:
        self.service.start(["bash", "-c", self.passes, "bash"])


@pytest.fixture
def supervised(service: Service) -> Iterator[Supervised]:
    service.bind = str(service.directory / "activated.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(service.bind)
        listener.listen(64)
        yield Supervised(service, listener)


def test_stops_amid_upgrades_and_reloads(supervised: Supervised):
    """Each at another moment: of the proof, of the exec, of the reload that follows."""
    random_ = random.Random(SEED)
    service = supervised.service
    service.settings["timeouts.drain"] = "10s"
    with Load(service, clients=3) as load:
        for _ in range(STOPS):
            supervised.start()
            service.ready()
            pids = service.seen
            numbers = signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR2
            with Storm(service, *numbers):
                time.sleep(random_.random())
                with Storm(service, signal.SIGTERM):
                    assert service.wait() == OK
            eventually(lambda: not any(map(alive, pids)))  # noqa: B023
        supervised.start()
        service.ready()
    assert load.failures == []
    assert load.answers
    assert service.stop() == OK


def test_a_master_that_is_killed_again_and_again(supervised: Supervised):
    """Also amid upgrades. What it leaves finishes what it has in hand, and ends."""
    random_ = random.Random(SEED)
    service = supervised.service
    service.settings["timeouts.drain"] = "10s"
    with Load(service, clients=3) as load, Load(service, clients=1, path="/sleep/0.2") as slow:
        for turn in range(KILLS):
            supervised.start()
            service.ready()
            family = children(service.pid)
            if turn % 2:
                service.send(signal.SIGUSR2)
                time.sleep(random_.random())
            family += children(service.pid)
            service.send(signal.SIGKILL)
            assert service.wait() == -signal.SIGKILL
            eventually(lambda: not any(map(alive, family)))  # noqa: B023
        supervised.start()
        service.ready()
    assert load.failures == []
    assert slow.failures == []
    assert load.answers
    assert slow.answers
    assert service.stop() == OK
