"""The states of generations, fork servers and workers, and every change between them.

Times are seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from sockd.master.events import Note, Plan, Words, WorkerId

LONGEST_HOLD = 30.0  # seconds: the back-off doubles up to this


class G(StrEnum):
    """A generation: one load of the application's code and configuration."""

    BOOTING = "booting"  # its fork server imports the application
    WARMING = "warming"  # its first workers come up; none of them accepts
    LIVE = "live"  # its workers accept; at most one generation is
    RETIRING = "retiring"  # its workers finish what they have in hand
    GONE = "gone"


class S(StrEnum):
    """The fork server of a generation."""

    RUNNING = "running"
    CLOSING = "closing"  # its control socket is closed, so it ends by itself
    KILLED = "killed"
    GONE = "gone"


class W(StrEnum):
    """A worker."""

    SPAWNING = "spawning"  # asked for; its pid is not known
    BOOTING = "booting"
    READY = "ready"
    DRAINING = "draining"
    KILLED = "killed"
    GONE = "gone"


GENERATION = {
    (G.BOOTING, "loaded"): G.WARMING,
    (G.WARMING, "promoted"): G.LIVE,
    (G.BOOTING, "retired"): G.RETIRING,
    (G.WARMING, "retired"): G.RETIRING,
    (G.LIVE, "retired"): G.RETIRING,
    (G.RETIRING, "emptied"): G.GONE,
}

SERVER = {
    (S.RUNNING, "closed"): S.CLOSING,
    (S.RUNNING, "killed"): S.KILLED,
    (S.CLOSING, "killed"): S.KILLED,
    (S.RUNNING, "exited"): S.GONE,
    (S.CLOSING, "exited"): S.GONE,
    (S.KILLED, "exited"): S.GONE,
    (S.KILLED, "abandoned"): S.GONE,
}

WORKER = {
    (W.SPAWNING, "spawned"): W.BOOTING,
    (W.SPAWNING, "ready"): W.READY,  # its lifeline may be faster than its fork server
    (W.BOOTING, "ready"): W.READY,
    (W.BOOTING, "drained"): W.DRAINING,
    (W.READY, "drained"): W.DRAINING,
    (W.BOOTING, "killed"): W.KILLED,
    (W.READY, "killed"): W.KILLED,
    (W.DRAINING, "killed"): W.KILLED,
    (W.BOOTING, "exited"): W.GONE,
    (W.READY, "exited"): W.GONE,
    (W.DRAINING, "exited"): W.GONE,
    (W.KILLED, "exited"): W.GONE,
    (W.KILLED, "abandoned"): W.GONE,
    (W.SPAWNING, "lost"): W.GONE,
}


def backoff(failures: int, longest: float = LONGEST_HOLD) -> float:
    """Seconds to wait after so many failures in a row: 0, 1, 2, 4 … `longest`."""
    return 0.0 if failures <= 1 else min(longest, 2.0 ** min(failures - 2, 10))


@dataclass
class Hold:
    """The back-off of something that is tried again and again."""

    longest: float = LONGEST_HOLD
    failures: int = 0
    counted_at: float = float("-inf")
    until: float = float("-inf")

    def failed(self, began: float, now: float) -> None:
        """An attempt that began then has failed. Those that were under way when the one that
        counts failed are the same failure: eight workers that die together are no eight
        attempts."""
        if began >= self.counted_at:
            self.failures += 1
            self.counted_at = now
        self.until = now + backoff(self.failures, self.longest)

    def succeeded(self) -> None:
        self.failures = 0


@dataclass
class Worker:
    id: WorkerId
    slot: int
    born: float
    state: W = W.SPAWNING
    pid: int | None = None
    ready_at: float | None = None
    deadline: float | None = None
    worn: str = ""  # why it is to be replaced, for the journal
    end: str = ""  # and for the figures: one of sockd.metrics.CAUSES, if known before its end
    cause: str = ""  # why it is killed, for the journal
    words: Words | None = None  # why it ends, by itself
    overran: bool = False  # a request of it took longer than timeouts.request
    stuck: list[Note] = field(default_factory=list)  # about such, to be said with its stacks

    def change(self, what: str) -> None:
        self.state = WORKER[self.state, what]


@dataclass
class Generation:
    number: int
    born: float
    tokens: list[object]
    asked: bool  # by a person; else the master's own doing
    hold: Hold  # of its workers
    state: G = G.BOOTING
    plan: Plan = field(default_factory=Plan)
    wanted: int = 0
    withdrawn: int = 0  # what was wanted before all workers were to drain
    workers: dict[int, Worker] = field(default_factory=dict)
    serial: int = 0
    server: S = S.RUNNING
    server_pid: int | None = None
    server_deadline: float | None = None
    deadline: float | None = None  # of its boot
    dumping: bool = False
    left: bool = False  # something that workers cannot share
    live_at: float = 0.0
    boots: Hold = field(default_factory=Hold)  # of its workers that died before they were ready
    weighed: bool = False  # its first worker was, which says how many there is room for
    recycled: WorkerId | None = None  # being replaced

    def change(self, what: str) -> None:
        self.state = GENERATION[self.state, what]

    def change_server(self, what: str) -> None:
        self.server = SERVER[self.server, what]

    def in_state(self, *states: W) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.state in states]
