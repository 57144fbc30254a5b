"""What systemd does for a service, in a test: it holds the socket and the fd store, and starts the
service again beside what the last one left (KillMode=process). sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
import threading
from pathlib import Path

from .conftest import Service

FIRST = 100  # of the numbers that descriptors have here, clear of those that a service expects


class Supervisor:
    """`service` is asked over TCP; it is ended by the caller."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.store: dict[str, list[int]] = {}
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = service.directory / "supervisor"
        self._notified.bind(str(path))
        service.environ["NOTIFY_SOCKET"] = str(path)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as last:
            last.sendto(b"END=1", self._notified.getsockname())
        self._thread.join()
        self._notified.close()
        self.listener.close()
        for fd in [fd for fds in self.store.values() for fd in fds]:
            os.close(fd)

    def start(self) -> None:
        """The next master; it is ready when this returns."""
        with self._lock:
            passed = [("connection", self.listener.fileno())]
            passed += [(name, fd) for name, fds in sorted(self.store.items()) for fd in fds]
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, FIRST) for _, fd in passed]
        names = ":".join(name for name, _ in passed)
        places = " ".join(f"{3 + at}<&{fd} {fd}<&-" for at, fd in enumerate(high))
        script = (
            f'exec {places}; LISTEN_FDNAMES={names} LISTEN_FDS={len(high)} LISTEN_PID=$$ exec "$@"'
        )
        self.service.inherit = tuple(high)
        self.service.start(["bash", "-c", script, "bash"])
        for fd in high:
            os.close(fd)
        self.service.ready()

    def restart(self) -> None:
        assert self.service.stop() == 0
        self.start()

    def kill(self) -> None:
        """The master alone, at once; then the next."""
        self.service.stop(signal.SIGKILL)
        self.start()

    def _listen(self) -> None:
        size = socket.CMSG_SPACE(256 * array.array("i").itemsize)
        while True:
            data, rights, _, _ = self._notified.recvmsg(8192, size)
            fds = array.array("i")
            for _, _, content in rights:
                fds.frombytes(content)
            lines = data.decode().split("\n")
            fields = dict(line.split("=", 1) for line in lines if "=" in line)
            if "END" in fields:
                return
            with self._lock:
                self._keep(fields, list(fds))

    def _keep(self, fields: dict[str, str], fds: list[int]) -> None:
        name = fields.get("FDNAME", "stored")
        if "FDSTOREREMOVE" in fields:
            for fd in self.store.pop(name, []):
                os.close(fd)
        held = {_identity(fd) for fd in self.store.get(name, [])}
        for fd in fds:
            if "FDSTORE" in fields and _identity(fd) not in held:
                self.store.setdefault(name, []).append(fd)
            else:
                os.close(fd)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def put_application(service: Service, source: Path) -> None:
    """The application that counts, and what it imports."""
    service.write((source / "application.py").read_text())
    service.write((source / "wire.py").read_text(), "wire.py")
