"""How each server is started: one worker, as its documentation has it, without an access log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import HERE
from bench.environment import PYTHON, RESPONDER, VENV

SOCKD = Path(sys.executable).with_name("sockd")
BIN = VENV / "bin"


@dataclass(frozen=True)
class Service:
    """What a server is asked to serve. `address` is HOST:PORT or the path of a Unix socket."""

    app: str
    address: str = ""
    workers: int = 1
    threads: int = 1
    size: int = 13  # bytes of the response, for the C responder
    post: int = 0  # bytes of the request body, likewise
    keep_alive: bool = True
    nginx: bool = False

    @property
    def unix(self) -> bool:
        return self.address.startswith("/")


@dataclass(frozen=True)
class Peer:
    name: str
    package: str | None  # on PyPI; None for what is built here
    command: Callable[[Service], list[object]]
    unix: bool = True  # serves Unix sockets
    keeps_alive: bool = True
    uwsgi_protocol: bool = False  # behind nginx
    slow: bool = False  # far off: one round in the quick form


def _c(s: Service) -> list[object]:
    where = s.address if s.unix else s.address.rpartition(":")[2]
    return [RESPONDER, where, "keep" if s.keep_alive else "close", s.size, s.post]


def _sockd(s: Service) -> list[object]:
    more = ["--set", f"threads={s.threads}"] if s.threads > 1 else []
    return [SOCKD, "serve", "bench", s.app, "--bind", s.address, "--workers", s.workers,
            "--venv", VENV, "--set", "limits.connections=8192", *more]  # fmt: skip


def _bjoern(s: Service) -> list[object]:
    return [PYTHON, HERE / "embed.py", "bjoern", s.app, s.address]


def _fastwsgi(s: Service) -> list[object]:
    return [PYTHON, HERE / "embed.py", "fastwsgi", s.app, s.address]


def _granian(s: Service) -> list[object]:
    host, _, port = s.address.rpartition(":")
    where = ["--uds", s.address] if s.unix else ["--host", host, "--port", port]
    return [BIN / "granian", "--interface", "wsgi", "--no-ws", "--log-level", "error", *where,
            "--workers", s.workers, "--blocking-threads", s.threads, s.app]  # fmt: skip


def _uwsgi(s: Service) -> list[object]:
    listen = "--socket" if s.nginx else "--http-socket"
    more = ["--threads", s.threads] if s.threads > 1 else []
    # Its HTTP socket closes after each response but does not say so: wrk would count errors.
    return [BIN / "uwsgi", listen, s.address, "--master", "--processes", s.workers,
            "--disable-logging", "--need-app", "--die-on-term", "--listen", 1024,
            "--add-header", "Connection: close", *more, "--module", s.app]  # fmt: skip


def _gunicorn(kind: str) -> Callable[[Service], list[object]]:
    def command(s: Service) -> list[object]:
        where = f"unix:{s.address}" if s.unix else s.address
        threads = ["--threads", max(s.threads, 4)] if kind == "gthread" else []
        return [BIN / "gunicorn", "--bind", where, "--workers", s.workers, "--worker-class", kind,
                *threads, "--log-level", "error", s.app]  # fmt: skip

    return command


PEERS = (
    Peer("C", None, _c),
    Peer("sockd", None, _sockd),
    Peer("fastwsgi", "fastwsgi", _fastwsgi, unix=False),
    Peer("bjoern", "bjoern", _bjoern),
    Peer("granian", "granian", _granian),
    Peer("uWSGI", "uwsgi", _uwsgi, keeps_alive=False, uwsgi_protocol=True),
    Peer("gunicorn gthread", "gunicorn", _gunicorn("gthread"), slow=True),
    Peer("gunicorn sync", "gunicorn", _gunicorn("sync"), keeps_alive=False, slow=True),
)
