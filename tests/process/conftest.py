"""A real master with real workers, and what a test needs to look at and to hurt them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.torture.client import Plan, Run

PATIENCE = 30.0  # seconds; generous, since the machine may be busy
ROOT = Path(__file__).resolve().parents[2]

APP = """
import os, signal, sys, time

VERSION = "1"

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/sleep/"):
        time.sleep(float(path[7:]))
    elif path == "/exit":
        os._exit(3)
    elif path == "/raise":
        raise ValueError("the application's own fault")
    body = f"{VERSION} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


def eventually(what: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """The first true value of `what`; AssertionError when there is none in time."""
    until = time.monotonic() + patience
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < until, f"still {found!r} after {patience} s"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children(pid: int) -> list[int]:
    """Children in any state, zombies included."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


NOBODY = 65534


def as_nobody(what: Callable[[], str]) -> str:
    """What `what` returns in a child without privileges. Forked, not exec'd: the interpreter may
    be out of its reach."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            text = what()
        except BaseException as error:
            text = repr(error)
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    os.waitpid(pid, 0)
    return text


class Unix(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float = PATIENCE) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Service:
    """`sockd serve` of an application in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.app = directory / "app"
        self.app.mkdir()
        self.runtime = directory / "run"
        self.runtime.mkdir()
        self.bind = str(directory / "app.sock")
        self.modules = directory / "modules"
        self.settings: dict[str, Any] = {
            "app.target": "application:app",
            "app.directory": str(self.app),
            "bind": [self.bind],
            "workers": 2,
        }
        self.environ = {"RUNTIME_DIRECTORY": str(self.runtime)}
        self.config: Path | None = None
        self.deaf = False
        self.watch = False
        self.longest_hold = 30.0
        self.stdin = subprocess.DEVNULL
        self.inherit: tuple[int, ...] = ()
        self.program = [sys.executable, str(Path(__file__).parent / "run_master.py")]
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = directory / "log"
        self.seen: set[int] = set()
        self.write(APP)

    def write(self, text: str, name: str = "application.py") -> None:
        # Python trusts a .pyc whose source has the same size and second.
        for old in self.app.rglob("*.pyc"):
            old.unlink()
        (self.app / name).write_text(text)

    def start(self, command: list[str] | None = None) -> Service:
        asked = {
            "settings": self.settings,
            "longest_hold": self.longest_hold,
            "modules": str(self.modules),
            "deaf": self.deaf,
            "watch": self.watch,
            "config": str(self.config or ""),
        }
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("SOCKD_", "PYTEST_"))}
        path = [str(ROOT), *filter(None, [environ.pop("PYTHONPATH", None)])]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(command or []),
                    *self.program,
                    json.dumps(asked),
                ],
                stdin=self.stdin,
                stdout=log,
                stderr=log,
                pass_fds=self.inherit,
                env={**environ, "PYTHONPATH": ":".join(path), **self.environ},
            )
        return self

    def ready(self) -> Service:
        """Wait until all workers serve."""
        wanted = self.settings["workers"]
        eventually(lambda: self._running() and len(self.workers()) == wanted)
        return self

    def _running(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log()
        # Not there yet; or still that of a killed one, in a child between its fork and exec.
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
            return bool(self.status()["state"] != "booting")
        return False

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, patience: float = PATIENCE) -> int:
        assert self.process
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the master still runs\n{self.log()}") from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.wait()

    def connect(self, timeout: float = PATIENCE) -> Unix:
        return Unix(self.bind, timeout)

    def get(self, path: str = "/", timeout: float = PATIENCE) -> tuple[int, str]:
        with contextlib.closing(self.connect(timeout)) as connection:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """The control socket."""
        with contextlib.closing(Unix(str(self.runtime / "control.sock"))) as connection:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def status(self) -> dict[str, Any]:
        code, content = self.ask("GET", "/status")
        assert code == 200
        self.seen.update(worker["pid"] for worker in content["workers"] if worker["pid"])
        return content

    def workers(self) -> dict[str, int]:
        """Those that are ready: name to pid."""
        return {w["id"]: w["pid"] for w in self.status()["workers"] if w["state"] == "ready"}

    def fork_server(self, generation: int = 1) -> int:
        for pid in children(self.pid):
            with contextlib.suppress(FileNotFoundError):
                if Path(f"/proc/{pid}/comm").read_text() == f"sockd-fork {generation}\n":
                    return pid
        return 0

    def end(self) -> None:
        """Leave no process behind, whatever the test did."""
        if self.process and self.process.poll() is None:
            family = [self.pid]
            for pid in family:
                family += children(pid)
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.end()
    if made.log_path.exists():
        print(made.log())  # pytest shows it when the test has failed


class Load:
    """Clients that ask and never retry, for as long as a `with` lasts: `kind` as the torture
    client's, here with any application."""

    def __init__(
        self, service: Service, clients: int = 4, path: str = "/", kind: str = "close"
    ) -> None:
        plan = Plan([(kind, clients, f"unix:{service.bind}?{path}")], plain=True, think=0)
        self._run = Run(plan)
        self._beside = self._run.beside()
        self.answers = self._run.answers  # when it was asked, text

    @property
    def failures(self) -> list[str]:
        """Connections that ended without a word are among them."""
        ledger = self._run.ledger
        return [*ledger.failures, *ledger.ends, *ledger.strays]

    def __enter__(self) -> Self:
        self._beside.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._beside.__exit__(None, None, None)


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(0.05)
        self.path = str(path)
        self.lines: list[str] = []

    def read(self) -> list[str]:
        with contextlib.suppress(TimeoutError):
            while True:
                self.lines += self.socket.recv(8192).decode().split("\n")
        return self.lines

    def expect(self, line: str) -> None:
        eventually(lambda: line in self.read())

    def expect_after(self, start: int, line: str) -> None:
        """Among the lines from number `start` on."""
        eventually(lambda: line in self.read()[start:])


@pytest.fixture
def manager(tmp_path: Path, service: Service) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    service.environ["NOTIFY_SOCKET"] = made.path
    yield made
    made.socket.close()
