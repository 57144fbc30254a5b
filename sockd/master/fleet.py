"""What the master decides: events in, decisions out, `now` passed in.

Nothing here reads a clock, a process or a socket. `states` has the states and every change between
them in three tables; these are the rules that say when: of a worker's life in `workers`, of a
generation's in `boots`; here what people ask for, the passing of time, and what follows from the
state whatever the event was. Times are seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sockd.errors import INTERNAL
from sockd.journal import ERR, NOTICE, WARNING
from sockd.master.events import (
    Announce,
    Decision,
    Draining,
    Event,
    Exit,
    Exited,
    Forget,
    Launched,
    LifelineClosed,
    Loaded,
    LoadFailed,
    Measured,
    Proved,
    Ready,
    Reload,
    Reply,
    Resize,
    ServerClosed,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    Tick,
    Unshareable,
    Upgrade,
    Withdraw,
    Words,
)
from sockd.master.renewal import RenewalRules
from sockd.master.roster import MOST_FAILURES, MOST_WORKERS, Handover, ended
from sockd.master.states import LONGEST_HOLD, G, S, W

LEAVE = 0.3  # seconds for workers to give idle connections away before the master leaves them
JUMP = 5.0  # a deadline found this late says that time was lost: suspend, SIGSTOP


class Fleet(RenewalRules):
    """Every generation and worker, and what to do next about them."""

    _withdrawing = False  # all workers are to drain, once no generation boots

    def __init__(
        self, slots: int, longest_hold: float = LONGEST_HOLD, *, gives_up: bool = False
    ) -> None:
        super().__init__(slots, longest_hold, gives_up=gives_up)
        # One event kind, one rule.
        self._rules: dict[type, Callable[..., None]] = {
            Start: self._start,
            Launched: self._launched,
            Loaded: self._loaded,
            Unshareable: self._unshareable,
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
            Upgrade: self._upgrade,
            Proved: self._proved,
            Stop: self._stop,
            Resize: self._resize,
            Withdraw: self._withdraw,
            Measured: self._measured,
            Tick: self._tick,
        }

    @property
    def state(self) -> str:
        """booting, serving, reloading, upgrading or stopping: what `sockd status` says."""
        if self.stopping or self._failure:
            return "stopping"
        if self.live is None:
            return "booting"
        if self.proving:
            return "upgrading"
        candidate = self.candidate or (self.handover.generation if self.handover else None)
        return "reloading" if candidate is not None and candidate.asked else "serving"

    @property
    def waiting(self) -> bool:
        """Earlier boots failed, and the first one of this master is not due yet."""
        return self._start_at is not None

    def handle(self, event: Event, now: float) -> list[Decision]:
        """Decisions in the order in which they are to be carried out."""
        if not self.exited:
            self._rules[type(event)](event, now)
            self._settle(now)
        decisions, self._out = self._out, []
        return decisions

    def deadline(self) -> float | None:
        """When the next Tick is due, if no event comes before."""
        due: list[float | None] = [self._start_at, *self._upkeep_deadlines()]
        due += [one.until for one in (self.handover, self.leaving) if one]
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
        else:
            self._queued = (self._queued or []) + tokens
            self._withdrawing = False

    def _settle_failures(self, now: float) -> None:
        """Without a service manager, somebody has to be told."""
        live = self.live
        if live is None or not self.gives_up or live.in_state(W.READY):
            return
        failures = max(live.boots.failures, self._boots.failures)
        if failures >= MOST_FAILURES:
            message = f"no worker boots, after {failures} attempts: {self._last_death.message}"
            self._gave_up = Exit(INTERNAL, message, self._last_death.detail)
            self._say(ERR, "giving up", live)
            self._stop(Stop(quick=True), now)

    def _end_idle(self, now: float) -> None:
        self._stop(Stop(idle=True), now)

    def _stop(self, event: Stop, now: float) -> None:
        more = (event.quick and not self.quick) or (self.leaving and not event.restart)
        if self.stopping and not more:
            return
        first = not self.stopping
        self.stopping, self.quick = True, event.quick
        self._start_at = None
        if first:
            how = " at once" if event.quick else " for the next start" if event.restart else ""
            self._say(NOTICE, "stopping" + how)
            self._do(Announce("stopping"))
            waiting = self._abandon_upgrade() + (self._queued or [])
            for one in (self.candidate, self.handover.generation if self.handover else None):
                waiting += one.tokens if one else []
            waiting += [token for token, _ in self._resizing]
            self._resizing.clear()
            for token in waiting:
                self._do(Reply(token, False, None, "the service is stopping", ""))
            if event.restart and not event.quick:
                ready = {worker.id for worker in self.workers() if worker.state is W.READY}
                self.leaving = Handover(self.live, ready, now + LEAVE)
            self._queued = self.handover = self.candidate = self.live = None
        elif not event.restart:
            self.leaving = None
        for generation in list(self.generations.values()):
            serving = generation.state is G.LIVE
            if generation.state is not G.RETIRING:
                generation.change("retired")
                generation.deadline = None
            for worker in list(generation.workers.values()):
                if self.quick or serving or worker.state is W.DRAINING:
                    close = not (event.idle or event.restart)
                    self._end_worker(worker, now, close_idle=close, hand_over=event.restart)
                else:
                    self._kill(worker, "the service is stopping", now)
            if serving:
                self._close_server(generation, now)
            else:
                self._kill_server(generation, now)

    def _resize(self, event: Resize, now: float) -> None:
        live = self.live
        if live is None:
            why = "the service is stopping" if self.stopping else "no generation serves yet"
            if event.token is not None:
                self._do(Reply(event.token, False, None, why, ""))
            return
        self._withdrawing = False
        if live.wanted:
            live.wanted = min(MOST_WORKERS, max(1, live.wanted + event.by))
        elif event.by > 0:
            live.wanted = live.withdrawn
        self._say(
            NOTICE, f"{live.wanted} {'worker' if live.wanted == 1 else 'workers'} wanted", live
        )
        if event.token is not None:
            self._resizing.append((event.token, live.hold.failures))

    def _withdraw(self, event: Withdraw, now: float) -> None:
        self._withdrawing = self.live is not None and not self.stopping

    def _settle_withdrawal(self) -> None:
        """Of the generation that serves when the one that boots has come up or not."""
        live = self.live
        if not self._withdrawing or self.candidate or self.handover or live is None:
            return
        self._withdrawing = False
        if live.wanted:
            text = "draining all workers: a reload, or one worker more, brings them back"
            self._say(NOTICE, text, live)
            live.withdrawn, live.wanted = live.wanted, 0

    def _settle_resize(self) -> None:
        live = self.live
        if live is None:
            return
        for one in list(self._resizing):
            token, failures = one
            if len(live.in_state(W.READY)) == live.wanted:
                self._do(Reply(token, True, live.number, "", ""))
            elif live.hold.failures > failures:
                self._do(Reply(token, False, live.number, self._last_death.message, ""))
            else:
                continue
            self._resizing.remove(one)

    def _exited(self, event: Exited, now: float) -> None:
        for generation in self.generations.values():
            if generation.server_pid == event.pid and generation.server is not S.GONE:
                how = ended(event.status) + (f", {event.why}" if event.why else "")
                self._server_exited(generation, how, now)
                return
        for worker in self.workers():
            if worker.pid == event.pid:
                self._worker_exited(worker, event, now)
                return
        self._strays[event.pid] = event

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

    # What follows from the state, whatever the event was.

    def _settle(self, now: float) -> None:
        if self._start_at is not None and self._start_at <= now:
            self._start_at = None
            self._begin([], False, now)
        self._settle_reload(now)
        self._settle_upkeep(now)
        self._settle_failures(now)
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
        self._settle_resize()
        if not any(generation.in_state(W.SPAWNING) for generation in self.generations.values()):
            self._strays.clear()
        if self.leaving:
            self.leaving.waiting &= {worker.id for worker in self.workers()}
            if self.leaving.until <= now or not self.leaving.waiting:
                self.exited = True
                count = len(list(self.workers()))
                self._say(NOTICE, f"stopped; {count} workers finish what they have in hand")
                self._do(Exit(0, "", "", leaves=True))
        elif not self.generations and (self.stopping or self._failure):
            self.exited = True
            for token in self._end_upgrade() + (self._queued or []):
                self._do(Reply(token, False, None, "the service failed to start", ""))
            if self._gave_up:
                self._do(self._gave_up)
            elif self.stopping:
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
        self._settle_withdrawal()
        self._settle_upgrade()
        busy = self.stopping or self.candidate or self.handover or self.proving
        idle = not busy and self.live is not None
        if idle and self._queued is not None:
            tokens, self._queued = self._queued, None
            self._begin(tokens, True, now)
        elif idle and self._relaunch_needed() and self._relaunch.until <= now:
            self._begin([], False, now)
