"""Messages of the handover channel, against docs/design/handover.md."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import DEADLINE, Engine, read_all, read_response, start_engine

RECORD = struct.Struct("=IIQQQIB3x28s4x")
NEW, IDLE, IN_HEAD = range(3)
GET = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"


def app(environ, start_response):
    text = f"{environ['PATH_INFO']} {environ['REMOTE_ADDR']} {environ['REMOTE_PORT']}"
    body = text.encode("latin-1")
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


class Channel:
    def __init__(self) -> None:
        self.give, self.take = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.take.settimeout(DEADLINE)
        self.other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # nothing comes there
        self.engines: list[Engine] = []

    def engine(self, *, takes: bool = True, **options: object) -> Engine:
        engine = start_engine(app, **options)
        self.engines.append(engine)
        take = (self.take if takes else self.other).fileno()
        engine.order(lambda: engine.loop.join(self.give.fileno(), take, outlives=False))
        probe(engine)
        return engine

    def receive(self) -> list[tuple[dict[str, object], bytes, socket.socket]]:
        """The connections of one message: their records, what was read of each, and they."""
        data, fds, flags, _ = socket.recv_fds(self.take, 4096, 253)
        assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
        version, count = struct.unpack("=II", data)
        assert (version, count) == (1, len(fds) - 1)
        state = os.pread(fds[0], 1 << 20, 0)
        os.close(fds[0])
        found = []
        for fd in fds[1:]:
            fixed, held, listener, since, arrived, served, kind, address = RECORD.unpack(
                state[: RECORD.size]
            )
            assert fixed == RECORD.size
            bytes_ = state[fixed : fixed + held]
            state = state[fixed + held :]
            fields = {"listener": listener, "since": since, "arrived": arrived}
            fields |= {"served": served, "state": kind, "address": address}
            found.append((fields, bytes_, socket.socket(fileno=fd)))
        assert state == b""
        return found

    def fill(self) -> int:
        """Leave no room for another message; how many it took."""
        for count in itertools.count():
            try:
                self.give.send(b"filler", socket.MSG_DONTWAIT)
            except BlockingIOError:
                return count
        raise AssertionError

    def send(
        self, *connections: socket.socket, state: bytes, version: int = 1, count: int | None = None
    ) -> None:
        memfd = os.memfd_create("test")
        os.write(memfd, state)
        fds = [memfd, *(connection.fileno() for connection in connections)]
        envelope = struct.pack("=II", version, len(connections) if count is None else count)
        socket.send_fds(self.give, [envelope], fds)
        os.close(memfd)


def record(
    held: bytes = b"", state: int = IDLE, age: float = 0.0, more: bytes = b"", peer: bytes = b""
) -> bytes:
    since = max(0, time.monotonic_ns() // 1000 - int(age * 1e6))
    size = RECORD.size + len(more)
    return RECORD.pack(size, len(held), 7, since, since, 3, state, peer) + more + held


def read(client: socket.socket, path: bytes = b"") -> str:
    client.settimeout(DEADLINE)
    client.sendall(GET % path)
    status, _, body = read_response(client)
    assert status == 200
    return body.decode().split()[0]


def probe(engine: Engine) -> None:
    """It serves, by a connection of its own."""
    before = engine.slot["connections"]
    with engine.connect() as client:
        assert read(client) == "/"
    while engine.slot["connections"] > before:
        time.sleep(0.01)


@pytest.fixture
def channel() -> Iterator[Channel]:
    made = Channel()
    yield made
    for engine in made.engines:
        engine.close()
    made.give.close()
    made.take.close()
    made.other.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """A connection: the client's end, and the one to give."""
    client, server = socket.socketpair()
    client.settimeout(DEADLINE)
    return client, server


@pytest.mark.parametrize("threads", [1, 4])
def test_what_is_given(channel: Channel, threads: int) -> None:
    engine = channel.engine(takes=False, threads=threads)
    fresh, idle, half = engine.connect(), engine.connect(), engine.connect()
    read(idle)
    half.sendall((GET % b"half")[:9])
    before = len(GET % b"")  # the probe's
    while engine.slot["bytes_in"] < 2 * before + 9 or engine.slot["connections"] < 3:
        time.sleep(0.01)
    engine.drain(hand_over=True, close_idle=False)
    found = {}
    while len(found) < 3:
        for fields, held, connection in channel.receive():
            found[connection.getpeername()] = fields, held, connection
    assert engine.ended()
    assert engine.slot["connections"] == 0
    now = time.monotonic_ns() // 1000
    for client, state, held, served in (
        (fresh, NEW, b"", 0),
        (idle, IDLE, b"", 1),
        (half, IN_HEAD, (GET % b"half")[:9], 0),
    ):
        fields, bytes_, connection = found[client.getsockname()]
        assert (fields["state"], bytes_, fields["served"]) == (state, held, served)
        assert now - 60_000_000 < fields["since"] <= now
        host, port = client.getsockname()
        assert fields["address"][2:8] == struct.pack("!H4s", port, socket.inet_aton(host))
        client.sendall(b"?")
        connection.settimeout(DEADLINE)
        assert connection.recv(9) == b"?"
        connection.close()
        assert client.recv(1) == b"", "no copy of it is left"
        client.close()


def test_what_is_taken(channel: Channel) -> None:
    engine = channel.engine()
    whole, half, idle, pipelined = pair(), pair(), pair(), pair()
    peer = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s", 4711, b"\x0a\x00\x00\x07")
    idle[0].sendall(GET % b"idle")  # before it was given
    state = record(GET % b"whole", peer=peer) + record((GET % b"half")[:9], IN_HEAD)
    state += record(age=1e5) + record(GET % b"first" + GET % b"second")
    channel.send(whole[1], half[1], idle[1], pipelined[1], state=state)
    for _, server in (whole, half, idle, pipelined):
        server.close()
    assert read_response(whole[0])[2] == b"/whole 10.0.0.7 4711"
    half[0].sendall((GET % b"half")[9:])
    assert read_response(half[0])[2].startswith(b"/half")
    # Its time is over long ago, but it has asked before anybody could look.
    assert read_response(idle[0])[2].startswith(b"/idle")
    assert read_response(pipelined[0])[2].startswith(b"/first")
    assert read_response(pipelined[0])[2].startswith(b"/second")
    for client, _ in (whole, half, idle, pipelined):
        assert read(client, b"again") == "/again"
        client.close()
    assert engine.reports == []


def test_a_hop_resets_no_deadline(channel: Channel) -> None:
    channel.engine(timeouts_header=30.0, timeouts_keepalive=30.0)
    slow, idle, young = pair(), pair(), pair()
    state = record((GET % b"")[:9], IN_HEAD, age=40) + record(age=40) + record(age=20)
    channel.send(slow[1], idle[1], young[1], state=state)
    for _, server in (slow, idle, young):
        server.close()
    assert read_all(slow[0]).startswith(b"HTTP/1.1 408 ")
    assert read_all(idle[0]) == b""
    assert read(young[0]) == "/"
    for client, _ in (slow, idle, young):
        client.close()


def test_later_versions_add_fields(channel: Channel) -> None:
    channel.engine()
    client, server = pair()
    channel.send(server, state=record(GET % b"later", more=b"new field"), version=2)
    server.close()
    assert read_response(client)[2].startswith(b"/later")
    client.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"state": record(), "version": 3},
        {"state": record(), "version": 0},
        {"state": b""},
        {"state": record()[:-1]},
        {"state": b"\xff" * 500},
        {"state": b"\0" * 500},
        {"state": RECORD.pack(RECORD.size, 1 << 31, 0, 0, 0, 0, 0, b"")},
    ],
)
def test_what_cannot_be_read_is_answered_with_503(
    channel: Channel, bad: dict[str, object]
) -> None:
    engine = channel.engine()
    client, server = pair()
    client.sendall(GET % b"lost")
    channel.send(server, **bad)
    server.close()
    answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\nDate: ")
    assert b"\r\nConnection: close\r\n" in answer
    client.close()
    probe(engine)
    assert "1 connections could not be taken over" in engine.reports[0][0]
    engine.reports.clear()


def test_garbage_hurts_nobody(channel: Channel) -> None:
    engine = channel.engine()
    read_end, write_end = os.pipe()
    good = pair()
    for data, fds in (
        (b"x", []),
        (b"x" * 10_000, []),
        (b"x", [read_end]),
        (struct.pack("=II", 1, 1), []),
        (struct.pack("=II", 1, 1), [read_end]),
        (struct.pack("=II", 1, 5), [read_end, write_end]),
    ):
        socket.send_fds(channel.give, [data], fds)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        Path("/dev/null").open() as null,
    ):
        channel.send(datagram, state=record())
        channel.send(null, state=record())  # type: ignore[arg-type]
    # One that is there, and one that was lost on the way.
    channel.send(good[1], state=record(GET % b"good") + record(), count=2)
    good[1].close()
    assert read_response(good[0])[2].startswith(b"/good")
    good[0].close()
    os.close(read_end)
    os.close(write_end)
    probe(engine)
    assert all("could not be taken over" in text for text, _ in engine.reports)
    engine.reports.clear()


def crowd(engine: Engine) -> list[socket.socket]:
    clients = [engine.connect() for _ in range(60)]
    for client in clients:
        read(client)
    return clients


def test_full_channel_is_waited_for(channel: Channel) -> None:
    engine = channel.engine(takes=False)
    clients = crowd(engine)
    filler = channel.fill()
    engine.drain(hand_over=True, close_idle=False)
    time.sleep(0.05)
    assert engine.slot["connections"] == 60
    for _ in range(filler):
        assert channel.take.recv(10) == b"filler"
    found = []
    while len(found) < 60:
        found += channel.receive()
    assert engine.ended()
    assert engine.loop.left_over == 0
    for _, _, connection in found:
        connection.close()
    for client in clients:
        client.close()


def test_what_nobody_takes_is_closed_in_the_end(channel: Channel) -> None:
    engine = channel.engine(takes=False)
    clients = crowd(engine)
    channel.fill()
    engine.drain(0.2, hand_over=True, close_idle=False)
    assert engine.ended()
    assert engine.loop.left_over == 60
    for client in clients:
        with closing(client):
            assert client.recv(1) == b""


def test_stopped_while_nobody_takes_them(channel: Channel) -> None:
    """What waits for room when the service stops is ended as all else is."""
    engine = channel.engine(takes=False)
    clients = crowd(engine)
    asking, silent = clients[:30], clients[30:]
    channel.fill()
    engine.drain(hand_over=True, close_idle=False)
    for client in asking:
        client.sendall(GET % b"last")
    engine.drain(close_idle=True)
    assert engine.ended()
    assert engine.loop.left_over == 0
    for client in asking:
        with closing(client):
            answer = read_all(client)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nConnection: close\r\n" in answer
    for client in silent:
        with closing(client):
            assert read_all(client) == b""
