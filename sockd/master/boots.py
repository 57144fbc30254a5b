"""The rules of a generation's life, and of its fork server's: events in, decisions out, as `fleet`
has it.
"""

from __future__ import annotations

from sockd.journal import ERR, INFO, NOTICE, WARNING
from sockd.master.events import (
    Announce,
    CloseServer,
    CollectDump,
    DumpServer,
    DumpWorker,
    Exit,
    KillServer,
    Launch,
    Launched,
    Loaded,
    LoadFailed,
    Measure,
    Relaunch,
    Reply,
    Serve,
    ServerClosed,
    Unshareable,
    Words,
    WorkerId,
)
from sockd.master.roster import ABANDON, DUMP, GRACE, LIVED, SHORT, Handover
from sockd.master.states import G, Generation, Hold, S, W
from sockd.master.workers import WorkerRules

HANDOVER = 1.0  # for old workers to say that they have stopped accepting


class GenerationRules(WorkerRules):
    """What becomes of each generation."""

    def _begin(self, tokens: list[object], asked: bool, now: float) -> None:
        self._last_number += 1
        generation = Generation(self._last_number, now, tokens, asked, Hold(self.longest_hold))
        self.generations[generation.number] = self.candidate = generation
        if asked:
            self._do(Announce("reloading"))
        if self.live and self.live.plan.room:
            self._do(Measure(memory=True))  # the next ones will be as large
        self._do(Launch(generation.number))

    def _launched(self, event: Launched, now: float) -> None:
        generation = self.generations[event.generation]
        generation.server_pid = event.pid
        generation.plan = event.plan
        generation.wanted = event.plan.workers
        generation.deadline = generation.born + event.plan.boot
        if generation.state is G.BOOTING and not generation.left:
            self._say(INFO, f"generation {generation.number}: loading", generation)

    def _loaded(self, event: Loaded, now: float) -> None:
        generation = self.generations.get(event.generation)
        if generation is None or generation.state is not G.BOOTING:
            return
        generation.change("loaded")
        generation.dumping = False
        name = f"generation {generation.number}"
        self._say(INFO, f"{name}: loaded in {now - generation.born:.2f} s", generation)
        if any(event.left):
            threads = bool(event.left.threads or event.left.native)
            words = ["workers do not have such threads"] if threads else []
            words += ["workers share such connections"] if event.left.connections else []
            text = f"{name}: importing the application left {event.left}: {', '.join(words)}"
            self._say(WARNING, text, generation)

    def _unshareable(self, event: Unshareable, now: float) -> None:
        generation = self.generations.get(event.generation)
        if generation is None or generation.state is not G.BOOTING:
            return
        text = (
            f"generation {generation.number}: importing the application left {event.left}, "
            'so each worker imports it for itself (preload = "auto")'
        )
        self._say(WARNING, text, generation)
        generation.left = True
        generation.server_pid = None
        self._do(Relaunch(generation.number))

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
            self._boots.failed(generation.born, now)
            self._last_death = Words(WorkerId(generation.number, 0), whole, detail)
        if generation.asked:
            self.happened["reloads.failed"] += 1
            self._do(Announce("ready"))
        for token in generation.tokens:
            self._do(Reply(token, False, self.live.number, message, detail))

    def _promote(self, generation: Generation, now: float) -> None:
        generation.change("promoted")
        generation.deadline = None
        generation.live_at = now
        self._boots.succeeded()
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
            if worker.state is W.READY:
                self._respawn("reload")
            self._end_worker(worker, now)
        self._close_server(old, now)

    def _conclude(self, handover: Handover) -> None:
        self.handover = None
        self.last_error = None
        generation = handover.generation
        assert generation
        if generation.asked:
            self.happened["reloads.ok"] += 1
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

    def _server_late(self, generation: Generation, now: float) -> None:
        if generation.server is S.KILLED:
            generation.change_server("abandoned")
            generation.server_deadline = None
            self._say(ERR, "fork server: killed, but hangs in the kernel", generation)
        elif generation.server is S.RUNNING:
            self._strike_server(generation, now)
        else:
            self._kill_server(generation, now)

    def _boot_late(self, generation: Generation, now: float) -> None:
        message = f"did not boot within {generation.plan.boot:g} s"
        if generation.state is G.WARMING:
            ready = len(generation.in_state(W.READY))
            message = f"{ready} of {generation.wanted} workers ready in {generation.plan.boot:g} s"
        if generation.dumping:
            generation.deadline = None
            self._do(CollectDump(generation.number, message))
            return
        generation.dumping = True
        generation.deadline = now + DUMP
        booting = generation.in_state(W.BOOTING)
        if generation.state is G.BOOTING:
            self._do(DumpServer(generation.number))
        elif booting:
            assert booting[0].pid is not None
            self._do(DumpWorker(booting[0].id, booting[0].pid))

    def _relaunch_needed(self) -> bool:
        """A generation without its fork server serves on, but cannot replace a worker."""
        busy = self.stopping or self.candidate or self.handover or self.proving
        live = self.live
        return not busy and live is not None and live.wanted > 0 and live.server is S.GONE
