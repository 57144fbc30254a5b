"""What there is of generations and workers, and how the rules about them speak: what the parts of
the fleet share.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sockd.master.events import Decision, Exit, Exited, Note, Words, WorkerId
from sockd.master.states import LONGEST_HOLD, Generation, Hold, Worker
from sockd.metrics import DEATHS

GRACE = 1.0  # a process ends by itself at its deadline; so much later it is killed
SHORT = 5.0  # for what should take milliseconds: a fork server to end, a lost worker to exit
ABANDON = 10.0  # a killed process that is not gone by then hangs in the kernel
DUMP = 0.5  # for a process that is stuck to write its stack
LIVED = 5.0  # a worker that was ready for so long did not fail at boot
MOST_WORKERS = 512
MOST_FAILURES = 8  # boots that fail in a row until it gives up: a minute, with the back-off

LATE = "still busy after the drain time of {:g} s"


@dataclass
class Handover:
    """A reload, or the end of a master that another one follows: done when the old workers have
    stopped accepting and given away what is idle."""

    generation: Generation | None
    waiting: set[WorkerId]
    until: float


class Roster:
    """Every generation and worker, and the decisions made so far about them."""

    def __init__(
        self, slots: int, longest_hold: float = LONGEST_HOLD, *, gives_up: bool = False
    ) -> None:
        """`slots` is how many workers there can be at once; `longest_hold` bounds the back-off.
        A fleet that `gives_up` ends when no worker is left and none boots."""
        self.gives_up = gives_up
        self.longest_hold = longest_hold
        self.generations: dict[int, Generation] = {}
        self.live: Generation | None = None
        self.served: int | None = None  # the number of the last one that was live
        self.candidate: Generation | None = None
        self.handover: Handover | None = None
        self.leaving: Handover | None = None
        self.stopping = False
        self.quick = False
        self.exited = False
        self.happened: Counter[str] = Counter()  # reloads.OUTCOME, respawns.CAUSE
        self.last_error: str | None = None
        self._resizing: list[tuple[object, int]] = []  # who waits for that, failures until then
        self._last_death = Words(WorkerId(0, 0), "")
        self._heaviest = 0  # bytes of the largest worker, when they were looked at last
        self._boots = Hold()  # of generations that are to replace one without a fork server
        self._gave_up: Exit | None = None
        self._failure: Exit | None = None
        self._queued: list[object] | None = None  # who waits for the reload after this one
        self.upgrades: list[object] | None = None  # who waits for that
        self.proving = False  # whether the other sockd can go on
        self._start_at: float | None = None
        self._relaunch = Hold(longest_hold)
        self._strays: dict[int, Exited] = {}
        self._free_slots = list(range(slots - 1, -1, -1))
        self._last_number = 0
        self._out: list[Decision] = []

    @property
    def reloads_ok(self) -> int:
        return self.happened["reloads.ok"]

    @property
    def reloads_failed(self) -> int:
        return self.happened["reloads.failed"]

    @property
    def respawns(self) -> int:
        """Workers that ended when they should not have."""
        return sum(self.happened[f"respawns.{cause}"] for cause in DEATHS)

    def workers(self) -> Iterator[Worker]:
        for generation in self.generations.values():
            yield from generation.workers.values()

    def _find(self, worker: WorkerId) -> Worker | None:
        generation = self.generations.get(worker.generation)
        return generation.workers.get(worker.serial) if generation else None

    def _respawn(self, cause: str) -> None:
        """A worker is replaced because of one of `sockd.metrics.CAUSES`."""
        self.happened[f"respawns.{cause}"] += 1

    def _do(self, decision: Decision) -> None:
        self._out.append(decision)

    def _say(
        self, priority: int, text: str, about: Generation | Worker | None = None, detail: str = ""
    ) -> None:
        worker = about.id if isinstance(about, Worker) else None
        number = about.number if isinstance(about, Generation) else None
        self._do(Note(priority, text, worker.generation if worker else number, worker, detail))


def ended(status: int) -> str:
    """How a process ended, from a wait(2) status: `exited with status 3`, `killed by SIGKILL`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", core dumped" if os.WCOREDUMP(status) else "")
