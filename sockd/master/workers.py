"""The rules of a worker's life: events in, decisions out, as `fleet` has it."""

from __future__ import annotations

import os

from sockd.journal import ERR, INFO, NOTICE, WARNING
from sockd.master.capacity import affordable
from sockd.master.events import (
    Drain,
    Draining,
    Exited,
    KillServer,
    KillWorker,
    LifelineClosed,
    Ready,
    Release,
    Serve,
    Spawn,
    Spawned,
    SpawnFailed,
    StopWorker,
    Words,
    WorkerId,
)
from sockd.master.roster import (
    ABANDON,
    DUMP,
    GRACE,
    LATE,
    LIVED,
    MOST_WORKERS,
    SHORT,
    Roster,
    ended,
)
from sockd.master.states import G, Generation, S, W, Worker


class WorkerRules(Roster):
    """What becomes of each worker."""

    def _fail(self, generation: Generation, message: str, detail: str, now: float) -> None:
        """Take a generation away that never served: the rules of generations do."""
        raise NotImplementedError

    def _strike_server(self, generation: Generation, now: float) -> None:
        """End a fork server that is of no use; what follows is as if it had died by itself."""
        generation.server_deadline = now + ABANDON
        self._do(KillServer(generation.number))

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
            worker.deadline = self._boot_deadline(generation, worker.born)
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
        generation.boots.succeeded()
        worker.deadline = None
        if generation.plan.room and not generation.weighed:
            self._make_room(generation, event)
        took = f"worker {worker.id}: ready after {now - worker.born:.3f} s"
        self._say(INFO, took, worker)
        if generation.state is G.LIVE:
            self._do(Serve(worker.id))

    def _make_room(self, generation: Generation, event: Ready) -> None:
        """Want as many workers as fit, if they will be like the first, or like the last ones."""
        generation.weighed = True
        private = max(event.private, self._heaviest)
        fit = affordable(generation.plan.room, event.shared, private) if private else MOST_WORKERS
        if fit < generation.wanted:
            generation.wanted = fit
            text = (
                f'workers = "auto": {fit}, as there is room for {generation.plan.room >> 20} MiB: '
                f"{private >> 20} MiB for each, {event.shared >> 20} MiB for all"
            )
            self._say(NOTICE, text, generation)

    def _draining(self, event: Draining, now: float) -> None:
        for handover in (self.handover, self.leaving):
            if handover:
                handover.waiting.discard(event.worker)
        worker = self._find(event.worker)
        if worker and worker.state is W.READY:  # somebody else told it to
            drain = self.generations[worker.id.generation].plan.drain
            worker.change("drained")
            worker.deadline = now + drain + GRACE
            worker.cause = LATE.format(drain)
            if worker.ready_at is None or now - worker.ready_at < LIVED:
                # An application may do this to its own workers, again and again.
                self.generations[worker.id.generation].hold.failed(worker.born, now)
            self._respawn("signal")

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

    def _worker_exited(self, worker: Worker, event: Exited, now: float) -> None:
        was = worker.state
        worker.change("exited")
        how = ended(event.status)
        if event.why and was is not W.KILLED:
            how = f"{how}, {event.why}"
        self._worker_ended(worker, was, how, now, worker.end or _cause(event))

    def _worker_ended(
        self, worker: Worker, was: W, how: str, now: float, cause: str = "crash"
    ) -> None:
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
        self._respawn(cause)
        self._last_death = Words(worker.id, f"worker {worker.id} {how}", detail)
        if worker.ready_at is not None and now - worker.ready_at >= LIVED:
            generation.hold.succeeded()
        else:
            generation.hold.failed(worker.born, now)
        if worker.ready_at is None:
            generation.boots.failed(worker.born, now)

    def _end_worker(
        self, worker: Worker, now: float, close_idle: bool = False, hand_over: bool = True
    ) -> None:
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
            self._do(Drain(worker.id, drain, close_idle, hand_over))
            patience = drain + GRACE
            worker.cause = LATE.format(drain)
        if worker.state is not W.DRAINING:
            worker.change("drained")
        elif worker.deadline is not None and not self.quick:
            patience = worker.deadline - now  # it drains since before
        worker.deadline = now + patience

    def _kill(self, worker: Worker, cause: str, now: float) -> None:
        if worker.state is W.SPAWNING:
            self._end_worker(worker, now)
        elif worker.state is not W.KILLED:
            assert worker.pid is not None
            worker.change("killed")
            worker.cause = cause
            worker.deadline = now + ABANDON
            self._do(KillWorker(worker.id, worker.pid))

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
            if worker.state is W.BOOTING and not worker.cause:
                worker.end = "boot_timeout"
            self._kill(worker, worker.cause or "did not become ready in time", now)

    def _spawn_needed(self, generation: Generation) -> bool:
        if generation.state not in (G.WARMING, G.LIVE) or generation.server is not S.RUNNING:
            return False
        if generation.in_state(W.SPAWNING) or not self._free_slots:
            return False
        if generation.plan.room and not generation.weighed and generation.in_state(W.BOOTING):
            return False  # how many there will be depends on that one
        return len(generation.in_state(W.BOOTING, W.READY)) < self._target(generation)

    def _target(self, generation: Generation) -> int:
        """How many there are to be: what is wanted, and the one that comes before another goes."""
        recycled = generation.recycled and self._find(generation.recycled)
        return generation.wanted + bool(recycled and recycled.state is W.READY)

    def _spawn(self, generation: Generation, now: float) -> None:
        generation.serial += 1
        id = WorkerId(generation.number, generation.serial)
        deadline = self._boot_deadline(generation, now)
        worker = Worker(id, self._free_slots.pop(), now, deadline=deadline)
        generation.workers[id.serial] = worker
        self._do(Spawn(id, worker.slot))

    def _boot_deadline(self, generation: Generation, born: float) -> float:
        deadline = born + generation.plan.boot
        if generation.state is G.WARMING:  # which fails as a whole, and says where it was stuck
            deadline = max(deadline, generation.born + generation.plan.boot + DUMP + GRACE)
        return deadline

    def _shrink(self, generation: Generation, now: float) -> None:
        ready = generation.in_state(W.READY)
        # The one that was replaced goes first, then the youngest.
        ready.sort(key=lambda worker: worker.id == generation.recycled)
        for worker in ready[generation.wanted :]:
            if worker.id == generation.recycled:
                self._respawn(worker.end)
            self._end_worker(worker, now)


def _cause(event: Exited) -> str:
    """Which of `sockd.metrics.CAUSES` an unexpected end is."""
    if event.why:
        return "oom"
    return "signal" if os.WIFSIGNALED(event.status) else "crash"
