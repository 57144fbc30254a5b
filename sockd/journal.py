"""One function for every word that sockd says while it serves: `log`.

Under systemd it speaks journald's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/),
so a traceback is one entry with fields; elsewhere it writes lines to stderr, prefixed `<N>`
(sd-daemon(3)) unless a person reads them on a terminal, or one JSON object for each entry. It is
imported by workers too and hence needs the standard library only; docs/design/journal.md says why
the master has no other way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

EMERG, ALERT, CRIT, ERR, WARNING, NOTICE, INFO, DEBUG = range(8)
"""Priorities, as in syslog(3)."""

LEVELS = {"debug": DEBUG, "info": INFO, "notice": NOTICE, "warning": WARNING, "err": ERR}

SOCKET = "/run/systemd/journal/socket"
PATIENCE = 1.0  # seconds that one entry may wait for a reader before it is dropped
CHUNK = select.PIPE_BUF  # poll(2) promises room for this much

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class _Context:
    """What this process adds to each entry, and the least priority that it logs."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.level = INFO
        self.json = False


_context = _Context()


def configure(level: str | None = None, format: str | None = None, **fields: object) -> None:
    """Set the least priority (a key of LEVELS), how lines are written where there is no journal
    (text or json), and fields that every later entry carries."""
    if level is not None:
        _context.level = LEVELS[level]
    if format is not None:
        _context.json = format == "json"
    _context.fields.update({name.upper(): str(value) for name, value in fields.items()})


def log(priority: int, message: str, **fields: object) -> None:
    """One entry; a message of many lines stays one. Field names are given in either case, None
    is left out. Never raises; waits for a stuck reader PATIENCE seconds at most."""
    if priority > _context.level:
        return
    frame = sys._getframe(1)
    write(
        priority,
        message,
        CODE_FILE=frame.f_code.co_filename,
        CODE_LINE=frame.f_lineno,
        CODE_FUNC=frame.f_code.co_qualname,
        **fields,
    )


def write(priority: int, message: str, **fields: object) -> None:
    """As `log`, whatever the least priority is, and where from it came is the caller's to say."""
    # Whatever is wrong with a log entry, the service is worth more than it.
    with contextlib.suppress(Exception):
        made = entry(priority, message, **fields)
        if not is_journal() or not send(encode(made)):
            _write(priority, made)


def entry(priority: int, message: str, **fields: object) -> dict[str, str]:
    """What the journal is sent."""
    made = {
        "MESSAGE": message,
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "sockd",
        "SYSLOG_PID": str(os.getpid()),
        **_context.fields,
    }
    made.update((k.upper(), str(v)) for k, v in fields.items() if v is not None)
    return made


def request_fields(request: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an entry about a request, of those of its parts that are known: `method`,
    `target`, `client`, `request_id`, and `elapsed` in seconds."""
    target = request.get("target")
    return {
        "http_method": request.get("method"),
        "http_path": target.partition("?")[0] if target else None,
        "sockd_client": request.get("client") or None,
        "sockd_request_id": request.get("request_id"),
        "duration_usec": int(request["elapsed"] * 1e6) if "elapsed" in request else None,
    }


def is_journal() -> bool:
    """stderr is connected to journald (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def encode(entry: dict[str, str]) -> bytes:
    """The fields in the native protocol: `NAME=value`, or with a length where the value has
    line breaks."""
    out = bytearray()
    for name, value in entry.items():
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            out += name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
        else:
            out += name.encode() + b"=" + data + b"\n"
    return bytes(out)


def send(data: bytes) -> bool:
    """Give an encoded entry to journald; false if that is not there."""
    # A socket for each entry: nothing to lose to a fork or to an application that closes
    # descriptors that it did not open.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.sendto(data, SOCKET)
        except TimeoutError:
            return True  # stderr ends in the same journald: nothing to gain there
        except OSError:
            return _send_sealed(sock, data)
    return True


def _send_sealed(sock: socket.socket, data: bytes) -> bool:
    """An entry too large for a datagram travels in a sealed memfd."""
    try:
        fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
            sock.connect(SOCKET)
            socket.send_fds(sock, [b""], [fd])
    except OSError:
        return False
    return True


def line(priority: int, made: dict[str, str]) -> str:
    """An entry as it stands on stderr."""
    if _context.json:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        told = {"time": f"{stamp}.{int(now % 1 * 1e6):06d}Z", "priority": priority}
        told |= {name.lower(): value for name, value in made.items() if name != "PRIORITY"}
        return json.dumps(told, ensure_ascii=False) + "\n"
    prefix = "" if os.isatty(2) else f"<{priority}>"
    return "".join(f"{prefix}{text}\n" for text in made["MESSAGE"].splitlines() or [""])


def _write(priority: int, made: dict[str, str]) -> None:
    text = line(priority, made)
    data = text.encode("utf-8", "backslashreplace")
    until = time.monotonic() + PATIENCE
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    while data and poll.poll(max(0.0, until - time.monotonic()) * 1000):
        data = data[os.write(2, data[:CHUNK]) :]
