"""Listening sockets: adopted, made, refused."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from sockd import activation
from sockd.errors import BindError, PermissionDenied

from .process.conftest import as_nobody

ADOPT = """
import os
from sockd import activation
from sockd.errors import SockdError
try:
    for listener in activation.adopt():
        print(listener.name, listener.address, listener.socket.get_inheritable())
except SockdError as error:
    print(error)
print([name for name in os.environ if name.startswith("LISTEN_")])
"""


def adopt(*passed: socket.socket, pid: str = "$$", names: str = "") -> list[str]:
    """What a process says that systemd would have started with these sockets."""
    script = f"export LISTEN_PID={pid}; exec {sys.executable} -c '{ADOPT}'"
    environ = {**os.environ, "LISTEN_FDS": str(len(passed)), "LISTEN_FDNAMES": names}
    actions = [(os.POSIX_SPAWN_DUP2, sock.fileno(), 3 + i) for i, sock in enumerate(passed)]
    read, write = os.pipe()
    actions += [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_DUP2, write, 2)]
    child = os.posix_spawn("/bin/sh", ["sh", "-c", script], environ, file_actions=actions)
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    os.waitpid(child, 0)
    return text.splitlines()


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        # Out of the way of the numbers that systemd passes.
        os.set_inheritable(sock.fileno(), False)
        yield sock


class TestAdopt:
    def test_names_and_addresses(self, listening, tmp_path):
        path = str(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path)
            unix.listen()
            port = listening.getsockname()[1]
            lines = adopt(listening, unix, names="web:local")
        assert lines == [f"web 127.0.0.1:{port} False", f"local {path} False", "[]"]

    def test_those_of_another_process_are_left_alone(self, listening):
        assert adopt(listening, pid="1", names="web") == ["[]"]

    def test_a_connected_socket_is_refused(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            lines = adopt(ours, names="web")
        assert "descriptor 3 (web) from systemd is no listening stream socket" in lines[0]
        assert lines[1] == "[]"

    def test_a_datagram_socket_is_refused(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            assert "is no listening stream socket" in adopt(sock, names="web")[0]

    def test_a_file_is_refused(self, tmp_path):
        with (tmp_path / "file").open("w") as file:
            assert "is no listening stream socket" in adopt(file, names="web")[0]


class TestBind:
    def bind(self, *addresses: str) -> list[activation.Listener]:
        return activation.bind_all(addresses, 16)

    @pytest.mark.parametrize(
        ("text", "connect"),
        [
            ("127.0.0.1:0", ["127.0.0.1"]),
            ("[::1]:0", ["::1"]),
            (":0", ["127.0.0.1", "::1"]),
            ("localhost:0", ["127.0.0.1"]),
        ],
    )
    def test_tcp(self, text, connect):
        made = self.bind(text)
        ports = {listener.socket.family: listener.socket.getsockname()[1] for listener in made}
        try:
            for host in connect:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                port = ports.get(family, ports.get(socket.AF_INET6))
                socket.create_connection((host, port), 5).close()
        finally:
            for listener in made:
                listener.close()

    def test_a_v6_address_is_v6_only(self):
        [listener] = self.bind("[::]:0")
        only = listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        listener.close()
        assert only

    def test_unix_and_what_is_left_of_it(self, tmp_path):
        path = tmp_path / "a.sock"
        [listener] = self.bind(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert listener.address == str(path)
        listener.close()
        assert not path.exists()

    def test_the_file_of_a_successor_is_not_removed(self, tmp_path):
        path = tmp_path / "a.sock"
        [first] = self.bind(str(path))
        path.unlink()
        [second] = self.bind(str(path))
        first.close()
        assert path.exists()
        second.close()

    def test_a_stale_socket_file_is_replaced(self, tmp_path):
        path = str(tmp_path / "a.sock")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        [listener] = self.bind(path)
        listener.close()

    @pytest.mark.parametrize("full", [False, True])
    def test_a_live_one_is_in_use(self, tmp_path, full):
        path = str(tmp_path / "a.sock")
        clients = []
        with socket.socket(socket.AF_UNIX) as alive:
            alive.bind(path)
            alive.listen(0)
            if full:
                clients.append(socket.socket(socket.AF_UNIX))
                clients[0].connect(path)
            with pytest.raises(BindError, match="address in use"):
                self.bind(path)
            assert Path(path).exists()
            for client in clients:
                client.close()

    def test_a_port_in_use(self, listening):
        address = "127.0.0.1:{1}".format(*listening.getsockname())
        with pytest.raises(BindError, match=f"cannot listen on {address}: address in use"):
            self.bind(address)

    def test_all_or_none(self, listening, tmp_path):
        path = tmp_path / "a.sock"
        with pytest.raises(BindError):
            self.bind(str(path), "127.0.0.1:{1}".format(*listening.getsockname()))
        assert not path.exists()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("8000", "is no address"),
            ("host:http", "is no address"),
            ("/proc/x.sock", "/proc cannot hold sockets"),
            ("127.0.0.1:70000", "is no address"),
            ("::1:8000", r"write an IPv6 address as \[::1\]:8000"),
            ("192.0.2.1:8000", "this machine does not have that address"),
            ("no.such.host.invalid:8000", "cannot listen on no.such.host.invalid:8000"),
            ("/no/such/directory/a.sock", "directory /no/such/directory does not exist"),
            ("/etc/passwd", "a file that is not a socket is there"),
            ("/etc/passwd/a.sock", "directory /etc/passwd does not exist"),
            ("/tmp/" + "x" * 120, "too long"),
        ],
    )
    def test_what_a_person_can_act_on(self, text, message):
        with pytest.raises(BindError, match=message):
            self.bind(text)

    def test_nothing_to_listen_on(self):
        with pytest.raises(BindError, match="no address to listen on"):
            self.bind()

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
    def test_without_permission(self):
        path = "/run/sockd-no-permission.sock"

        def refused() -> str:
            with pytest.raises(PermissionDenied) as refusal:
                self.bind(path)
            return str(refusal.value)

        expected = f"cannot listen on {path}: no permission to write in /run"
        assert as_nobody(refused) == expected
        assert PermissionDenied.exit_code == 77
