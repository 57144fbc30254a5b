"""The control socket from outside: find a running service, ask it, and learn what became of it.

A master listens on `control.sock` in its runtime directory and speaks HTTP/1.1 with JSON bodies.
Whoever waits for its answer holds a pidfd on it, so that a master that dies ends the wait.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from sockd.errors import (
    TRY_AGAIN,
    AppError,
    NotRunning,
    PermissionDenied,
    SockdError,
    UsageError,
)

SOCKET = "control.sock"
_SYSTEM = Path("/run/sockd")  # each service's RuntimeDirectory=sockd/NAME lies here
SO_ACCEPTCON = 0x10000  # of Flags in /proc/net/unix: it listens
_ANSWER = 10.0  # seconds: for what the master has at hand, and for the rest of an answer begun


class NoAnswer(SockdError):
    """The master is there but does not answer: try again later."""

    exit_code = TRY_AGAIN


class MasterDied(SockdError):
    """The master ended before it answered."""


def locate(name: str | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The control socket of the service `name`, or of the only one that is running.

    $RUNTIME_DIRECTORY goes first, which systemd gives to ExecReload= (systemd.exec(5)). Raises
    NotRunning; UsageError when there are several to choose from.
    """
    own = [Path(part) for part in environ.get("RUNTIME_DIRECTORY", "").split(":") if part]
    parents = [_SYSTEM]
    if environ.get("XDG_RUNTIME_DIR"):
        parents.append(Path(environ["XDG_RUNTIME_DIR"], "sockd"))
    if name is not None:
        named = [path for path in own if path.name == name]
        for path in (*named, *(parent / name for parent in parents)):
            if _answers(path / SOCKET):
                return path / SOCKET
        raise NotRunning(f"{name} is not running")
    for path in own:
        if _answers(path / SOCKET):
            return path / SOCKET
    found = [path for path in _sockets(parents) if _answers(path)]
    if not found:
        raise NotRunning("no service of sockd is running")
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise UsageError(f"several services are running, name one of them: {names}")
    return found[0]


def _sockets(parents: list[Path]) -> Iterator[Path]:
    for parent in parents:
        try:
            directories = sorted(parent.iterdir())
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        yield from (path / SOCKET for path in directories)


def _answers(path: Path) -> bool:
    """Whether somebody listens: a file alone may be left over from a master that was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except PermissionError:
            return _listens(path)
        except OSError:
            return False
        return True


def _listens(path: Path) -> bool:
    """Whether somebody listens at `path`, where this user may not connect: unix(7) lists the
    sockets of all. If that cannot be read either, whoever asks there is told of the permission."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return True
    names = {str(path), os.path.realpath(path)}  # the directory of a dynamic user is a link
    for line in lines[1:]:
        _, _, _, flags, _, _, _, *name = line.split(None, 7)
        if name and name[0] in names and int(flags, 16) & SO_ACCEPTCON:
            return True
    return False


class Master:
    """A connection to the master that listens on `path`, for one request.

    `pid` is `watch_pid`, or else the process that listens, as the kernel knows it (SO_PEERCRED,
    unix(7)). Raises NotRunning and PermissionDenied.
    """

    def __init__(self, path: Path, *, watch_pid: int | None = None) -> None:
        self.path = path
        self.name = path.parent.name
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._pidfd = -1
        try:
            self._sock.settimeout(_ANSWER)
            self._sock.connect(str(path))
            credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.pid: int = watch_pid or struct.unpack("iII", credentials)[0]
            if self.pid:  # 0: it lives in a pid namespace out of sight
                self._pidfd = os.pidfd_open(self.pid)
        except BaseException as error:
            self.close()
            raise self._explained(error) from None

    def _explained(self, error: BaseException) -> BaseException:
        match error:
            case PermissionError():
                return PermissionDenied(
                    f"{self.path}: only root and the service's own user may ask it"
                )
            case ProcessLookupError():
                return NotRunning(f"{self.name} is not running: its master ended")
            case TimeoutError():
                return NoAnswer(f"{self.name}: the master does not answer")
            case FileNotFoundError() | ConnectionRefusedError():
                return NotRunning(f"{self.name} is not running: nobody listens on {self.path}")
        return error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def request(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of the answer, waited for `timeout` seconds, None: for ever.

        Raises MasterDied, NoAnswer, PermissionDenied (403).
        """
        content = json.dumps(body).encode() if body else b""
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        response = http.client.HTTPResponse(self._sock, method=method)
        try:
            # In one piece: a master that refuses closes once it has read the first.
            self._sock.sendall(head.encode() + content)
            self._await_answer(timeout)
            response.begin()
            document = json.loads(response.read())
        except TimeoutError:
            raise NoAnswer(f"{self.name}: the master does not answer") from None
        except (ConnectionError, http.client.IncompleteRead):
            raise self._died() from None
        except (ValueError, http.client.HTTPException) as error:
            raise SockdError(f"{self.name}: no answer of a sockd master: {error}") from None
        finally:
            response.close()
        if not isinstance(document, dict):
            raise SockdError(f"{self.name}: no answer of a sockd master: not a JSON object")
        if response.status == 403:
            raise PermissionDenied(
                f"{self.name}: only root and the service's own user may ask for this"
            )
        return response.status, document

    def _await_answer(self, timeout: float | None) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        if self._pidfd >= 0:
            poller.register(self._pidfd, select.POLLIN)
        ready = {fd for fd, _ in poller.poll(None if timeout is None else timeout * 1000)}
        if not ready:
            raise TimeoutError
        if self._sock.fileno() not in ready:
            # Its answer may have come between its last look and its end.
            last = select.poll()
            last.register(self._sock, select.POLLIN)
            if not last.poll(0):
                raise self._died()

    def _died(self) -> MasterDied:
        return MasterDied(f"{self.name}: the master (pid {self.pid}) died before it answered")

    def wait(self) -> None:
        """Return when the master is gone."""
        if self._pidfd >= 0:
            select.select([self._pidfd], [], [])
        else:
            while _answers(self.path):
                time.sleep(0.1)


def request(
    path: Path,
    method: str,
    target: str,
    body: Mapping[str, Any] | None = None,
    *,
    watch_pid: int | None = None,
    timeout: float | None = None,
) -> tuple[int, dict[str, Any]]:
    """One question to the master that listens on `path`; see Master."""
    with Master(path, watch_pid=watch_pid) as master:
        return master.request(method, target, body, timeout=timeout)


def status(path: Path) -> dict[str, Any]:
    """The document of GET /status, unchanged."""
    return _expected(*request(path, "GET", "/status", timeout=_ANSWER))


def reload(path: Path, *, watch_pid: int | None = None) -> tuple[int, list[str]]:
    """Reload and wait for the outcome: the generation that serves, and what changed but waits for
    more than a reload. AppError with the application's traceback as detail when it cannot be
    loaded; the old generation then serves on."""
    document = _expected(*request(path, "POST", "/reload", watch_pid=watch_pid))
    if not document.get("ok"):
        error, detail = str(document.get("error", "")), str(document.get("detail") or "")
        # A service that ends or that never served has no generation to go on with.
        on = "" if document.get("generation") is None else ", the old code serves on"
        raise AppError(f"reload failed{on}: {error}", detail=detail)
    return int(document["generation"]), list(document.get("notes", []))


class Upgraded(NamedTuple):
    """What became of an upgrade in place."""

    before: str
    after: str
    """versions of sockd"""
    generation: int
    notes: list[str]


def upgrade(path: Path) -> Upgraded:
    """Have the sockd that is installed go on in the master's process, and wait until its workers
    serve. AppError when it does not: the message says which sockd serves on."""
    document = _expected(*request(path, "POST", "/upgrade"))
    before, after = str(document.get("from") or ""), str(document.get("sockd", "?"))
    if document.get("ok"):
        notes = list(document.get("notes", []))
        return Upgraded(before, after, int(document["generation"]), notes)
    error, detail = str(document.get("error", "")), str(document.get("detail") or "")
    done = "upgrade failed"
    if before:
        done = f"the master is upgraded from sockd {before} to {after}, but its reload failed"
    on = "" if document.get("generation") is None else ", the old code serves on"
    raise AppError(f"{done}{on}: {error}", detail=detail)


def workers(path: Path, by: int) -> int:
    """Have so many workers more, or fewer, and wait until they serve, or accept no more: how many
    there are. AppError when one does not boot."""
    document = _expected(*request(path, "POST", "/workers", {"by": by}))
    if not document.get("ok"):
        raise AppError(str(document.get("error", "")), detail=str(document.get("detail") or ""))
    return int(document["workers"])


def stop(path: Path) -> str:
    """End the service and return when its master is gone: what was done, in words.

    One that systemd runs is stopped by systemctl, together with the sockets that would start it
    again.
    """
    with Master(path) as master:
        unit = _unit_of(master.pid)
        if unit:
            return stop_units(*_sockets_of(unit), unit)
        _expected(*master.request("POST", "/stop", {"quick": False}, timeout=_ANSWER))
        master.wait()
        return f"stopped {master.name}"


def active_sockets(name: str) -> list[str]:
    """The socket units by which systemd listens for the service `name`."""
    candidates = [f"{name}.socket", f"sockd@{name}.socket"]
    shown = _systemctl("show", "--property=ActiveState", "--value", *candidates).split()
    return [unit for unit, state in zip(candidates, shown, strict=False) if state == "active"]


def loaded_services(name: str, *properties: str) -> dict[str, dict[str, str]]:
    """The units of the service `name` that systemd has loaded, with these properties of each."""
    found = {}
    for unit in (f"{name}.service", f"sockd@{name}.service"):
        wanted = ",".join(("LoadState", *properties))
        lines = _systemctl("show", f"--property={wanted}", unit).splitlines()
        shown = dict(line.split("=", 1) for line in lines if "=" in line)
        if shown.pop("LoadState", "") == "loaded":
            found[unit] = shown
    return found


def stop_units(*units: str) -> str:
    done = subprocess.run(["systemctl", "stop", *units], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SockdError(f"systemctl could not stop {' '.join(units)}", detail=done.stderr.strip())
    return f"stopped {' and '.join(units)}"


def _expected(status: int, document: dict[str, Any]) -> dict[str, Any]:
    if status >= 400:
        raise SockdError(f"the master answered {status}: {document.get('error', 'no reason')}")
    return document


def _unit_of(pid: int) -> str | None:
    """The systemd service whose main process is `pid`."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    unit = next((line.rpartition("/")[2] for line in groups if line.startswith("0::")), "")
    if not unit.endswith(".service"):
        return None
    main = _systemctl("show", "--property=MainPID", "--value", unit).strip()
    return unit if main == str(pid) else None


def _sockets_of(unit: str) -> list[str]:
    triggers = _systemctl("show", "--property=TriggeredBy", "--value", unit).split()
    return [trigger for trigger in triggers if trigger.endswith(".socket")]


def systemd_runs() -> bool:
    """sd_booted(3)"""
    return Path("/run/systemd/system").is_dir()


def _systemctl(*arguments: str) -> str:
    """Its output; nothing where systemd does not run."""
    if not systemd_runs():
        return ""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""
