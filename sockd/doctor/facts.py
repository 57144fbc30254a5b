"""What `sockd doctor` knows when it judges, and what it says. Nothing here looks at a machine.

A fact that could not be had is `Missing`, with the reason; `have` ends the checks that need it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from sockd.config import Config

Word = Literal["ok", "note", "problem", "unknown"]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """A note may stay as it is; a problem may not; unknown is what could not be looked at."""

    word: Word
    text: str
    why: str = ""
    mend: str = ""
    """A command, or what to write where and the command after it."""


def problem(text: str, why: str, mend: str) -> Finding:
    return Finding("problem", text, why, mend)


def note(text: str, why: str, mend: str = "") -> Finding:
    return Finding("note", text, why, mend)


class Missing(NamedTuple):
    """Why a fact could not be had."""

    reason: str


class Unknown(Exception):
    """A check cannot be made, for that reason."""


def have(fact: T | Missing) -> T:
    if isinstance(fact, Missing):
        raise Unknown(fact.reason)
    return fact


class Said(NamedTuple):
    """Where a directive stands in the files of a unit, the last time."""

    file: str
    generated: bool
    """By sockd, so it is not to be edited."""


@dataclass(frozen=True)
class Unit:
    """A unit that systemd has loaded."""

    name: str
    properties: Mapping[str, Any]
    """As D-Bus has them, org.freedesktop.systemd1(5)."""
    said: Mapping[str, Said] = field(default_factory=dict)
    """By directive; what is at systemd's default is missing."""
    generated: bool = False
    """Its own file is sockd's work: rendered, or packaged."""

    def get(self, name: str, default: Any = None) -> Any:
        return self.properties.get(name, default)

    @property
    def active(self) -> bool:
        return self.get("ActiveState") in ("active", "reloading", "activating")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    name: str
    command: str
    uid: int
    stale: bool | None = None
    """It runs files of sockd's that have been replaced; None when that could not be seen."""
    private: int | None = None
    """Bytes of memory of its own."""
    shared: int | None = None


@dataclass(frozen=True)
class Processes:
    """Those of the service's control group, and what the master is."""

    main: int
    found: Mapping[int, Process]


class Place(NamedTuple):
    """A file or directory: stat(2), and whether nginx's user can get at it."""

    uid: int
    gid: int
    mode: int
    directory: bool
    nginx: bool | None = None
    """Read and enter a directory, connect to a socket; None without nginx."""


class Listening(NamedTuple):
    """Somebody listens at an address."""

    address: str
    pids: tuple[int, ...]
    """Empty when they could not be seen."""
    names: tuple[str, ...]


class Route(NamedTuple):
    """A place in nginx's configuration that passes requests on."""

    names: tuple[str, ...]
    """server_name"""
    location: str
    backends: tuple[str, ...]
    """`/run/shop.sock`, `127.0.0.1:8000`, without their parameters."""
    upstream: str
    """The name of the upstream block, or empty."""
    directives: Mapping[str, tuple[str, ...]]
    """Those in force, the nearest of each name; `proxy_set_header` has the names that are set,
    in lower case."""
    file: str


@dataclass(frozen=True)
class Nginx:
    active: bool
    refusal: str
    """What `nginx -t` says when it refuses."""
    warnings: tuple[str, ...]
    user: str
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class Journal:
    """Entries of the service's unit, the oldest first: warnings and worse, and systemd's."""

    messages: tuple[str, ...]
    complete: bool
    """There were not more than were read."""


@dataclass(frozen=True)
class Machine:
    processors: int
    """Those that the service may use."""
    memory: int
    """Bytes that the service may use: the tightest limit of its control groups, else all."""
    limited: bool
    """It is a limit, and not the machine's size."""
    kernel: Mapping[str, int]
    """sysctl name → value, as far as they can be read."""


@dataclass(frozen=True)
class Versions:
    """Of sockd, by where it was found; empty where there is none."""

    own: str
    """This program's."""
    unit: str | Missing
    """What ExecStart= starts."""
    venv: str | Missing


@dataclass(frozen=True)
class Facts:
    name: str
    config: Config | Missing
    config_error: str
    """Why the configuration cannot be loaded."""
    unit: Unit | Missing
    sockets: Sequence[Unit] | Missing
    """The socket units that start the service."""
    rendered: Mapping[str, Mapping[str, Sequence[str]]] | Missing
    """Section → directive → values, as `generate-units` writes the service's unit."""
    status: Mapping[str, Any] | Missing
    """The answer of GET /status."""
    processes: Processes | Missing
    listening: Sequence[Listening] | Missing
    """At the addresses of the service, if systemd does not hold them."""
    nginx: Nginx | Missing
    journal: Journal | Missing
    machine: Machine
    places: Mapping[str, Place | OSError]
    """By path: directories and sockets of the service."""
    versions: Versions
    drift: str | Missing
    """A diff from what is installed to what would be generated."""
    changed_at: float = 0.0
    """When a file of the configuration was last changed, seconds since the epoch."""
    now: float = 0.0
    monotonic_usec: int = 0
    connections: int = 0
    """What the database allows, if told."""

    def addresses(self) -> list[str]:
        """Where the service listens, or would: `/run/shop.sock`, `127.0.0.1:8000`."""
        if not isinstance(self.sockets, Missing) and self.sockets:
            return [
                f":{address}" if address.isdigit() else address
                for unit in self.sockets
                for kind, address in unit.get("Listen", [])
                if kind == "Stream"
            ]
        if not isinstance(self.status, Missing):
            return [listener["address"] for listener in self.status["listeners"]]
        return list(have(self.config).settings.bind)


def is_gone(place: Place | OSError) -> bool:
    return isinstance(place, OSError) and place.errno in (errno.ENOENT, errno.ENOTDIR)
