"""A generation as the system sees it: its fork server, and the lifelines of its workers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import sockd
from sockd import memory
from sockd.activation import Listener
from sockd.channel import Channel
from sockd.config import Config
from sockd.errors import AppError, ConfigError
from sockd.identity import Identity, find
from sockd.loader import bounded
from sockd.master import capacity, cgroup
from sockd.master.events import (
    Draining,
    Event,
    Left,
    Loaded,
    LoadFailed,
    Plan,
    Ready,
    ServerClosed,
    Spawned,
    SpawnFailed,
    Unshareable,
    Upkeep,
    Words,
    WorkerId,
)
from sockd.master.inheritance import LifelineState, ServerState
from sockd.settings import Settings
from sockd.worker import boot, messages
from sockd.worker.messages import DUMP_SIGNAL, Spec

CONTROL_FD = 3  # of the fork server
NOT_FOR_THE_APP = re.compile(r"LISTEN_\w+|NOTIFY_SOCKET|WATCHDOG_\w+|MAINPID|SOCKD_\w+")
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")


def plan(settings: Settings, activated: bool) -> Plan:
    workers, room = settings.workers, 0
    if not workers:
        group = cgroup.read()
        own = memory.of("self")
        workers = capacity.processors(group)
        room = max(1, group.memory - (sum(own) if own else 0)) if group.memory else 0
    recycle = settings.recycle
    upkeep = Upkeep(
        recycle.max_requests,
        recycle.max_memory,
        recycle.max_age,
        recycle.jitter / 100,
        settings.timeouts.idle_exit if activated else 0.0,
    )
    return Plan(workers, settings.timeouts.boot, settings.timeouts.drain, upkeep, room)


def identity_of(settings: Settings) -> Identity | None:
    """Whom the application is to run as, if that is somebody else. ConfigError."""
    process = settings.process
    if not process.user:
        return None
    try:
        found = find(process.user, process.group)
    except KeyError as error:
        raise ConfigError(f"process: {error.args[0]}") from None
    if found.uid == os.geteuid() and found.gid == os.getegid():
        return None
    if os.geteuid() != 0:
        raise ConfigError(f"process.user: only root can become {process.user}")
    return found


def environment(
    config: Config, environ: Mapping[str, str], identity: Identity | None = None
) -> dict[str, str]:
    """The application's: the service's own, the user's, then `app.env_file`, then `app.env`."""
    made = {k: v for k, v in environ.items() if not NOT_FOR_THE_APP.fullmatch(k)}
    if identity:
        made.update(identity.variables())
    app = config.settings.app
    if app.env_file:
        made.update(read_env_file(Path(app.env_file)))
    made.update(app.env)
    return made


def read_env_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines; `#` begins a comment line, one pair of quotes around a value is taken
    off. ConfigError."""
    made = {}
    for number, line in enumerate(_read_regular(path).splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise ConfigError(f"{path}:{number}: expected NAME=value")
        value = match[2].strip()
        if "\0" in value:
            raise ConfigError(f"{path}:{number}: a variable cannot hold a NUL byte")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        made[match[1]] = value
    return made


def _read_regular(path: Path) -> str:
    """Anything else could keep whoever reads it waiting for ever: a FIFO, a terminal."""
    try:
        # Without waiting for a FIFO's writer, open(2).
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"app.env_file: {path} is no regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read().decode()
        finally:
            os.close(descriptor)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"app.env_file: cannot read {path}: {reason}") from error


def interpreter(venv: str) -> str:
    """The Python that runs the application. ConfigError when there is none."""
    if not venv:
        return sys.executable
    python = Path(venv) / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise ConfigError(f"app.venv: {python} is not there or cannot be executed")
    return str(python)


def resolve(directory: str) -> str:
    """A `current` symlink is followed once for each generation, not once for each file."""
    path = Path(directory or ".").resolve()
    if not path.is_dir():
        raise ConfigError(f"app.directory: {directory} is no directory")
    return str(path)


class ForkServer:
    """The process that has imported the application, and this end of its control socket."""

    def __init__(
        self,
        generation: int,
        config: Config,
        listeners: list[Listener],
        channel: Channel,
        board: int,
        *,
        preload: bool = True,
        activated: bool = False,
    ) -> None:
        """Start it; without `preload` it leaves the import to its workers. `activated`: somebody
        else holds the listening sockets too. ConfigError, AppError."""
        settings = config.settings
        who = identity_of(settings)
        self.generation = generation
        self.protocol = messages.PROTOCOL
        self.config = config
        self.plan = plan(settings, activated)
        self._dump = os.memfd_create("sockd-dump", os.MFD_CLOEXEC)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            spec = Spec(
                config.name,
                generation,
                os.getpid(),
                resolve(settings.app.directory),
                preload,
                who,
                settings,
                [(listener.name, listener.address) for listener in listeners],
                channel.outlives,
            )
            self.control.setblocking(False)
            fds = [*channel.descriptors(), *(one.socket.fileno() for one in listeners)]
            messages.send(self.control, spec.message(), [self._dump, board, *fds])
            self.pid = self._exec(
                interpreter(settings.app.venv), environment(config, os.environ, who), theirs
            )
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()

    @classmethod
    def inherited(cls, state: ServerState, config: Config) -> Self:
        """The one that an earlier master in this process has started."""
        self = cls.__new__(cls)
        self.generation, self.pid, self.protocol = state.generation, state.pid, state.protocol
        self.config = config
        self._dump = state.dump
        if state.control is None:
            self.control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.control.close()
        else:
            self.control = socket.socket(fileno=state.control)
            self.control.setblocking(False)
        return self

    def state(self) -> ServerState:
        control = self.control.fileno()
        return ServerState(
            self.generation, self.pid, None if control < 0 else control, self._dump, self.protocol
        )

    @staticmethod
    def _exec(python: str, environ: dict[str, str], control: socket.socket) -> int:
        try:
            # A session of its own: a terminal's signals reach it through the master only, and
            # what the import starts can be ended as one process group.
            return os.posix_spawn(
                python,
                [python, str(Path(boot.__file__).resolve()), str(CONTROL_FD), sockd.__version__],
                environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, control.fileno(), CONTROL_FD)],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            raise AppError(f"cannot execute {python}: {error.strerror}") from error

    def receive(self) -> list[Event]:
        """What it has said."""
        events: list[Event] = []
        while self.control.fileno() >= 0:
            try:
                message, _ = messages.receive(self.control)
            except BlockingIOError:
                break
            except (OSError, ValueError):
                message = None
            if message is None:
                events.append(ServerClosed(self.generation))
                self.control.close()
            elif "loaded" in message:
                events.append(Loaded(self.generation, _left(message["loaded"])))
            elif "unshareable" in message:
                events.append(Unshareable(self.generation, _left(message["unshareable"])))
            elif "failed" in message:
                failed = message["failed"]
                events.append(LoadFailed(self.generation, failed["message"], failed["detail"]))
            elif "spawned" in message:
                worker = WorkerId(self.generation, message["spawned"])
                events.append(Spawned(worker, message["pid"]))
            elif "unspawned" in message:
                worker = WorkerId(self.generation, message["unspawned"])
                events.append(SpawnFailed(worker, message["error"]))
        return events

    def spawn(self, worker: WorkerId, slot: int) -> Lifeline:
        """Ask for a worker. OSError when it does not listen any more."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            message = {"spawn": [worker.serial, slot]}
            messages.send(self.control, message, [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return Lifeline(worker, slot, ours)

    def dump(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, DUMP_SIGNAL)

    def dumped(self) -> str:
        """The stacks that it wrote, bounded; empty when it could not."""
        size = os.fstat(self._dump).st_size
        return bounded(os.pread(self._dump, size, 0).decode(errors="replace"))

    def kill(self) -> None:
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.control.close()
        if self._dump >= 0:
            os.close(self._dump)
            self._dump = -1


def _left(words: messages.Message) -> Left:
    connections = tuple(words.get("connections", ()))
    return Left(tuple(words.get("threads", ())), connections, words.get("native", 0))


class Lifeline:
    """The master's end of the socket to one worker."""

    def __init__(self, worker: WorkerId, slot: int, sock: socket.socket) -> None:
        self.worker = worker
        self.slot = slot
        self.socket = sock
        self.pid: int | None = None
        self.open = True

    @classmethod
    def inherited(cls, state: LifelineState) -> Self:
        """The one that an earlier master in this process has made."""
        sock = socket.socket(fileno=state.fd)
        sock.setblocking(False)
        self = cls(state.worker, state.slot, sock)
        self.pid, self.open = state.pid, state.open
        return self

    def state(self) -> LifelineState:
        return LifelineState(self.worker, self.slot, self.socket.fileno(), self.pid, self.open)

    def send(self, message: messages.Message) -> None:
        with contextlib.suppress(OSError):  # a worker that is gone is reaped
            messages.send(self.socket, message)

    def receive(self) -> tuple[list[Event], bool]:
        """What the worker has said, and whether it can say more."""
        events: list[Event] = []
        while True:
            try:
                message, _ = messages.receive(self.socket)
            except BlockingIOError:
                return events, True
            except (OSError, ValueError):
                message = None
            if message is None:
                return events, False
            if "ready" in message:
                private, shared = message.get("memory") or (0, 0)
                events.append(Ready(self.worker, message["ready"], private, shared))
            elif "draining" in message:
                events.append(Draining(self.worker))
            elif "failed" in message:
                failed = message["failed"]
                events.append(Words(self.worker, failed["message"], failed["detail"]))

    def close(self) -> None:
        self.socket.close()
