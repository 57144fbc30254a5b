"""The access log: an entry for a request that has ended, in the journal or as a line of a file.

The fields of journal entries are those of docs/monitoring.md; the notation of lines is Gunicorn's
(`access_log_format` of its documentation), which is checked when the settings are read.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sockd import journal
from sockd.errors import AppError
from sockd.settings import Log

PATIENCE = 1.0  # seconds that an entry waits for a reader, unless the one before waited in vain
_FIELD = re.compile(r"%%|%\((?:\{([^}]+)\}([ioe])|(\w))\)s")


@dataclass(frozen=True)
class Access:
    """One request. `environ` is that of the application (PEP 3333), empty if it never got the
    request. Durations in microseconds; `sent` counts all bytes of the response that the client's
    kernel was given, `body` those of its body; `why` it was cut, if it was."""

    environ: Mapping[str, Any]
    status: int
    duration: int
    queued: int
    sent: int
    body: int
    id: str | None
    peer: str
    headers: list[tuple[str, str]]
    why: str

    @property
    def method(self) -> str:
        return str(self.environ.get("REQUEST_METHOD", "-"))

    @property
    def target(self) -> str:
        return str(self.environ.get("RAW_URI", "-"))

    @property
    def protocol(self) -> str:
        return str(self.environ.get("SERVER_PROTOCOL", "-"))

    @property
    def client(self) -> str:
        return str(self.environ.get("REMOTE_ADDR") or self.peer or "-")


SLOW = 1.0  # seconds, where `log.slow` says none


class AccessLog:
    """`note` is called for every request."""

    def __init__(self, settings: Log) -> None:
        """AppError if its file cannot be opened."""
        self._kind = settings.access
        self._slow = int((settings.slow or SLOW) * 1e6)
        self._paths = frozenset(p for p in settings.access_except if not p.endswith("*"))
        self._below = tuple(p[:-1] for p in settings.access_except if p.endswith("*"))
        self._path = settings.access_file
        self._format = settings.access_format
        self._file = -1
        self._journal: socket.socket | None = None
        self._stuck = False
        if self._path and self._kind != "off":
            try:
                self._file = self._open()
            except OSError as error:
                reason = f"cannot open {self._path}: {error.strerror}"
                raise AppError(f"log.access_file: {reason}") from error

    def wants(self, environ: Mapping[str, Any], status: int, duration: int, why: str) -> bool:
        if status >= 500 or why:
            return True
        if self._kind == "errors" or (self._kind == "slow" and duration <= self._slow):
            return False
        path = str(environ.get("RAW_URI", "")).partition("?")[0]
        return path not in self._paths and not (self._below and path.startswith(self._below))

    def note(self, *values: Any) -> bool:
        """The values of an Access in their order; false if an entry was lost."""
        one = Access(*values)
        if not self.wants(one.environ, one.status, one.duration, one.why):
            return True
        try:
            if self._path:
                return self._write((line(self._format, one) + "\n").encode("utf-8", "replace"))
            made = journal.entry(journal.INFO, message(one), **fields(one))
            if journal.is_journal():
                return self._send(journal.encode(made))
            return self._write(journal.line(journal.INFO, made).encode("utf-8", "replace"))
        except Exception:
            return False  # no line is worth a request

    def reopen(self) -> None:
        """After the file was renamed (logrotate(8))."""
        if self._file > 2:
            try:
                fresh = self._open()
            except OSError as error:
                reason = f"cannot open {self._path} again: {error.strerror}"
                journal.log(journal.ERR, f"log.access_file: {reason}; the old one is used on")
                return
            os.close(self._file)
            self._file = fresh

    def _open(self) -> int:
        if self._path == "-":
            return 1
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(self._path, flags, 0o640)

    def _write(self, data: bytes) -> bool:
        # One write(2) with O_APPEND: lines of several workers do not mix.
        return os.write(self._file if self._path else 2, data) == len(data)

    def _send(self, data: bytes) -> bool:
        """A journal that does not read costs one wait, and loses entries until it does."""
        if self._journal is None:
            self._journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._journal.settimeout(0 if self._stuck else PATIENCE)
        try:
            self._journal.sendto(data, journal.SOCKET)
            self._stuck = False
        except (BlockingIOError, TimeoutError):
            self._stuck = True
            return False
        except OSError:
            # Too large for a datagram; or the application has closed it, or the journal restarts.
            with contextlib.suppress(OSError):
                self._journal.detach()
            self._journal = None
            return journal.send(data)
        return True


def message(one: Access) -> str:
    sent = f"{one.status or '-'} {one.sent}"
    cut = f", {one.why}" if one.why else ""
    return f'{one.client} "{request(one)}" {sent} {one.duration / 1000:.1f}ms{cut}'


def request(one: Access) -> str:
    return f"{one.method} {one.target} {one.protocol}"


def fields(one: Access) -> dict[str, Any]:
    """Those of the journal entry; None where there is none."""
    path, _, query = one.target.partition("?")
    return {
        "HTTP_METHOD": one.method,
        "HTTP_PATH": path,
        "HTTP_QUERY": query or None,
        "HTTP_PROTOCOL": one.protocol,
        "HTTP_STATUS": one.status or None,
        "HTTP_HOST": one.environ.get("HTTP_HOST"),
        "HTTP_REFERER": one.environ.get("HTTP_REFERER"),
        "HTTP_USER_AGENT": one.environ.get("HTTP_USER_AGENT"),
        "CLIENT": one.client,
        "BYTES_SENT": one.sent,
        "DURATION_USEC": one.duration,
        "QUEUE_USEC": one.queued,
        "SOCKD_REQUEST_ID": one.id,
        "SOCKD_ACCESS": 1,
        "SOCKD_CUT": one.why or None,
    }


def line(notation: str, one: Access) -> str:
    """A line of an access log, without its end."""

    def put(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        found = _ATOMS[match[3]](one) if match[3] else _named(one, match[1], match[2])
        return _quoted(found)

    return _FIELD.sub(put, notation)


def _named(one: Access, name: str, kind: str) -> str:
    if kind == "e":
        return str(one.environ.get(name, "-"))
    if kind == "o":
        return next((v for k, v in one.headers if k.lower() == name.lower()), "-")
    key = name.upper().replace("-", "_")
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        key = f"HTTP_{key}"
    return str(one.environ.get(key, "-"))


def _quoted(text: str) -> str:
    """Clients choose what is in a request: it stays one line, and within its quotes."""
    if text.isprintable() and '"' not in text:
        return text
    shown = (c if c.isprintable() and c != '"' else f"\\x{ord(c):02x}" for c in text)
    return "".join(shown)


def _user(one: Access) -> str:
    kind, _, coded = str(one.environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if kind.lower() != "basic":
        return "-"
    try:
        return base64.b64decode(coded, validate=True).decode().partition(":")[0] or "-"
    except ValueError:
        return "-"


def _clock(one: Access) -> str:
    return time.strftime("[%d/%b/%Y:%H:%M:%S %z]")


_ATOMS: dict[str, Callable[[Access], str]] = {
    "h": lambda one: one.client,
    "l": lambda one: "-",
    "u": _user,
    "t": _clock,
    "r": request,
    "m": lambda one: one.method,
    "U": lambda one: str(one.environ.get("PATH_INFO", "-")),
    "q": lambda one: str(one.environ.get("QUERY_STRING", "")),
    "H": lambda one: one.protocol,
    "s": lambda one: str(one.status or "-"),
    "B": lambda one: str(one.body),
    "b": lambda one: str(one.body or "-"),
    "f": lambda one: str(one.environ.get("HTTP_REFERER", "-")),
    "a": lambda one: str(one.environ.get("HTTP_USER_AGENT", "-")),
    "T": lambda one: str(one.duration // 1_000_000),
    "M": lambda one: str(one.duration // 1000),
    "D": lambda one: str(one.duration),
    "L": lambda one: f"{one.duration / 1e6:.6f}",
    "p": lambda one: f"<{os.getpid()}>",
}
