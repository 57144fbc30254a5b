"""What the master decides: events in, decisions out, `now` passed in.

Nothing here reads a clock, a process or a socket. `states` has the states and every change between
them in three tables; these are the rules that say when. Times are seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sockd.journal import ERR, INFO, NOTICE, WARNING
from sockd.master.events import (
    Announce,
    CloseServer,
    CollectDump,
    Decision,
    Drain,
    Draining,
    DumpServer,
    Event,
    Exit,
    Exited,
    Fewer,
    Forget,
    KillServer,
    KillWorker,
    Launch,
    Launched,
    LifelineClosed,
    Loaded,
    LoadFailed,
    More,
    Note,
    Ready,
    Release,
    Reload,
    Reply,
    Serve,
    ServerClosed,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    StopWorker,
    Tick,
    Words,
    WorkerId,
)
from sockd.master.states import LONGEST_HOLD, G, Generation, Hold, S, W, Worker

GRACE = 1.0  # a process ends by itself at its deadline; so much later it is killed
SHORT = 5.0  # for what should take milliseconds: a fork server to end, a lost worker to exit
ABANDON = 10.0  # a killed process that is not gone by then hangs in the kernel
DUMP = 0.5  # for a stuck fork server to write its stack
HANDOVER = 1.0  # for old workers to say that they have stopped accepting
JUMP = 5.0  # a deadline found this late says that time was lost: suspend, SIGSTOP
LIVED = 5.0  # a worker that was ready for so long did not fail at boot
MOST_WORKERS = 512


LATE = "still busy after the drain time of {:g} s"


@dataclass
class Handover:
    """A reload that is done when the old workers have stopped accepting."""

    generation: Generation
    waiting: set[WorkerId]
    until: float


class Fleet:
    """Every generation and worker, and what to do next about them."""

    def __init__(self, slots: int, longest_hold: float = LONGEST_HOLD) -> None:
        """`slots` is how many workers there can be at once; `longest_hold` bounds the back-off."""
        self.longest_hold = longest_hold
        self.generations: dict[int, Generation] = {}
        self.live: Generation | None = None
        self.served: int | None = None  # the number of the last one that was live
        self.candidate: Generation | None = None
        self.handover: Handover | None = None
        self.stopping = False
        self.quick = False
        self.exited = False
        self.reloads_ok = 0
        self.reloads_failed = 0
        self.last_error: str | None = None
        self.respawns = 0
        self._failure: Exit | None = None
        self._queued: list[object] | None = None  # who waits for the reload after this one
        self._start_at: float | None = None
        self._relaunch = Hold(longest_hold)
        self._strays: dict[int, int] = {}
        self._free_slots = list(range(slots - 1, -1, -1))
        self._last_number = 0
        self._out: list[Decision] = []
        # One event kind, one rule.
        self._rules: dict[type, Callable[..., None]] = {
            Start: self._start,
            Launched: self._launched,
            Loaded: self._loaded,
            LoadFailed: self._load_failed,
            ServerClosed: self._server_closed,
            Spawned: self._spawned,
            SpawnFailed: self._spawn_failed,
            Ready: self._ready,
            Draining: self._draining,
            Words: self._words,
            LifelineClosed: self._lifeline_closed,
            Exited: self._exited,
            Reload: self._reload,
            Stop: self._stop,
            More: self._more,
            Fewer: self._fewer,
            Tick: self._tick,
        }

    @property
    def state(self) -> str:
        """booting, serving, reloading or stopping: what `sockd status` says."""
        if self.stopping or self._failure:
            return "stopping"
        if self.live is None:
            return "booting"
        candidate = self.candidate or (self.handover.generation if self.handover else None)
        return "reloading" if candidate is not None and candidate.asked else "serving"

    @property
    def waiting(self) -> bool:
        """Earlier boots failed, and the first one of this master is not due yet."""
        return self._start_at is not None

    def workers(self) -> Iterator[Worker]:
        for generation in self.generations.values():
            yield from generation.workers.values()

    def handle(self, event: Event, now: float) -> list[Decision]:
        """Decisions in the order in which they are to be carried out."""
        if not self.exited:
            self._rules[type(event)](event, now)
            self._settle(now)
        decisions, self._out = self._out, []
        return decisions

    def deadline(self) -> float | None:
        """When the next Tick is due, if no event comes before."""
        due: list[float | None] = [self._start_at]
        if self.handover:
            due.append(self.handover.until)
        if self._relaunch_needed():
            due.append(self._relaunch.until)
        for generation in self.generations.values():
            due += [generation.deadline, generation.server_deadline]
            due += [worker.deadline for worker in generation.workers.values()]
            if self._spawn_needed(generation):
                due.append(generation.hold.until)
        return min((time for time in due if time is not None), default=None)

    # Start, reload, stop: what a person asks for.

    def _start(self, event: Start, now: float) -> None:
        if event.hold:
            self._say(NOTICE, f"the application failed to boot before: waiting {event.hold:.0f} s")
            self._start_at = now + event.hold
        else:
            self._begin([], False, now)

    def _reload(self, event: Reload, now: float) -> None:
        tokens = [] if event.token is None else [event.token]
        if self.stopping or self._failure:
            for token in tokens:
                self._do(Reply(token, False, None, "the service is stopping", ""))
        elif self._queued is not None:
            self._queued += tokens
        else:
            self._queued = tokens

    def _begin(self, tokens: list[object], asked: bool, now: float) -> None:
        self._last_number += 1
        generation = Generation(self._last_number, now, tokens, asked, Hold(self.longest_hold))
        self.generations[generation.number] = self.candidate = generation
        if asked:
            self._do(Announce("reloading"))
        self._do(Launch(generation.number))

    def _stop(self, event: Stop, now: float) -> None:
        if self.stopping and not (event.quick and not self.quick):
            return
        first = not self.stopping
        self.stopping, self.quick = True, event.quick
        self._start_at = None
        if first:
            self._say(NOTICE, "stopping" + (" at once" if event.quick else ""))
            self._do(Announce("stopping"))
            waiting = self._queued or []
            for one in (self.candidate, self.handover.generation if self.handover else None):
                waiting += one.tokens if one else []
            for token in waiting:
                self._do(Reply(token, False, None, "the service is stopping", ""))
            self._queued = self.handover = self.candidate = self.live = None
        for generation in list(self.generations.values()):
            serving = generation.state is G.LIVE
            if generation.state is not G.RETIRING:
                generation.change("retired")
                generation.deadline = None
            for worker in list(generation.workers.values()):
                if self.quick or serving or worker.state is W.DRAINING:
                    self._end_worker(worker, now, close_idle=True)
                else:
                    self._kill(worker, "the service is stopping", now)
            if serving:
                self._close_server(generation, now)
            else:
                self._kill_server(generation, now)

    def _more(self, event: More, now: float) -> None:
        if self.live:
            self.live.wanted = min(MOST_WORKERS, self.live.wanted + 1)
            self._say(NOTICE, f"{self.live.wanted} workers wanted", self.live)

    def _fewer(self, event: Fewer, now: float) -> None:
        if self.live and self.live.wanted > 1:
            self.live.wanted -= 1
            self._say(NOTICE, f"{self.live.wanted} workers wanted", self.live)

    # A generation boots.

    def _launched(self, event: Launched, now: float) -> None:
        generation = self.generations[event.generation]
        generation.server_pid = event.pid
        generation.plan = event.plan
        generation.wanted = event.plan.workers
        generation.deadline = generation.born + event.plan.boot
        self._say(INFO, f"generation {generation.number}: loading", generation)

    def _loaded(self, event: Loaded, now: float) -> None:
        generation = self.generations.get(event.generation)
        if generation and generation.state is G.BOOTING:
            generation.change("loaded")
            self._say(
                INFO,
                f"generation {generation.number}: loaded in {now - generation.born:.2f} s",
                generation,
            )

    def _load_failed(self, event: LoadFailed, now: float) -> None:
        generation = self.generations.get(event.generation)
        if generation and generation.state in (G.BOOTING, G.WARMING):
            self._fail(generation, event.message, event.detail, now)

    def _fail(self, generation: Generation, message: str, detail: str, now: float) -> None:
        """Take a generation away that never served. What serves is not touched."""
        generation.change("retired")
        generation.deadline = None
        self.candidate = None
        for worker in list(generation.workers.values()):
            self._kill(worker, "its generation failed to boot", now)
        self._kill_server(generation, now)
        if self.live is None:
            self._failure = Exit(1, message, detail)
            return
        self.last_error = message
        whole = f"generation {generation.number} failed to boot: {message}"
        self._say(ERR, f"{whole}; generation {self.live.number} serves on", generation, detail)
        if self.live.server is S.GONE:
            self._relaunch.failed(generation.born, now)
        if generation.asked:
            self.reloads_failed += 1
            self._do(Announce("ready"))
        for token in generation.tokens:
            self._do(Reply(token, False, self.live.number, message, detail))

    def _promote(self, generation: Generation, now: float) -> None:
        generation.change("promoted")
        generation.deadline = None
        generation.live_at = now
        old, self.live, self.candidate = self.live, generation, None
        self.served = generation.number
        for worker in generation.in_state(W.READY):
            self._do(Serve(worker.id))
        took = f"generation {generation.number}: ready after {now - generation.born:.2f} s"
        self._say(NOTICE, took, generation)
        if old is None:
            self._do(Announce("ready"))
            return
        waiting = {worker.id for worker in old.in_state(W.READY)}
        self.handover = Handover(generation, waiting, now + HANDOVER)
        old.change("retired")
        for worker in list(old.workers.values()):
            self._end_worker(worker, now, close_idle=False)
        self._close_server(old, now)

    def _conclude(self, handover: Handover) -> None:
        self.handover = None
        self.last_error = None
        generation = handover.generation
        if generation.asked:
            self.reloads_ok += 1
            self._say(NOTICE, f"reload ok: generation {generation.number} serves", generation)
            self._do(Announce("ready"))
        for token in generation.tokens:
            self._do(Reply(token, True, generation.number, "", ""))

    # A fork server ends.

    def _server_closed(self, event: ServerClosed, now: float) -> None:
        """It closed its end of the control socket: it is about to end, or of no use."""
        generation = self.generations.get(event.generation)
        if generation and generation.server is S.RUNNING:
            generation.server_deadline = now + GRACE

    def _server_exited(self, generation: Generation, cause: str, now: float) -> None:
        unexpected = generation.server is S.RUNNING
        generation.change_server("exited")
        generation.server_deadline = None
        if not unexpected:
            return
        if generation.state in (G.BOOTING, G.WARMING):
            during = "importing the application" if generation.state is G.BOOTING else "forking"
            self._fail(generation, f"the fork server {cause} while {during}", "", now)
        elif generation.state is G.LIVE:
            self._say(WARNING, f"fork server died: {cause}; loading anew", generation)
            if now - generation.live_at < LIVED:
                self._relaunch.failed(generation.live_at, now)
            else:
                self._relaunch.succeeded()

    def _close_server(self, generation: Generation, now: float) -> None:
        if generation.server is S.RUNNING:
            generation.change_server("closed")
            generation.server_deadline = now + SHORT
            self._do(CloseServer(generation.number))

    def _kill_server(self, generation: Generation, now: float) -> None:
        if generation.server_pid is None and generation.server is S.RUNNING:
            generation.change_server("exited")  # it never started
        elif generation.server in (S.RUNNING, S.CLOSING):
            generation.change_server("killed")
            generation.server_deadline = now + ABANDON
            self._do(KillServer(generation.number))

    # A worker's life.

    def _find(self, worker: WorkerId) -> Worker | None:
        generation = self.generations.get(worker.generation)
        return generation.workers.get(worker.serial) if generation else None

    def _spawned(self, event: Spawned, now: float) -> None:
        worker = self._find(event.worker)
        if worker is None or worker.state is not W.SPAWNING:
            return
        worker.pid = event.pid
        worker.change("spawned")
        generation = self.generations[worker.id.generation]
        if generation.state is G.RETIRING:
            worker.change("drained")  # it finds the order on its lifeline
        else:
            worker.deadline = worker.born + generation.plan.boot
        self._say(INFO, f"worker {worker.id}: spawned, pid {event.pid}", worker)
        if event.pid in self._strays:
            self._worker_exited(worker, self._strays.pop(event.pid), now)

    def _spawn_failed(self, event: SpawnFailed, now: float) -> None:
        worker = self._find(event.worker)
        if worker and worker.state is W.SPAWNING:
            worker.change("lost")
            self._worker_ended(worker, W.SPAWNING, f"fork failed: {event.error}", now)

    def _ready(self, event: Ready, now: float) -> None:
        worker = self._find(event.worker)
        if worker is None or worker.state not in (W.SPAWNING, W.BOOTING):
            return
        worker.pid = event.pid
        generation = self.generations[worker.id.generation]
        if generation.state is G.RETIRING:
            if worker.state is W.SPAWNING:
                worker.change("spawned")
                worker.change("drained")
            return
        worker.change("ready")
        worker.ready_at = now
        worker.deadline = None
        took = f"worker {worker.id}: ready after {now - worker.born:.3f} s"
        self._say(INFO, took, worker)
        if generation.state is G.LIVE:
            self._do(Serve(worker.id))

    def _draining(self, event: Draining, now: float) -> None:
        if self.handover:
            self.handover.waiting.discard(event.worker)
        worker = self._find(event.worker)
        if worker and worker.state is W.READY:  # somebody else told it to
            drain = self.generations[worker.id.generation].plan.drain
            worker.change("drained")
            worker.deadline = now + drain + GRACE
            worker.cause = LATE.format(drain)
            if worker.ready_at is None or now - worker.ready_at < LIVED:
                # An application may do this to its own workers, again and again.
                self.generations[worker.id.generation].hold.failed(worker.born, now)

    def _words(self, event: Words, now: float) -> None:
        worker = self._find(event.worker)
        if worker:
            worker.words = event

    def _lifeline_closed(self, event: LifelineClosed, now: float) -> None:
        worker = self._find(event.worker)
        if worker is None:
            return
        if worker.state is W.SPAWNING:
            worker.change("lost")
            self._worker_ended(worker, W.SPAWNING, "died before its pid was known", now)
        elif worker.state in (W.BOOTING, W.READY):
            worker.deadline = now + SHORT
            worker.cause = "closed its lifeline"

    def _exited(self, event: Exited, now: float) -> None:
        for generation in self.generations.values():
            if generation.server_pid == event.pid and generation.server is not S.GONE:
                self._server_exited(generation, ended(event.status), now)
                return
        for worker in self.workers():
            if worker.pid == event.pid:
                self._worker_exited(worker, event.status, now)
                return
        self._strays[event.pid] = event.status

    def _worker_exited(self, worker: Worker, status: int, now: float) -> None:
        was = worker.state
        worker.change("exited")
        self._worker_ended(worker, was, ended(status), now)

    def _worker_ended(self, worker: Worker, was: W, how: str, now: float) -> None:
        generation = self.generations[worker.id.generation]
        del generation.workers[worker.id.serial]
        self._free_slots.append(worker.slot)
        self._do(Release(worker.id))
        detail = worker.words.detail if worker.words else ""
        if worker.words:
            how = f"{how}: {worker.words.message}"
        if worker.cause and was is W.KILLED:
            how = f"{how} ({worker.cause})"
        if was is W.DRAINING or generation.state is G.RETIRING:
            expected = how == ended(0) or worker.ready_at is None
            self._say(INFO if expected else WARNING, f"worker {worker.id}: ended, {how}", worker)
            return
        self._say(WARNING, f"worker {worker.id}: died, {how}", worker, detail)
        if generation.state is G.WARMING:
            self._fail(generation, f"worker {worker.id} {how} while it booted", detail, now)
            return
        self.respawns += 1
        if worker.ready_at is not None and now - worker.ready_at >= LIVED:
            generation.hold.succeeded()
        else:
            generation.hold.failed(worker.born, now)

    def _end_worker(self, worker: Worker, now: float, close_idle: bool) -> None:
        """Tell it to finish: quickly in a quick stop, or if it never served."""
        drain = self.generations[worker.id.generation].plan.drain
        if worker.state is W.KILLED:
            return
        if worker.state is W.SPAWNING:
            worker.deadline = now + SHORT
            self._do(StopWorker(worker.id))
            return
        if self.quick or worker.state is W.BOOTING:
            self._do(StopWorker(worker.id))
            patience = GRACE
            worker.cause = "did not stop"
        else:
            self._do(Drain(worker.id, drain, close_idle))
            patience = drain + GRACE
            worker.cause = LATE.format(drain)
        if worker.state is not W.DRAINING:
            worker.change("drained")
        elif worker.deadline is not None and not self.quick:
            patience = worker.deadline - now  # it drains since before
        worker.deadline = now + patience

    def _kill(self, worker: Worker, cause: str, now: float) -> None:
        if worker.state is W.SPAWNING:
            self._end_worker(worker, now, close_idle=True)
        elif worker.state is not W.KILLED:
            assert worker.pid is not None
            worker.change("killed")
            worker.cause = cause
            worker.deadline = now + ABANDON
            self._do(KillWorker(worker.id, worker.pid))

    # Time.

    def _tick(self, event: Tick, now: float) -> None:
        due = [time for time in self._killing() if time <= now]
        if due and now - min(due) > JUMP:
            self._say(WARNING, f"{now - min(due):.0f} s were lost; nobody is killed for that")
            self._postpone(now + JUMP, now)
            return
        for generation in list(self.generations.values()):
            for worker in list(generation.workers.values()):
                if worker.deadline is not None and worker.deadline <= now:
                    self._worker_late(worker, now)
            if generation.server_deadline is not None and generation.server_deadline <= now:
                self._server_late(generation, now)
            if generation.deadline is not None and generation.deadline <= now:
                self._boot_late(generation, now)

    def _killing(self) -> Iterator[float]:
        for generation in self.generations.values():
            times = [generation.deadline, generation.server_deadline]
            times += [worker.deadline for worker in generation.workers.values()]
            yield from (time for time in times if time is not None)

    def _postpone(self, until: float, now: float) -> None:
        for generation in self.generations.values():
            if generation.deadline is not None and generation.deadline <= now:
                generation.deadline = until
            if generation.server_deadline is not None and generation.server_deadline <= now:
                generation.server_deadline = until
            for worker in generation.workers.values():
                if worker.deadline is not None and worker.deadline <= now:
                    worker.deadline = until

    def _worker_late(self, worker: Worker, now: float) -> None:
        if worker.state is W.KILLED:
            worker.change("abandoned")
            worker.words = None
            self._say(ERR, f"worker {worker.id}: killed, but hangs in the kernel", worker)
            self._worker_ended(worker, W.KILLED, "is given up", now)
        elif worker.state is W.SPAWNING:
            worker.change("lost")
            self._worker_ended(worker, W.SPAWNING, "was never forked", now)
            generation = self.generations[worker.id.generation]
            if generation.server is S.RUNNING:
                self._strike_server(generation, now)  # it hangs
        else:
            self._kill(worker, worker.cause or "did not become ready in time", now)

    def _server_late(self, generation: Generation, now: float) -> None:
        if generation.server is S.KILLED:
            generation.change_server("abandoned")
            generation.server_deadline = None
            self._say(ERR, "fork server: killed, but hangs in the kernel", generation)
        elif generation.server is S.RUNNING:
            self._strike_server(generation, now)
        else:
            self._kill_server(generation, now)

    def _strike_server(self, generation: Generation, now: float) -> None:
        """End a fork server that is of no use; what follows is as if it had died by itself."""
        generation.server_deadline = now + ABANDON
        self._do(KillServer(generation.number))

    def _boot_late(self, generation: Generation, now: float) -> None:
        if generation.state is G.BOOTING and not generation.dumping:
            generation.dumping = True
            generation.deadline = now + DUMP
            self._do(DumpServer(generation.number))
        elif generation.state is G.BOOTING:
            generation.deadline = None
            message = f"did not boot within {generation.plan.boot:g} s"
            self._do(CollectDump(generation.number, message))
        else:
            ready = len(generation.in_state(W.READY))
            message = f"{ready} of {generation.wanted} workers ready in {generation.plan.boot:g} s"
            self._fail(generation, message, "", now)

    # What follows from the state, whatever the event was.

    def _settle(self, now: float) -> None:
        if self._start_at is not None and self._start_at <= now:
            self._start_at = None
            self._begin([], False, now)
        self._settle_reload(now)
        for generation in list(self.generations.values()):
            if self._spawn_needed(generation) and generation.hold.until <= now:
                self._spawn(generation, now)
            if generation.state is G.LIVE:
                self._shrink(generation, now)
            if generation.state is G.RETIRING and not generation.workers:
                self._close_server(generation, now)
                if generation.server is S.GONE:
                    generation.change("emptied")
                    del self.generations[generation.number]
                    self._do(Forget(generation.number))
        if not any(generation.in_state(W.SPAWNING) for generation in self.generations.values()):
            self._strays.clear()
        if not self.generations and (self.stopping or self._failure):
            self.exited = True
            for token in self._queued or []:
                self._do(Reply(token, False, None, "the service failed to start", ""))
            if self.stopping:
                self._say(NOTICE, "stopped")
                self._do(Exit(0, "", ""))
            elif self._failure:
                self._do(self._failure)

    def _settle_reload(self, now: float) -> None:
        candidate = self.candidate
        if candidate and candidate.state is G.WARMING:
            ready = len(candidate.in_state(W.READY))
            if ready >= (candidate.wanted if self.live else 1):
                self._promote(candidate, now)
        if self.handover:
            self.handover.waiting &= {worker.id for worker in self.workers()}
            if not self.handover.waiting or self.handover.until <= now:
                self._conclude(self.handover)
        idle = not (self.stopping or self.candidate or self.handover) and self.live is not None
        if idle and self._queued is not None:
            tokens, self._queued = self._queued, None
            self._begin(tokens, True, now)
        elif idle and self._relaunch_needed() and self._relaunch.until <= now:
            self._begin([], False, now)

    def _relaunch_needed(self) -> bool:
        """A generation without its fork server serves on, but cannot replace a worker."""
        busy = self.stopping or self.candidate or self.handover
        return not busy and self.live is not None and self.live.server is S.GONE

    def _spawn_needed(self, generation: Generation) -> bool:
        if generation.state not in (G.WARMING, G.LIVE) or generation.server is not S.RUNNING:
            return False
        if generation.in_state(W.SPAWNING) or not self._free_slots:
            return False
        return len(generation.in_state(W.BOOTING, W.READY)) < generation.wanted

    def _spawn(self, generation: Generation, now: float) -> None:
        generation.serial += 1
        id = WorkerId(generation.number, generation.serial)
        worker = Worker(id, self._free_slots.pop(), now, deadline=now + generation.plan.boot)
        generation.workers[id.serial] = worker
        self._do(Spawn(id, worker.slot))

    def _shrink(self, generation: Generation, now: float) -> None:
        ready = generation.in_state(W.READY)
        for worker in ready[generation.wanted :]:
            self._end_worker(worker, now, close_idle=False)

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
