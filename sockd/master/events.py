"""The words between the fleet, which decides, and the loop, which knows the world.

Events tell the fleet what has happened; decisions tell the loop what to do. Both are plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple


class WorkerId(NamedTuple):
    """`7.2` is the second worker that was spawned for generation 7."""

    generation: int
    serial: int

    def __str__(self) -> str:
        return f"{self.generation}.{self.serial}"


class Upkeep(NamedTuple):
    """When workers are replaced; 0 is never."""

    max_requests: int = 0
    max_memory: int = 0  # bytes
    max_age: float = 0.0  # seconds
    jitter: float = 0.1  # the part of these limits by which workers differ
    idle_exit: float = 0.0  # seconds without a connection after which the service ends


class Plan(NamedTuple):
    """What the fleet needs to know of a generation's settings; times in seconds."""

    workers: int = 1
    boot: float = 60.0
    drain: float = 30.0
    upkeep: Upkeep = Upkeep()
    room: int = 0  # bytes for all workers, which then are as many as fit; 0: no such limit


class Left(NamedTuple):
    """What importing the application left behind, in its fork server."""

    threads: tuple[str, ...] = ()
    connections: tuple[str, ...] = ()
    native: int = 0  # threads that are not Python's

    def __str__(self) -> str:
        words = [f"the thread {name}" for name in self.threads] + list(self.connections)
        if self.native:
            words.append(f"{self.native} native thread{'s' if self.native > 1 else ''}")
        return ", ".join(words)


NOTHING_LEFT = Left()


class Figures(NamedTuple):
    """Of one worker."""

    requests: int
    memory: int | None = None  # bytes of its own; None if it was not asked for or is not known


# Events


@dataclass(frozen=True)
class Start:
    hold: float = 0.0  # seconds to wait first: earlier masters failed to boot


@dataclass(frozen=True)
class Launched:
    """The fork server of a generation runs (not: has loaded the application)."""

    generation: int
    pid: int
    plan: Plan


@dataclass(frozen=True)
class Loaded:
    """The fork server has imported the application, or leaves that to its workers."""

    generation: int
    left: Left = NOTHING_LEFT


@dataclass(frozen=True)
class Unshareable:
    """The fork server has imported the application, and workers cannot share what that left."""

    generation: int
    left: Left


@dataclass(frozen=True)
class LoadFailed:
    """There is no such generation: bad configuration, no interpreter, an import that failed."""

    generation: int
    message: str
    detail: str = ""


@dataclass(frozen=True)
class ServerClosed:
    """The fork server's end of its control socket is closed."""

    generation: int


@dataclass(frozen=True)
class Spawned:
    worker: WorkerId
    pid: int


@dataclass(frozen=True)
class SpawnFailed:
    worker: WorkerId
    error: str


@dataclass(frozen=True)
class Ready:
    """The worker can answer; it accepts when told to serve. Its memory in bytes: its own, and
    what it shares with others; 0 if that is not known."""

    worker: WorkerId
    pid: int
    private: int = 0
    shared: int = 0


@dataclass(frozen=True)
class Draining:
    """The worker has stopped accepting."""

    worker: WorkerId


@dataclass(frozen=True)
class Words:
    """Why the worker is about to end, in its own words."""

    worker: WorkerId
    message: str
    detail: str = ""


@dataclass(frozen=True)
class LifelineClosed:
    """No process holds the worker's end of its lifeline any more."""

    worker: WorkerId


@dataclass(frozen=True)
class Exited:
    """A child was reaped, maybe one that nobody here knows (yet)."""

    pid: int
    status: int  # of wait(2)
    why: str = ""  # what only the kernel knows of it


@dataclass(frozen=True)
class Reload:
    token: object = None  # comes back in a Reply; None asks for none


@dataclass(frozen=True)
class Upgrade:
    """Have the sockd that is installed take this one's place."""

    token: object = None  # comes back in a Reply, of that sockd if it does; None asks for none


@dataclass(frozen=True)
class Proved:
    """The other sockd starts and can go on from here; with a message it cannot, and why."""

    message: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Stop:
    quick: bool = False
    idle: bool = False  # there is no connection; one that comes meanwhile is served
    restart: bool = False  # another master follows, and takes over the connections


@dataclass(frozen=True)
class Resize:
    """So many workers more, or fewer, until the next reload."""

    by: int
    token: object = None  # comes back in a Reply; None asks for none


@dataclass(frozen=True)
class Withdraw:
    """Drain all workers; a reload, or wanting one more, undoes it."""


@dataclass(frozen=True)
class Measured:
    """What the workers of the live generation have done and hold, and how many connections are
    open in all workers."""

    figures: Mapping[WorkerId, Figures]
    connections: int = 0


@dataclass(frozen=True)
class Tick:
    """A deadline may have passed."""


Event = (
    Start
    | Launched
    | Loaded
    | Unshareable
    | LoadFailed
    | ServerClosed
    | Spawned
    | SpawnFailed
    | Ready
    | Draining
    | Words
    | LifelineClosed
    | Exited
    | Reload
    | Upgrade
    | Proved
    | Stop
    | Resize
    | Withdraw
    | Measured
    | Tick
)


# Decisions


@dataclass(frozen=True)
class Launch:
    """Read the configuration and start a fork server: answered by Launched or LoadFailed."""

    generation: int


@dataclass(frozen=True)
class Relaunch:
    """End the fork server, and start one that leaves the import to its workers: answered as
    Launch is."""

    generation: int


@dataclass(frozen=True)
class DumpServer:
    """Have the fork server write where it is stuck."""

    generation: int


@dataclass(frozen=True)
class DumpWorker:
    """Have a worker that boots write where it is stuck."""

    worker: WorkerId
    pid: int


@dataclass(frozen=True)
class CollectDump:
    """Answer with LoadFailed: this message, and as detail the stacks that were written."""

    generation: int
    message: str


@dataclass(frozen=True)
class CloseServer:
    """Close the control socket: the fork server ends."""

    generation: int


@dataclass(frozen=True)
class KillServer:
    """SIGKILL to its process group."""

    generation: int


@dataclass(frozen=True)
class Forget:
    """Nothing of the generation is left."""

    generation: int


@dataclass(frozen=True)
class Spawn:
    worker: WorkerId
    slot: int  # of the board


@dataclass(frozen=True)
class Serve:
    worker: WorkerId


@dataclass(frozen=True)
class Drain:
    worker: WorkerId
    seconds: float
    close_idle: bool
    hand_over: bool  # others take its connections


@dataclass(frozen=True)
class StopWorker:
    worker: WorkerId


@dataclass(frozen=True)
class KillWorker:
    worker: WorkerId
    pid: int


@dataclass(frozen=True)
class Release:
    """The worker is gone: close its lifeline, clear its slot."""

    worker: WorkerId


@dataclass(frozen=True)
class Measure:
    """Answer with Measured, for all workers of the live generation; `memory` too if asked."""

    memory: bool


@dataclass(frozen=True)
class Reply:
    """The outcome of a Reload or Resize; `generation` serves."""

    token: object
    ok: bool
    generation: int | None
    message: str
    detail: str


@dataclass(frozen=True)
class Prove:
    """Find out whether the other sockd can go on from here: answered by Proved."""


@dataclass(frozen=True)
class EndProof:
    """Nobody wants to know any more."""


@dataclass(frozen=True)
class Replace:
    """Become the other sockd, if nothing that comes first is against it. Answered by Proved, with
    a message, if that fails."""


@dataclass(frozen=True)
class Announce:
    """To the service manager."""

    what: Literal["ready", "reloading", "stopping"]


@dataclass(frozen=True)
class Note:
    """One journal entry."""

    priority: int
    message: str
    generation: int | None = None
    worker: WorkerId | None = None
    detail: str = ""


@dataclass(frozen=True)
class Exit:
    """Nothing is left to do. With a code other than 0, why. `leaves`: workers still finish what
    they have in hand, and another master follows."""

    code: int
    message: str
    detail: str
    leaves: bool = False


Decision = (
    Launch
    | Relaunch
    | DumpServer
    | DumpWorker
    | CollectDump
    | CloseServer
    | KillServer
    | Forget
    | Spawn
    | Serve
    | Drain
    | StopWorker
    | KillWorker
    | Release
    | Measure
    | Reply
    | Prove
    | EndProof
    | Replace
    | Announce
    | Note
    | Exit
)
