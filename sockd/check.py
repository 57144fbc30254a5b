"""`sockd check`: everything that would fail a start, found before it.

The application is imported by a fork server of its own, the same program that the service runs,
which ends afterwards.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sockd import activation, client
from sockd.board import Board
from sockd.config import Config
from sockd.errors import CONFIGURATION, FAILED, OK, SockdError
from sockd.master.events import Loaded, LoadFailed
from sockd.master.generation import ForkServer, interpreter, read_env_file, resolve

NGINX_KEEPALIVE = 60.0  # seconds that nginx keeps an idle upstream connection by default
DUMP_TIME = 1.0  # seconds for a stuck import to write its stack


@dataclass(frozen=True)
class Finding:
    word: Literal["ok", "note", "problem"]
    text: str
    exit_code: int = OK
    detail: str = ""
    """The application's traceback."""


def examine(config: Config) -> Iterator[Finding]:
    """One finding for each thing that was looked at, as soon as it is known."""
    yield Finding("ok", f"configuration {config.path or 'of the command line'}")
    yield from _notes(config)
    surroundings = list(_surroundings(config))
    yield from surroundings
    if all(finding.word == "ok" for finding in surroundings):
        yield _application(config)
    yield from _addresses(config)


def _notes(config: Config) -> Iterator[Finding]:
    keepalive = config.settings.timeouts.keepalive
    if keepalive <= NGINX_KEEPALIVE:
        yield Finding(
            "note",
            f"{_at(config, 'timeouts.keepalive')} is {keepalive:g} s: nginx keeps idle "
            f"connections {NGINX_KEEPALIVE:g} s and may use one just as it is closed",
        )


def _surroundings(config: Config) -> Iterator[Finding]:
    """What the application needs before it can be imported."""
    app = config.settings.app
    looks: dict[str, tuple[str, Callable[[], object]]] = {
        "app.directory": (app.directory, lambda: _directory(app.directory)),
        "app.venv": (app.venv, lambda: interpreter(app.venv)),
        "app.env_file": (app.env_file, lambda: read_env_file(Path(app.env_file))),
    }
    for key, (value, look) in looks.items():
        if not value:
            continue
        try:
            look()
        except SockdError as error:
            message = str(error).removeprefix(f"{key}: ")
            yield Finding("problem", f"{_at(config, key)}: {message}", CONFIGURATION)
        else:
            yield Finding("ok", f"{key} {value}")


def _directory(path: str) -> None:
    if not os.access(resolve(path), os.R_OK | os.X_OK):
        raise SockdError(f"no permission to read {path}")


def _at(config: Config, key: str) -> str:
    return f"{config.sources[key]}: {key}" if key in config.sources else key


def _application(config: Config) -> Finding:
    target, begun = config.settings.app.target, time.monotonic()
    server = None
    try:
        server = ForkServer(1, config, [], Board.create(1).fd)
        threads = _await_import(server)
    except SockdError as error:
        place = _at(config, "app.target")
        return Finding("problem", f"{place}: {error}", error.exit_code, error.detail)
    finally:
        if server is not None:
            server.kill()
            with contextlib.suppress(ChildProcessError):  # its end was asked for already
                os.waitpid(server.pid, 0)
            server.close()
    text = f"application {target}, imported in {time.monotonic() - begun:.2f} s"
    if threads:
        text += f"; it left threads, which workers do not have: {', '.join(threads)}"
    return Finding("note" if threads else "ok", text)


def _await_import(server: ForkServer) -> list[str]:
    """The threads that the import left; SockdError as to why there was none."""
    deadline = time.monotonic() + server.plan.boot
    while select.select([server.control], [], [], max(0.0, deadline - time.monotonic()))[0]:
        events, threads = server.receive()
        for event in events:
            match event:
                case Loaded():
                    return threads
                case LoadFailed():
                    raise SockdError(event.message, detail=event.detail)
                case _:
                    _, status = os.waitpid(server.pid, 0)
                    raise SockdError(f"the process that imported it {_ended(status)}")
    server.dump()
    time.sleep(DUMP_TIME)
    raise SockdError(
        f"its import was not done after {server.plan.boot:g} s (timeouts.boot)",
        detail=server.dumped(),
    )


def _ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exited with {os.waitstatus_to_exitcode(status)}"


def _addresses(config: Config) -> Iterator[Finding]:
    units = client.active_sockets(config.name)
    if units:
        yield Finding("ok", f"systemd listens for it: {', '.join(units)}")
        return
    own = _listened_by_itself(config.name)
    for address in config.settings.bind:
        if address in own:
            yield Finding("ok", f"address {address}, where {config.name} listens")
            continue
        try:
            for listener in activation.bind_all([address], config.settings.limits.backlog):
                listener.close()
        except SockdError as error:
            yield Finding("problem", f"{_at(config, 'bind')}: {error}", FAILED)
        else:
            yield Finding("ok", f"address {address} is free")


def _listened_by_itself(name: str) -> frozenset[str]:
    try:
        document = client.status(client.locate(name))
    except SockdError:
        return frozenset()
    return frozenset(listener["address"] for listener in document["listeners"])
