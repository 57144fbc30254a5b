"""What a master leaves to the one that replaces it in the same process, as JSON and back.

Everything here is data: which processes there are, which descriptors lead to them, what was
decided about them. Descriptors keep their numbers and times their clock (CLOCK_MONOTONIC) through
execve(2). Keys that are not known are passed over and those that are missing have their
defaults, so only what changes its meaning raises VERSION; docs/design/upgrade.md says who reads
what.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sockd.errors import SockdError
from sockd.master.events import Exited, Words, WorkerId
from sockd.master.fleet import Fleet
from sockd.master.states import Generation, Hold
from sockd.worker import messages

VERSION = 1
READABLE = tuple(one for one in (VERSION - 1, VERSION) if one)


class Unreadable(SockdError):
    """The state of another version, or none."""


@dataclass
class Asked:
    """A client of the control socket that waits for what it asked for, or what it said of it."""

    fd: int
    received: str = ""  # latin-1
    to_send: str = ""
    asked: bool = False
    upgrading: bool = False


@dataclass
class ControlSocket:
    fd: int
    path: str
    inode: tuple[int, ...]
    made: str | None = None  # the directory that was made for it
    clients: list[Asked] = field(default_factory=list)


@dataclass
class Listening:
    fd: int
    name: str
    address: str
    inode: tuple[int, ...] | None = None


@dataclass
class ServiceState:
    """`settings` and `began_with` as `dataclasses.asdict` has them."""

    name: str
    path: str | None
    settings: dict[str, Any]
    began_with: dict[str, Any]
    listeners: list[Listening]
    adopted: bool
    kept: dict[str, list[int]] = field(default_factory=dict)  # of systemd's fd store, by name


@dataclass
class ServerState:
    """A fork server; `protocol` is what it and its workers speak."""

    generation: int
    pid: int
    control: int | None
    dump: int
    protocol: int = messages.PROTOCOL


@dataclass
class LifelineState:
    worker: WorkerId
    slot: int
    fd: int
    pid: int | None = None
    open: bool = True
    dump: int = -1


@dataclass
class OrphansState:
    sessions: dict[int, int] = field(default_factory=dict)
    named: list[int] = field(default_factory=list)
    ending: dict[int, float] = field(default_factory=dict)


@dataclass
class TotalsState:
    """Counts as `Counts.state` has them: of workers that have ended, and of all until now, for a
    master that cannot read the board of those that live; `earlier` is what became of the service
    under the masters before."""

    ended: dict[str, Any]
    all: dict[str, Any]
    earlier: dict[str, int]


@dataclass
class FleetState:
    """People who wait are the descriptors of their connections."""

    generations: list[Generation]
    live: int | None
    last_number: int
    served: int | None = None
    happened: dict[str, int] = field(default_factory=dict)
    last_error: str | None = None
    heaviest: int = 0
    boots: Hold = field(default_factory=Hold)
    relaunch: Hold = field(default_factory=Hold)
    last_death: Words = field(default_factory=lambda: Words(WorkerId(0, 0), ""))
    strays: list[Exited] = field(default_factory=list)
    reloading: list[int] = field(default_factory=list)
    resizing: list[tuple[int, ...]] = field(default_factory=list)


@dataclass
class State:
    fleet: FleetState
    service: ServiceState
    board: int
    layout: int  # of the board
    servers: list[ServerState]
    lifelines: list[LifelineState]
    orphans: OrphansState
    totals: TotalsState | None = None
    control: ControlSocket | None = None
    signals: list[int] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)  # the service manager's words
    started: float = 0.0
    sockd: str = ""
    version: int = VERSION

    def descriptors(self) -> list[int]:
        """All that the next master needs open."""
        found = [self.board, *(one.fd for one in self.service.listeners)]
        for server in self.servers:
            found += [server.dump, *([] if server.control is None else [server.control])]
        found += [one.fd for one in self.lifelines]
        found += [one.dump for one in self.lifelines if one.dump >= 0]
        if self.control:
            found += [self.control.fd, *(one.fd for one in self.control.clients)]
        return found + [fd for fds in self.service.kept.values() for fd in fds]


def write(state: State) -> bytes:
    return json.dumps(encode(state)).encode("utf-8", "backslashreplace")


def read(data: bytes) -> State:
    """Unreadable says why not."""
    try:
        document = json.loads(data)
        version = document["version"]
    except (ValueError, KeyError, TypeError):
        raise Unreadable("what the running master has left is no state of a sockd") from None
    if version not in READABLE:
        raise Unreadable(
            f"the state of sockd {document.get('sockd', '?')} has version {version}, and this "
            f"sockd reads {' and '.join(map(str, READABLE))}: restart instead"
        )
    try:
        state = decode(State, document)
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"the state of the running master cannot be read: {error}") from None
    assert isinstance(state, State)
    for server in state.servers:
        if server.protocol not in messages.READABLE:
            raise Unreadable(
                f"the workers of generation {server.generation} speak version {server.protocol}, "
                f"this sockd {' and '.join(map(str, messages.READABLE))}: reload first"
            )
    return state


def encode(value: Any) -> Any:
    """As JSON has it: dataclasses and named tuples become objects, sets lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return {name: encode(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [encode(item) for item in value]
    return value


def decode(kind: Any, value: Any) -> Any:
    """The value of this type, of what `encode` made of it. ValueError, KeyError, TypeError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (argument for argument in arguments if argument is not types.NoneType)
        return decode(kind, value)
    if origin is list:
        return [decode(arguments[0], item) for item in value]
    if origin is tuple:
        return tuple(decode(arguments[0], item) for item in value)
    if origin is dict:
        return {arguments[0](name): decode(arguments[1], item) for name, item in value.items()}
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r} is no {kind.__name__}")
        hints = typing.get_type_hints(kind)
        known = {name: decode(hints[name], value[name]) for name in hints if name in value}
        return kind(**known)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    expected = (int, float) if kind is float else kind
    if kind in (int, float, str, bool) and not isinstance(value, expected):
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def take(fleet: Fleet, name: Callable[[object], int]) -> FleetState:
    """All about a fleet in which no generation boots; `name` says who a token is, or -1
    that it has gone away."""
    assert fleet.candidate is None and fleet.handover is None
    tokens = [*(fleet.upgrades or []), *(fleet._queued or [])]
    return FleetState(
        [dataclasses.replace(one, tokens=[]) for one in fleet.generations.values()],
        fleet.live.number if fleet.live else None,
        fleet._last_number,
        fleet.served,
        dict(fleet.happened),
        fleet.last_error,
        fleet._heaviest,
        fleet._boots,
        fleet._relaunch,
        fleet._last_death,
        list(fleet._strays.values()),
        [fd for fd in map(name, tokens) if fd >= 0],
        [(name(token), failures) for token, failures in fleet._resizing if name(token) >= 0],
    )


def give(state: FleetState, fleet: Fleet, token: Callable[[int], object]) -> None:
    """Have a fleet that knows nothing go on where that one stood, with a reload."""
    fleet.generations = {one.number: one for one in state.generations}
    fleet.live = None if state.live is None else fleet.generations[state.live]
    fleet._last_number = state.last_number
    fleet.served = state.served
    fleet.happened.update(state.happened)
    fleet.last_error = state.last_error
    fleet._heaviest = state.heaviest
    fleet._boots = state.boots
    fleet._relaunch = state.relaunch
    fleet._last_death = state.last_death
    fleet._strays = {one.pid: one for one in state.strays}
    fleet._queued = [found for one in state.reloading if (found := token(one)) is not None]
    fleet._resizing = [
        (found, failures) for who, failures in state.resizing if (found := token(who)) is not None
    ]
    taken = {worker.slot for worker in fleet.workers()}
    fleet._free_slots = [slot for slot in fleet._free_slots if slot not in taken]
