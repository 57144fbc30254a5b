"""Connections that outlive the worker that accepted them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keepalive import NOTES, Conversation, Talks

from .conftest import Service, alive, eventually


@pytest.fixture
def notes(service: Service, tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    service.write(NOTES.format(path=str(path)))
    return path


def version(service: Service, number: int) -> None:
    text = (service.app / "application.py").read_text()
    service.write(text.replace(text.split('"')[1], str(number), 1))


def open_gate(notes: Path) -> None:
    Path(f"{notes}.gate").touch()


def reload(service: Service) -> None:
    code, answer = service.ask("POST", "/reload")
    assert (code, answer["ok"]) == (200, True), answer


@pytest.mark.parametrize("threads", [1, 4])
def test_whatever_replaces_workers_no_connection_ends(
    service: Service, notes: Path, threads: int
) -> None:
    service.settings |= {"workers": 3, "threads": threads, "recycle.max_requests": 300}
    service.start().ready()
    seed = random.randrange(1 << 30)
    with Talks(service.bind, seed=seed) as talks:
        for number in range(2, 8):
            version(service, number)
            reload(service)
            assert {talk.ask() for talk in talks.waiting} == {str(number)}
            talks.count += len(talks.waiting)
            worker = random.choice(list(service.workers().values()))
            os.kill(worker, signal.SIGTERM)
            service.ask("POST", "/workers", {"by": 1})
            service.ask("POST", "/workers", {"by": -1})
    talks.assert_each_ran_once(notes)
    assert "died" not in service.log()
    assert "Traceback" not in service.log()
    assert service.stop() == 0


def test_after_a_reload_old_code_answers_no_connection(service: Service, notes: Path) -> None:
    """Not even those of a worker that is busy all the time, and hears nothing."""
    service.settings |= {"workers": 1}
    service.start().ready()
    talks = [Conversation(service.bind) for _ in range(8)]
    busy, half, *idle = talks
    for talk in talks:
        assert talk.ask() == "1"
    request = half.request()
    half.socket.sendall(request[:10])
    behind = busy.request("gate") + busy.request()
    busy.socket.sendall(behind)
    eventually(lambda: len(notes.read_text().split()) == 9)
    version(service, 2)
    reload(service)
    assert [talk.ask() for talk in idle] == ["2"] * 6
    half.socket.sendall(request[10:])
    assert half.answer() == "2"
    open_gate(notes)
    assert [busy.answer(), busy.answer()] == ["1", "2"]
    assert all(talk.is_open() for talk in talks)
    for talk in talks:
        talk.close()
    assert service.stop() == 0


class Keeper:
    """A service manager that holds the listening socket and what it is given to store; starts the
    service again when told to."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(service.directory / "notify"))
        self.notify.settimeout(0.05)
        service.environ["NOTIFY_SOCKET"] = str(service.directory / "notify")
        service.bind = str(service.directory / "kept.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(service.bind)
        self.listener.listen(128)
        self.stored: dict[str, int] = {}

    def hear(self) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                data, fds, _, _ = socket.recv_fds(self.notify, 8192, 4)
                lines = dict(line.split("=", 1) for line in data.decode().split("\n"))
                if "FDSTOREREMOVE" in lines and lines["FDNAME"] in self.stored:
                    os.close(self.stored.pop(lines["FDNAME"]))
                if "FDSTORE" in lines:
                    assert lines["FDPOLL"] == "0"
                    assert lines["FDNAME"] not in self.stored, "there are two of that name"
                    (self.stored[lines["FDNAME"]],) = fds

    def start(self) -> Service:
        self.hear()
        passed = {"web": self.listener.fileno(), **self.stored}
        # Above the numbers that they are to get.
        self.service.inherit = tuple(fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in passed.values())
        moves = " ".join(f"{3 + n}<&{fd}" for n, fd in enumerate(self.service.inherit))
        names = ":".join(passed)
        variables = f"LISTEN_FDS={len(passed)} LISTEN_FDNAMES={names} LISTEN_PID=$$"
        self.service.start(["bash", "-c", f'exec {moves}; {variables} exec "$@"', "bash"])
        for fd in self.service.inherit:
            os.close(fd)
        return self.service.ready()

    def close(self) -> None:
        self.hear()
        for fd in self.stored.values():
            os.close(fd)
        self.listener.close()
        self.notify.close()


@pytest.fixture
def keeper(service: Service) -> Iterator[Keeper]:
    made = Keeper(service)
    yield made
    service.end()
    made.close()


def test_a_killed_master_costs_nobody_a_connection(
    service: Service, keeper: Keeper, notes: Path
) -> None:
    service.settings |= {"recycle.max_requests": 500}
    keeper.start()
    workers: set[int] = set()
    with Talks(service.bind) as talks:
        for _ in range(4):
            workers |= set(service.workers().values())
            service.send(signal.SIGKILL)
            service.wait()
            keeper.start()
    talks.assert_each_ran_once(notes)
    assert set(keeper.stored) == {"sockd-give", "sockd-take"}
    eventually(lambda: not any(map(alive, workers)))
    assert service.stop() == 0


def test_the_next_master_answers_while_the_old_worker_is_busy(
    service: Service, keeper: Keeper, notes: Path
) -> None:
    service.settings |= {"workers": 1}
    keeper.start()
    busy, *idle = [Conversation(service.bind) for _ in range(5)]
    for talk in (busy, *idle):
        talk.ask()
    busy.socket.sendall(busy.request("gate"))
    eventually(lambda: len(notes.read_text().split()) == 6)
    service.send(signal.SIGKILL)
    service.wait()
    version(service, 2)
    keeper.start()
    assert {talk.ask() for talk in idle} == {"2"}
    open_gate(notes)
    assert busy.answer() == "1"
    assert busy.ask() == "2", "its connection goes on, with the new code"
    for talk in (busy, *idle):
        talk.close()
    assert service.stop() == 0


def test_what_was_stored_is_no_channel(service: Service, keeper: Keeper, notes: Path) -> None:
    """Whatever it is, it is replaced by one that works, and nothing stays beside it."""
    read_end, write_end = os.pipe()
    keeper.stored = {"sockd-give": read_end, "sockd-take": write_end}
    keeper.start()
    keeper.hear()
    assert set(keeper.stored) == {"sockd-give", "sockd-take"}
    talk = Conversation(service.bind)
    talk.ask()
    version(service, 2)
    reload(service)
    assert talk.ask() == "2"
    talk.close()
    assert service.stop() == 0


def test_a_stop_ends_what_is_on_its_way(service: Service, keeper: Keeper, notes: Path) -> None:
    """Connections that a worker has given, and none has taken, when the last one ends."""
    keeper.start()
    keeper.hear()
    for worker in service.workers().values():
        os.kill(worker, signal.SIGSTOP)
    asking, silent = socket.socketpair(), socket.socketpair()
    asking[0].sendall(b"GET / HTTP/1.1\r\n")
    with socket.socket(fileno=os.dup(keeper.stored["sockd-give"])) as give:
        for connection in (asking[1], silent[1]):
            memfd = os.memfd_create("test")
            os.write(memfd, struct.pack("=IIQQQIB3x28s4x", 72, 0, 0, 0, 0, 0, 1, b""))
            socket.send_fds(give, [struct.pack("=II", 1, 1)], [memfd, connection.fileno()])
            os.close(memfd)
            connection.close()
    service.send(signal.SIGQUIT)
    assert service.wait() == 0
    assert asking[0].recv(65536).startswith(b"HTTP/1.1 503 ")
    assert silent[0].recv(65536) == b""
    assert "2 connections closed on their way to another worker, 1 with 503" in service.log()
    asking[0].close()
    silent[0].close()


@pytest.mark.parametrize("body", [b"", b"b" * 100_000])
def test_no_request_waits_behind_another(service: Service, notes: Path, body: bytes) -> None:
    """A worker that is busy leaves what is asked on its other connections to one that is not."""
    code = (service.app / "application.py").read_text()
    service.write(code.replace("VERSION.encode()", "str(os.getpid()).encode()"))
    service.start().ready()
    workers = set(service.workers().values())
    by_worker: dict[int, list[Conversation]] = {}
    for _ in range(20):
        talk = Conversation(service.bind)
        by_worker.setdefault(int(talk.ask()), []).append(talk)
    assert set(by_worker) == workers, "the connections are spread"
    here, (busy, *behind) = by_worker.popitem()
    ((_, others),) = by_worker.items()
    first, *rest = behind
    slow = busy.request("gate") + busy.request()
    busy.socket.sendall(slow)
    half = first.request(body=body)
    first.socket.sendall(half[:5])
    eventually(lambda: len(notes.read_text().split()) == 21)
    (elsewhere,) = workers - {here}
    assert [int(talk.ask(body=body)) for talk in rest] == [elsewhere] * len(rest)
    first.socket.sendall(half[5:])
    assert int(first.answer()) == elsewhere
    open_gate(notes)
    busy.answer()
    busy.answer()
    for talk in (busy, *behind, *others):
        assert int(talk.ask()) in workers
        talk.close()
    assert service.stop() == 0
