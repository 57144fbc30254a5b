"""The control socket: its answers, and clients that mean no good."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time

import pytest

from sockd.master.control import LARGEST, MOST_CLIENTS, Refused, parse

from .conftest import APP, Service, as_nobody, descriptors, eventually


def raw(service: Service, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(service.runtime / "control.sock"))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while more := sock.recv(65536):
                answer += more
        return answer


class TestAnswers:
    def test_status(self, service: Service):
        service.start().ready()
        for _ in range(5):
            service.get()
        content = service.status()
        assert content["pid"] == service.pid
        assert content["state"] == "serving"
        assert content["generation"] == 1
        (listener,) = content["listeners"]
        assert (listener["name"], listener["address"]) == ("app", service.bind)
        assert listener["queue"] == 0
        assert content["uptime_usec"] > 0
        assert [worker["id"] for worker in content["workers"]] == ["1.1", "1.2"]
        assert sum(worker["requests"] for worker in content["workers"]) == 5
        assert service.stop() == 0

    def test_status_while_booting(self, service: Service):
        service.write("import time; time.sleep(1)\n" + APP)
        service.start()
        eventually(lambda: "generation 1: loading" in service.log())
        eventually(lambda: service.fork_server(1))
        content = service.status()
        assert content["state"] == "booting"
        assert content["generation"] is None
        service.ready()
        assert service.stop() == 0

    def test_more_and_fewer_workers(self, service: Service):
        service.start().ready()
        code, content = service.ask("POST", "/workers", {"by": 2})
        assert (code, content["ok"], content["workers"]) == (200, True, 4)
        assert len(service.workers()) == 4
        assert service.status()["wanted"] == 4
        assert service.ask("POST", "/workers", {"by": -3})[1]["workers"] == 1
        assert len(service.workers()) == 1
        for wrong in ({}, {"by": 0}, {"by": "1"}, {"by": True}, {"by": 1.5}, [1]):
            assert service.ask("POST", "/workers", wrong)[0] == 400
        assert service.stop() == 0

    def test_a_reload_that_nobody_waits_for_goes_on(self, service: Service):
        service.start().ready()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(service.runtime / "control.sock"))
            sock.sendall(b"POST /reload HTTP/1.1\r\nHost: x\r\n\r\n")
            eventually(lambda: service.status()["state"] == "reloading" or service.fork_server(2))
        eventually(lambda: service.status()["generation"] == 2)
        eventually(lambda: service.status()["reloads"]["ok"] == 1)
        assert service.stop() == 0

    @pytest.mark.parametrize(
        ("method", "path", "code"),
        [
            ("GET", "/nothing", 404),
            ("POST", "/", 405),
            ("POST", "/metrics", 405),
            ("POST", "/stacks", 405),
            ("POST", "/status", 405),
            ("GET", "/reload", 405),
            ("GET", "/workers", 405),
        ],
    )
    def test_what_there_is_not(self, service: Service, method: str, path: str, code: int):
        service.start().ready()
        status, content = service.ask(method, path)
        assert status == code
        assert content["ok"] is False
        assert service.stop() == 0


class TestClients:
    def test_only_the_owner_may_connect(self, service: Service):
        service.start().ready()
        path = service.runtime / "control.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert service.stop() == 0

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
    def test_another_user_is_refused_by_its_credentials(self, service: Service):
        service.start().ready()
        path = service.runtime / "control.sock"
        path.chmod(0o666)
        directory = path.parent
        while directory != directory.parent:
            directory.chmod(directory.stat().st_mode | 0o011)
            directory = directory.parent
        answer = as_nobody(
            lambda: raw(service, b"POST /stop HTTP/1.1\r\nHost: x\r\n\r\n").decode()
        )
        assert answer.startswith("HTTP/1.1 403 ")
        assert service.status()["state"] == "serving"
        assert service.stop() == 0

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (b"\x00\xff\xfe" * 100 + b"\r\n\r\n", b"400"),
            (b"GET /status\r\n\r\n", b"400"),
            (b"GET /status HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", b"400"),
            (b"GET /status HTTP/1.1\nHost: x\r\n\r\n", b"400"),
            (b"POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", b"400"),
            (b"POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{x}", b"400"),
            (b"POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n", b"413"),
            (b"POST /stop HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
            (b"x" * 2 * LARGEST, b"431"),
        ],
    )
    def test_garbage(self, service: Service, data: bytes, code: bytes):
        service.start().ready()
        assert raw(service, data).split()[1] == code
        assert service.status()["state"] == "serving"
        assert service.stop() == 0

    def test_deeply_nested_json(self, service: Service):
        service.start().ready()
        body = b"[" * 8000
        request = b"POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: 8000\r\n\r\n" + body
        assert raw(service, request).split()[1] == b"400"
        assert service.stop() == 0

    def test_silent_and_slow_ones_disturb_nobody(self, service: Service):
        service.start().ready()
        path = str(service.runtime / "control.sock")
        silent = []
        for _ in range(MOST_CLIENTS - 4):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            sock.sendall(b"GET /sta")
            silent.append(sock)
        began = time.monotonic()
        assert service.status()["state"] == "serving"
        assert time.monotonic() - began < 4
        for sock in silent:
            sock.settimeout(30)
            assert sock.recv(100) == b""  # dropped in the end
            sock.close()
        assert service.stop() == 0

    def test_one_byte_at_a_time(self, service: Service):
        service.start().ready()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(service.runtime / "control.sock"))
            for byte in b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n":
                sock.sendall(bytes([byte]))
                time.sleep(0.005)
            head, _, body = sock.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(body)["name"] == "app"
        assert service.stop() == 0

    def test_thousand_connections_leave_nothing_behind(self, service: Service):
        service.start().ready()
        before = descriptors(service.pid)
        for n in range(1000):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(service.runtime / "control.sock"))
                if n % 2:
                    sock.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: descriptors(service.pid) <= before)
        assert service.stop() == 0


def test_a_directory_where_no_socket_can_be_does_not_stop_the_service(service: Service):
    service.environ["RUNTIME_DIRECTORY"] = "/dev/null"
    service.start()
    eventually(lambda: "generation 1: ready" in service.log())
    assert "no control socket" in service.log()
    assert service.get()[0] == 200
    assert service.stop() == 0


@pytest.mark.parametrize("size", [1, 5, 20, 1000])
def test_any_split_gives_the_same_request(size: int):
    data = b'POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"quick": true}'
    for end in range(0, len(data), size):
        if end < len(data):
            assert parse(data[:end]) is None
    assert parse(data) == ("POST", "/stop", {"quick": True})
    with pytest.raises(Refused):
        parse(data.replace(b"Content-Length: 15", b"Content-Length: 15\r\nContent-Length: 15"))
