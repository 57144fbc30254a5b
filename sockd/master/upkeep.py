"""The rules of what wears out: workers that are replaced after so many requests, so much memory or
so much time, and a service that ends when nobody has needed it for long. Events in, decisions out,
as `fleet` has it.
"""

from __future__ import annotations

from sockd.journal import NOTICE
from sockd.master.boots import GenerationRules
from sockd.master.events import Figures, Measure, Measured
from sockd.master.states import Generation, S, W, Worker

COUNTING = 1.0  # seconds between two looks at what the workers have done
WEIGHING = 5.0  # and at their memory, which costs the kernel a walk through all of it
MOST_IDLE_LOOKS = 10  # within the time after which an idle service ends
SHORTEST_IDLE_LOOK = 0.05
GOLDEN = 0.6180339887498949


class UpkeepRules(GenerationRules):
    """What becomes of workers that have served for long."""

    _measure_at: float | None = None
    _weigh_at = 0.0
    _busy_at = 0.0
    _requests = 0

    def _end_idle(self, now: float) -> None:
        """End the service: the rules about people's wishes know how."""
        raise NotImplementedError

    def _measured(self, event: Measured, now: float) -> None:
        self._note_use(event, now)
        weights = [figures.memory for figures in event.figures.values() if figures.memory]
        self._heaviest = max(weights, default=self._heaviest)
        for id, figures in event.figures.items():
            worker = self._find(id)
            if worker and worker.state is W.READY and not worker.worn:
                self._wear(worker, figures)

    def _note_use(self, event: Measured, now: float) -> None:
        live = self.live
        if live is None or not live.plan.upkeep.idle_exit:
            return
        # A worker that was replaced takes its count with it; that is no reason to end.
        requests = sum(figures.requests for figures in event.figures.values())
        quiet = not event.connections and requests == self._requests
        self._requests = requests
        settled = live.wanted and not (
            self.candidate or self.handover or self._queued or self._resizing or self.proving
        )
        if not quiet or not settled or self._busy_at < live.live_at:
            self._busy_at = now
        elif now - self._busy_at >= live.plan.upkeep.idle_exit:
            idle = f"no connection for {live.plan.upkeep.idle_exit:g} s: ending until the next one"
            self._say(NOTICE, idle)
            self._end_idle(now)

    def _wear(self, worker: Worker, figures: Figures) -> None:
        """See whether it is to be replaced."""
        upkeep = self.generations[worker.id.generation].plan.upkeep
        part = share(worker, upkeep.jitter)
        if 0 < upkeep.max_requests * part <= figures.requests:
            worker.worn = f"{figures.requests} requests (recycle.max_requests)"
            worker.end = "max_requests"
        elif figures.memory is not None and 0 < upkeep.max_memory * part <= figures.memory:
            worker.worn = f"{figures.memory >> 20} MiB of its own (recycle.max_memory)"
            worker.end = "max_memory"

    def _due_to_age(self, worker: Worker) -> float | None:
        upkeep = self.generations[worker.id.generation].plan.upkeep
        if not upkeep.max_age or worker.worn or worker.ready_at is None:
            return None
        return worker.ready_at + upkeep.max_age * share(worker, upkeep.jitter)

    def _settle_upkeep(self, now: float) -> None:
        generation = self.live
        if generation is None:
            self._measure_at = None
            return
        upkeep = generation.plan.upkeep
        period = COUNTING if upkeep.max_requests or upkeep.max_memory else None
        if upkeep.idle_exit:
            look = max(SHORTEST_IDLE_LOOK, upkeep.idle_exit / MOST_IDLE_LOOKS)
            period = min(period or look, look)
        if period is None:
            self._measure_at = None
        elif self._measure_at is None or self._measure_at > now + period:
            self._measure_at = now + period
        elif self._measure_at <= now:
            weigh = bool(upkeep.max_memory) and self._weigh_at <= now
            self._do(Measure(weigh))
            self._measure_at = now + period
            self._weigh_at = now + WEIGHING if weigh else self._weigh_at
        for worker in generation.in_state(W.READY):
            due = self._due_to_age(worker)
            if due is not None and due <= now:
                worker.worn = f"{upkeep.max_age:g} s (recycle.max_age)"
                worker.end = "max_age"
        self._recycle(generation)

    def _upkeep_deadlines(self) -> list[float | None]:
        ready = self.live.in_state(W.READY) if self.live else []
        return [self._measure_at, *(self._due_to_age(worker) for worker in ready)]

    def _recycle(self, generation: Generation) -> None:
        """One at a time: the next when the one before has ended."""
        if generation.recycled and self._find(generation.recycled) is None:
            generation.recycled = None
        ready = generation.in_state(W.READY)
        worn = [worker for worker in ready if worker.worn]
        busy = self.candidate or self.handover or generation.recycled
        if busy or not worn or generation.server is not S.RUNNING:
            return
        if len(ready) < generation.wanted or not self._free_slots:
            return
        oldest = min(worn, key=lambda worker: worker.ready_at or 0.0)
        generation.recycled = oldest.id
        self._say(NOTICE, f"worker {oldest.id}: to be replaced after {oldest.worn}", oldest)


def share(worker: Worker, jitter: float) -> float:
    """Which part of a limit is this worker's: 1 - jitter to 1, so that those that began together
    do not end together. Multiples of the golden ratio spread evenly, whatever their number."""
    return 1.0 - jitter * (worker.id.serial * GOLDEN % 1.0)
