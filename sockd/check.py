"""`sockd check`: everything that would fail a start, found before it.

The application is imported by a fork server of its own, the same program that the service runs,
which ends afterwards. Root does this as the user that the service will have: what the import
writes would otherwise belong to root, and what only root may read would be found readable.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sockd import activation, client
from sockd.activation import Listener
from sockd.board import Board
from sockd.channel import Channel
from sockd.config import Config
from sockd.errors import CONFIGURATION, FAILED, OK, ConfigError, SockdError
from sockd.identity import Identity, find, find_group, find_user
from sockd.master.events import Left, Loaded, LoadFailed, Unshareable
from sockd.master.generation import ForkServer, interpreter, read_env_file, resolve
from sockd.master.roster import ended

STATE = Path("/var/lib")  # of StateDirectory=, systemd.exec(5)
NGINX_KEEPALIVE = 60.0  # seconds that nginx keeps an idle upstream connection by default
DUMP_TIME = 1.0  # seconds for a stuck import to write its stack
CLOSING_TIME = 1.0  # seconds for a fork server to end that has closed its control socket
STORED = 2  # descriptors that systemd holds for the service
NOBODY = 65534  # stands for a dynamic user: it owns nothing, and is in no group


CONTINUITY = (
    # property, what it may be, what goes wrong otherwise
    ("Type", ("notify", "notify-reload"), "systemd does not learn when the service is ready"),
    ("NotifyAccess", ("main", "exec", "all"), "systemd does not listen to the service"),
    ("KillMode", ("process",), "a restart waits for the slowest request, and breaks connections"),
)
"""What a unit has to say so that no connection ends with a process (docs/units.md)."""


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
    accounts = list(_accounts(config))
    yield from accounts
    if all(finding.word == "note" for finding in accounts):
        identity = _identity(config)
        if os.geteuid() == 0 and identity.uid != 0:
            yield from _as(identity, config)
        else:
            yield from _import(config, "")
        yield from _places(config, identity)
    yield from _units(config)
    yield from _addresses(config)


def _units(config: Config) -> Iterator[Finding]:
    """What a unit written by hand lacks."""
    names = [name for name, _, _ in CONTINUITY]
    services = client.loaded_services(config.name, *names, "FileDescriptorStoreMax")
    for unit, shown in services.items():
        for name, allowed, otherwise in CONTINUITY:
            if shown.get(name) not in allowed:
                text = f"{unit}: {name}={shown.get(name)}, not {allowed[0]}: {otherwise}"
                yield Finding("note", text)
        stored = shown.get("FileDescriptorStoreMax", "0")
        if int(stored) < STORED:
            yield Finding(
                "note",
                f"{unit}: FileDescriptorStoreMax={stored}, not {STORED} or more: a restart closes "
                "idle connections",
            )


def _notes(config: Config) -> Iterator[Finding]:
    keepalive = config.settings.timeouts.keepalive
    if keepalive <= NGINX_KEEPALIVE:
        yield Finding(
            "note",
            f"{_at(config, 'timeouts.keepalive')} is {keepalive:g} s: nginx keeps idle "
            f"connections {NGINX_KEEPALIVE:g} s and may use one just as it is closed",
        )
    if config.settings.nginx.media and not config.settings.unit.user:
        yield Finding(
            "problem",
            f"{_at(config, 'nginx.media')}: a dynamic user writes where nginx cannot read; "
            f"give the service another: adduser --system --group {config.name}, and unit.user",
            CONFIGURATION,
        )


def _accounts(config: Config) -> Iterator[Finding]:
    """Users and groups that this machine does not have."""
    unit = config.settings.unit
    looks: dict[str, tuple[str, Callable[[str], object]]] = {
        "unit.user": (unit.user, find_user),
        "unit.group": (unit.group, find_group),
        "unit.socket_group": (unit.socket_group, find_group),
    }
    for key, (name, look) in looks.items():
        try:
            if name:
                look(name)
        except KeyError:
            kind = "user" if look is find_user else "group"
            text = f"{_at(config, key)}: this machine has no {kind} {name}"
            if key in config.sources:
                yield Finding("problem", text, CONFIGURATION)
            else:  # without systemd the default group is of no use
                yield Finding("note", text)


def _identity(config: Config) -> Identity:
    """Whom the import runs as."""
    unit = config.settings.unit
    if not unit.user:
        gid = find_group(unit.group) if unit.group else NOBODY
        return Identity("", NOBODY, gid, [], "/")
    return find(unit.user, unit.group)


def _called(identity: Identity) -> str:
    return identity.name or f"uid {identity.uid}, as unit.user is empty"


def _as(identity: Identity, config: Config) -> Iterator[Finding]:
    """What `_import` finds in a child that is `identity`."""
    with _state_directory(identity, config) as state:
        yield from _by_child(identity, config, state)


@contextlib.contextmanager
def _state_directory(identity: Identity, config: Config) -> Iterator[Path]:
    """$STATE_DIRECTORY of the import: the service's own where its user may go there, else an empty
    one. That of a dynamic user is closed to all but the service."""
    own = STATE / config.name
    if config.settings.unit.user and own.is_dir():
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="sockd-check-") as place:
        os.chown(place, identity.uid, identity.gid)
        yield Path(place)


def _by_child(identity: Identity, config: Config, state: Path) -> Iterator[Finding]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            identity.assume()
            os.environ.update(identity.variables())
            os.environ["STATE_DIRECTORY"] = str(state)
            with os.fdopen(write, "w") as findings:
                for finding in _import(config, f" as {_called(identity)}"):
                    print(json.dumps(asdict(finding)), file=findings, flush=True)
            os._exit(OK)
        except KeyboardInterrupt:
            os._exit(FAILED)
        except BaseException:
            traceback.print_exc()
            os._exit(FAILED)
    os.close(write)
    try:
        with os.fdopen(read) as lines:
            for line in lines:
                yield Finding(**json.loads(line))
    finally:
        _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"the process that looked as {_called(identity)} {ended(status)}")


def _import(config: Config, whom: str) -> Iterator[Finding]:
    surroundings = list(_surroundings(config, whom))
    yield from surroundings
    if all(finding.word == "ok" for finding in surroundings):
        yield _application(config, whom)


def _surroundings(config: Config, whom: str) -> Iterator[Finding]:
    """What the application needs before it can be imported."""
    app = config.settings.app
    looks: dict[str, tuple[str, Callable[[], object]]] = {
        "app.directory": (app.directory, lambda: _directory(app.directory, whom)),
        "app.venv": (app.venv, lambda: interpreter(app.venv)),
        "app.env_file": (app.env_file, lambda: read_env_file(Path(app.env_file))),
    }
    for key, (value, look) in looks.items():
        if not value:
            continue
        try:
            look()
        except PermissionError as error:
            text = f"{_at(config, key)}: no permission to read {error.filename}{whom}"
            yield Finding("problem", text, CONFIGURATION)
        except SockdError as error:
            message = str(error).removeprefix(f"{key}: ")
            yield Finding("problem", f"{_at(config, key)}: {message}", CONFIGURATION)
        else:
            yield Finding("ok", f"{key} {value}")


def _directory(path: str, whom: str) -> None:
    below = Path(path).absolute()
    for parent in [*reversed(below.parents), below]:
        # A directory that may not be searched makes those below it look missing.
        if parent.is_dir() and not os.access(parent, os.X_OK):
            raise ConfigError(f"no permission to enter {parent}{whom}")
    if not os.access(resolve(path), os.R_OK | os.X_OK):
        raise ConfigError(f"no permission to read {path}{whom}")


def _places(config: Config, identity: Identity) -> Iterator[Finding]:
    """Directories that the service writes to, and nginx reads."""
    unit, media = config.settings.unit, config.settings.nginx.media
    if not unit.user:
        return
    try:
        group = find_group(unit.socket_group)
    except KeyError:
        group = -1  # found already
    for path in unit.writable:
        if not Path(path).is_dir():
            yield Finding(
                "problem", f"{_at(config, 'unit.writable')}: no directory {path}", FAILED
            )
    for path in media.values():
        try:
            found = Path(path).stat()
        except OSError:
            found = None
        if found and found.st_uid == identity.uid and _readable(found, group, identity):
            yield Finding("ok", f"nginx.media {path}")
            continue
        yield Finding(
            "note" if found else "problem",
            f"{_at(config, 'nginx.media')}: for {unit.user} to write and {unit.socket_group} to "
            f"read: install -d -o {unit.user} -g {unit.socket_group} -m 2750 {path}",
            OK if found else FAILED,
        )


def _readable(found: os.stat_result, group: int, identity: Identity) -> bool:
    """Whether what `identity` makes in that directory belongs to `group`, which can enter it."""
    inherited = found.st_mode & stat.S_ISGID or identity.gid == group
    return bool(inherited and found.st_gid == group and found.st_mode & 0o050 == 0o050)


def _at(config: Config, key: str) -> str:
    return f"{config.sources[key]}: {key}" if key in config.sources else key


def _application(config: Config, whom: str) -> Finding:
    target, begun = config.settings.app.target, time.monotonic()
    server = None
    channel = Channel.find({})
    try:
        server = ForkServer(1, config, [], channel, Board.create(1).fd)
        left = _await_import(server)
    except SockdError as error:
        place = _at(config, "app.target")
        return Finding("problem", f"{place}: {error}", error.exit_code, error.detail)
    finally:
        channel.close()
        if server is not None:
            server.kill()
            with contextlib.suppress(ChildProcessError):  # its end was asked for already
                os.waitpid(server.pid, 0)
            server.close()
    text = f"application {target}, imported in {time.monotonic() - begun:.2f} s{whom}"
    if any(left):
        text += f"; it left {left}"
        alone = config.settings.preload == "auto" and (left.threads or left.connections)
        text += ", so each worker imports it for itself" if alone else ""
    return Finding("note" if any(left) else "ok", text)


def _await_import(server: ForkServer) -> Left:
    """What the import left; SockdError as to why there was none."""
    deadline = time.monotonic() + server.plan.boot
    while select.select([server.control], [], [], max(0.0, deadline - time.monotonic()))[0]:
        for event in server.receive():
            match event:
                case Loaded() | Unshareable():
                    return event.left
                case LoadFailed():
                    raise SockdError(event.message, detail=event.detail)
                case _:
                    raise SockdError(f"the process that imported it {_end(server, deadline)}")
    server.dump()
    time.sleep(DUMP_TIME)
    raise SockdError(
        f"its import was not done after {server.plan.boot:g} s (timeouts.boot)",
        detail=server.dumped(),
    )


def _end(server: ForkServer, deadline: float) -> str:
    """How a fork server ended that has closed its control socket, which alone is no end."""
    patience = min(CLOSING_TIME, max(0.0, deadline - time.monotonic()))
    pidfd = os.pidfd_open(server.pid)
    try:
        if not select.select([pidfd], [], [], patience)[0]:
            return "closed sockd's descriptors and did not end; it may close only what it opened"
    finally:
        os.close(pidfd)
    server.kill()  # those that it started, while its number is still its own
    how = ended(os.waitpid(server.pid, 0)[1])
    return f"was {how}" if how.startswith("killed") else how


def _addresses(config: Config) -> Iterator[Finding]:
    units = client.active_sockets(config.name)
    if units:
        yield Finding("ok", f"systemd listens for it: {', '.join(units)}")
        return
    own = _listened_by_itself(config.name)
    made: list[Listener] = []
    for address in config.settings.bind:
        if address in own:
            yield Finding("ok", f"address {address}, where {config.name} listens")
            continue
        try:
            made += activation.bind_all([address], config.settings.limits.backlog, made)
        except SockdError as error:
            yield Finding("problem", f"{_at(config, 'bind')}: {error}", FAILED)
        else:
            yield Finding("ok", f"address {address} is free")
    for listener in made:
        listener.close()


def _listened_by_itself(name: str) -> frozenset[str]:
    try:
        document = client.status(client.locate(name))
    except SockdError:
        return frozenset()
    return frozenset(listener["address"] for listener in document["listeners"])
