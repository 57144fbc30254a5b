"""The master: one loop over signals, sockets and deadlines that carries out what `fleet` decides.

No threads and no tick: each turn waits until something happens or the next deadline of the fleet,
the notifier or the control socket. Signal handlers do nothing; the interpreter writes each
signal's number into a pipe, and the loop takes it from there.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sockd import journal, linux, memory, stdio
from sockd.board import Board
from sockd.config import Config
from sockd.errors import INTERNAL, AppError, GivenUp, SockdError
from sockd.http.handover import end_waiting
from sockd.master import report, upgrade
from sockd.master.cgroup import OOMWatch
from sockd.master.control import Control, socket_path
from sockd.master.desk import Desk
from sockd.master.events import (
    Announce,
    CloseServer,
    CollectDump,
    Drain,
    DumpServer,
    DumpWorker,
    EndProof,
    Event,
    Exit,
    Exited,
    Figures,
    Forget,
    KillServer,
    KillWorker,
    Launch,
    Launched,
    LifelineClosed,
    LoadFailed,
    Measure,
    Measured,
    Note,
    Prove,
    Ready,
    Relaunch,
    Release,
    Reload,
    Replace,
    Reply,
    Resize,
    Serve,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    StopWorker,
    Tick,
    Upgrade,
    Withdraw,
    WorkerId,
)
from sockd.master.failures import BootFailures
from sockd.master.fleet import Fleet
from sockd.master.generation import ForkServer, Lifeline
from sockd.master.group import Group, Question
from sockd.master.inheritance import State
from sockd.master.leftover import LeftOver, end_group
from sockd.master.orphans import Orphans, end_orphans
from sockd.master.report import Reporter
from sockd.master.service import Service
from sockd.master.states import LONGEST_HOLD, W
from sockd.master.succession import Succession, board_of
from sockd.master.totals import Totals
from sockd.notify import Notifier
from sockd.worker.messages import DUMP_SIGNAL

SLOTS = 2048  # workers of all generations together, those that still drain included
LONGEST_TURN = 3600.0  # seconds: epoll_wait(2) cannot wait for more than 24 days
OVERDUE = 5.0  # seconds after which a deadline that nobody has enforced will not be
MARGIN = 10.0  # seconds asked of the service manager beyond what the settings allow

FOR_GOOD = signal.SIGRTMIN
"""Sent by the unit's ExecStop= before SIGTERM when systemd stops the service and does not restart
it."""

ON_SIGNAL: dict[int, Callable[[], Event]] = {
    FOR_GOOD: Stop,
    signal.SIGTERM: Stop,
    signal.SIGINT: lambda: Stop(quick=True),
    signal.SIGQUIT: lambda: Stop(quick=True),
    signal.SIGHUP: Reload,
    signal.SIGUSR2: Upgrade,
    signal.SIGWINCH: Withdraw,
    signal.SIGTTIN: lambda: Resize(1),
    signal.SIGTTOU: lambda: Resize(-1),
}


def serve(
    load: Callable[[], Config], *, watch: bool = False, longest_hold: float = LONGEST_HOLD
) -> int:
    """Run the service until it is stopped; 0. `load` is called for each generation; `watch` has
    it reload when a file changes; `longest_hold` (seconds) bounds the back-off of workers that die
    at boot.

    SockdError: it could not start; AppError: the application could not, with its traceback as
    the detail. Where stderr is the journal, the error is journalled and its exit code returned.
    """
    stdio.fill()
    master = None
    try:
        master = Master(load, longest_hold, watch, upgrade.inherited())
        return master.run()
    except SockdError as error:
        if not journal.is_journal():
            raise
        # One entry with its traceback, instead of the lines that the command would print.
        journal.log(journal.ERR, f"{error}\n{error.detail}".rstrip())
        return error.exit_code
    finally:
        if master:
            master.close()


def keep_descriptors() -> None:
    """Nothing that this process was started with, but stdio, is passed to those it starts."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        fd = int(entry.name)
        with contextlib.suppress(OSError):  # that of the listing itself
            if fd > 2:
                os.set_inheritable(fd, False)


def has_terminal() -> bool:
    """Whether this process has a controlling one, tty(4)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class Master(Succession):
    def __init__(
        self,
        load: Callable[[], Config],
        longest_hold: float,
        watch: bool,
        inherited: State | None = None,
    ) -> None:
        self.notifier = Notifier()
        self.failures = BootFailures(self.notifier.supervised)
        self.events: deque[Event] = deque()
        self.selector = selectors.DefaultSelector()
        self.service = Service(
            load,
            watch,
            self.selector,
            lambda: self.events.append(Reload()),
            inherited.service if inherited else None,
            inherited.kept if inherited else None,
        )
        self.service.keep_channel(self.notifier)
        keep_descriptors()
        board = inherited and board_of(inherited)
        self.board = board or Board.create(SLOTS)
        self.fleet = Fleet(SLOTS, longest_hold, gives_up=not self.notifier.supervised)
        self.totals = Totals(self.notifier.supervised)
        if inherited and inherited.totals:
            self.totals.inherit(inherited.totals, alone=board is None)
        self.group = Group()
        self.left_over = LeftOver(self.group, time.monotonic(), upgraded=inherited is not None)
        self.reporter = Reporter(self.fleet, self.board, self.totals, self.left_over)
        self.control: Control | None = None
        self.question: Question | None = None
        self.desk = Desk(self.fleet, self.service, self.reporter, self.events.append)
        self.servers: dict[int, ForkServer] = {}
        self.sessions: dict[int, int] = {}  # of all fork servers: which generation's
        self.orphans = Orphans(self.sessions)
        self.look_for_orphans = False
        self.oom = OOMWatch()
        self.lifelines: dict[WorkerId, Lifeline] = {}
        self.boot_error: SockdError | None = None
        self.exit: Exit | None = None
        self.on_signal = dict(ON_SIGNAL)
        if os.isatty(0) or os.isatty(2):
            # A person's, not a supervisor's: HUP says that the terminal was closed.
            self.on_signal[signal.SIGHUP] = Stop
        if has_terminal():
            del self.on_signal[signal.SIGWINCH]  # it says that its window has another size
        self.handled = {*self.on_signal, signal.SIGUSR1, signal.SIGCHLD}
        self.program = upgrade.program()
        self.kept = self.service.channel.named()
        self._carry_out: dict[type, Callable[[Any], None]] = {
            Launch: self._launch,
            Relaunch: self._relaunch,
            DumpServer: lambda d: self.servers[d.generation].dump(),
            DumpWorker: self._dump_worker,
            CollectDump: self._collect_dump,
            CloseServer: self._close_server,
            KillServer: lambda d: self.servers[d.generation].kill(),
            Forget: self._forget,
            Spawn: self._spawn,
            Serve: lambda d: self._tell(d.worker, {"serve": True}),
            Drain: self._drain,
            StopWorker: lambda d: self._tell(d.worker, {"stop": True}),
            KillWorker: self._kill_worker,
            Release: self._release,
            Measure: self._measure,
            Reply: self.desk.reply,
            Prove: self._prove,
            EndProof: self._end_proof,
            Replace: self._replace,
            Announce: self._announce,
            Note: self._note,
            Exit: self._exit,
        }
        self.inherited = inherited
        if inherited:
            self._inherit(inherited)

    def run(self) -> int:
        # All that may be open: a worker holds a descriptor for each connection.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            with contextlib.suppress(OSError):  # a hardened unit forbids it, and sets both
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        linux.set_child_subreaper()
        linux.set_process_name("sockd")
        self._catch_signals()
        if self.inherited:
            self._signals(self.inherited.signals)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.handled)
            self._reap()
            self.look_for_orphans = True
            self.events.append(Reload())
        else:
            hold = self.failures.hold()
            self.notifier.extend(hold + MARGIN)
            self.events.append(Start(hold))
        while self.exit is None:
            self._turn()
        self.totals.save(self.board, report.living(self.fleet), self.fleet.happened)
        self.service.end_watcher()
        if not self.exit.leaves:
            if not self.exit.code:
                self._end_left_over()
            if not self.exit.code and self.group.unit:
                end_group(self.group)
            else:
                end_orphans(self.sessions.keys())
        if self.exit.code:
            self.failures.failed()
            if self.exit.code == INTERNAL:
                raise GivenUp(self.exit.message, detail=self.exit.detail)
            raise self.boot_error or AppError(self.exit.message, detail=self.exit.detail)
        return 0

    def _end_left_over(self) -> None:
        """A stop leaves nothing: neither connections that no worker has, nor what an earlier
        master left, which is waited for like the workers of this one."""
        ended, asked = end_waiting(self.service.channel.take.fileno())
        if ended:
            text = f"{ended} connections closed on their way to another worker, {asked} with 503"
            journal.log(journal.NOTICE, text)
        while (due := self.left_over.turn(time.monotonic())) is not None:
            now = time.monotonic()
            self.notifier.status(report.line(self.fleet, self.board, self.left_over.line()))
            again = min(due, self.notifier.turn(now) or due)
            for key, _ in self.selector.select(max(0.0, again - now)):
                key.data()

    def _turn(self) -> None:
        while (self.events or self.replacing) and self.exit is None:
            if not self.events:
                self._become_the_next()
                continue
            for decision in self.fleet.handle(self.events.popleft(), time.monotonic()):
                self._carry_out[type(decision)](decision)
        if self.exit is not None:
            return
        if self.notifier.supervised:
            self.notifier.status(report.line(self.fleet, self.board, self.left_over.line()))
        now = time.monotonic()
        self.reporter.look_at(self.service.listeners)
        self.totals.turn(now, self.board, report.living(self.fleet), self.fleet.happened)
        deadline = self.fleet.deadline()
        # A restart helps where a deadline is over and nothing came of it: nowhere else.
        well = deadline is None or now - deadline < OVERDUE
        self._look_for_orphans()
        due = [self.notifier.turn(now, well), deadline, self.orphans.turn(now)]
        due += [self.left_over.turn(now), self.question.turn(now) if self.question else None]
        if self.control:
            due.append(self.control.turn(now))
        if self.proof:
            due.append(self.proof.turn(now))
        first = min((at for at in due if at is not None), default=None)
        wait = None if first is None else min(max(0.0, first - time.monotonic()), LONGEST_TURN)
        for key, _ in self.selector.select(wait):
            key.data()
        deadline = self.fleet.deadline()
        if deadline is not None and deadline <= time.monotonic():
            self.events.append(Tick())

    def close(self) -> None:
        """Leave nothing behind: no socket file, no descriptor, no signal handler that needs us."""
        # The interpreter's end restores default actions: a late signal must not look like a death.
        for number in self.on_signal:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        if self.control:
            self.control.close()
        for server in self.servers.values():
            server.close()
        for lifeline in self.lifelines.values():
            lifeline.close()
        self.service.close()
        self.selector.close()

    # Signals and children.

    def _catch_signals(self) -> None:
        self.signal_pipe, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in self.handled:
            signal.signal(number, lambda *_: None)
        self.selector.register(
            self.signal_pipe, selectors.EVENT_READ, lambda: self._signals(self._caught())
        )

    def _caught(self) -> list[int]:
        with contextlib.suppress(BlockingIOError):
            return list(os.read(self.signal_pipe, 65536))
        return []

    def _signals(self, numbers: list[int]) -> None:
        for_good = FOR_GOOD in numbers  # whichever the kernel has delivered first
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGUSR1:
                for worker in self.lifelines:
                    self._tell(worker, {"reopen": True})
            elif number == signal.SIGTERM and for_good:
                continue
            elif number == signal.SIGTERM and self.group.unit and self.service.channel.outlives:
                self._ask_what_follows()
            elif number in self.on_signal:
                self.events.append(self.on_signal[number]())

    def _ask_what_follows(self) -> None:
        if self.question is None and not self.fleet.stopping:
            self.question = Question(
                self.group,
                self.selector,
                lambda another: self.events.append(Stop(restart=another)),
                time.monotonic(),
            )

    def _reap(self) -> None:
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._proof_exited(pid, status):
                continue
            # What it said before it died is told first.
            for server in self.servers.values():
                if server.pid == pid:
                    self._hear_server(server)
            for lifeline in list(self.lifelines.values()):
                if lifeline.pid == pid:
                    self._hear_worker(lifeline)
                    self.totals.child_ended(int((used.ru_utime + used.ru_stime) * 1e6))
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            why = self.oom.explain(time.monotonic()) if killed else ""
            self.events.append(Exited(pid, status, why))

    def _look_for_orphans(self) -> None:
        """After a worker's end, once every child of the master's own is known to be that."""
        workers = [lifeline.pid for lifeline in self.lifelines.values()]
        if self.look_for_orphans and None not in workers:
            self.look_for_orphans = False
            servers = {server.pid for server in self.servers.values()}
            servers |= {self.service.watcher.pid} if self.service.watcher else set()
            servers |= {self.proof.pid} if self.proof else set()
            self.orphans.look(servers | {pid for pid in workers if pid is not None})

    # A generation.

    def _open_control(self, name: str) -> None:
        path = socket_path(name)
        try:
            if path:
                self.control = Control(path, self.selector, self.desk.asked)
                return
            reason = "neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set"
        except SockdError as error:
            reason = str(error)
        journal.log(
            journal.WARNING, f"no control socket, so no `sockd status` and `reload`: {reason}"
        )

    def _launch(self, decision: Launch) -> None:
        try:
            first = self.service.config is None
            config = self.service.configure()
        except SockdError as error:
            self._cannot_launch(decision.generation, error)
        else:
            self.left_over.allow(config.settings.timeouts.drain)
            if first:
                self._open_control(config.name)
            self._exec_server(decision.generation, config, config.settings.preload != "off")

    def _relaunch(self, decision: Relaunch) -> None:
        server = self.servers[decision.generation]
        server.kill()
        self._forget(Forget(decision.generation))
        self._exec_server(decision.generation, server.config, False)

    def _cannot_launch(self, generation: int, error: SockdError) -> None:
        self.boot_error = error
        self.events.appendleft(LoadFailed(generation, str(error), error.detail))

    def _exec_server(self, generation: int, config: Config, preload: bool) -> None:
        try:
            server = ForkServer(
                generation,
                config,
                self.service.listeners,
                self.service.channel,
                self.board.fd,
                preload=preload,
                activated=self.service.adopted,
            )
        except SockdError as error:
            self._cannot_launch(generation, error)
            return
        self.boot_error = None
        self.servers[generation] = server
        self.sessions[server.pid] = generation
        self._listen_to_server(server)
        if self.fleet.live is None:
            self.notifier.extend(server.plan.boot + MARGIN)
        self.events.appendleft(Launched(generation, server.pid, server.plan))

    def _listen_to_server(self, server: ForkServer) -> None:
        self.selector.register(
            server.control, selectors.EVENT_READ, lambda: self._hear_server(server)
        )

    def _hear_server(self, server: ForkServer) -> None:
        before = server.control.fileno()
        if before < 0:
            return
        events = server.receive()
        if server.control.fileno() < 0:
            self.selector.unregister(before)
        for event in events:
            if isinstance(event, Spawned) and event.worker in self.lifelines:
                self.lifelines[event.worker].pid = event.pid
        self.events.extend(events)

    def _dump_worker(self, decision: DumpWorker) -> None:
        with contextlib.suppress(ProcessLookupError):  # not reaped, so its number is its own
            os.kill(decision.pid, DUMP_SIGNAL)

    def _collect_dump(self, decision: CollectDump) -> None:
        detail = self.servers[decision.generation].dumped()
        self.events.appendleft(LoadFailed(decision.generation, decision.message, detail))

    def _close_server(self, decision: CloseServer) -> None:
        server = self.servers[decision.generation]
        if server.control.fileno() >= 0:
            self.selector.unregister(server.control)
            server.control.close()

    def _forget(self, decision: Forget) -> None:
        if decision.generation in self.servers:
            self._close_server(CloseServer(decision.generation))
            server = self.servers.pop(decision.generation)
            server.close()
            self.orphans.end(server.pid, time.monotonic())

    # A worker.

    def _spawn(self, decision: Spawn) -> None:
        worker = decision.worker
        self.board.clear(decision.slot, generation=worker.generation, worker=worker.serial)
        try:
            lifeline = self.servers[worker.generation].spawn(worker, decision.slot)
        except OSError as error:
            self.events.append(SpawnFailed(worker, str(error.strerror)))
            return
        self.lifelines[worker] = lifeline
        self._listen_to_worker(lifeline)

    def _listen_to_worker(self, lifeline: Lifeline) -> None:
        self.selector.register(
            lifeline.socket, selectors.EVENT_READ, lambda: self._hear_worker(lifeline)
        )

    def _hear_worker(self, lifeline: Lifeline) -> None:
        if not lifeline.open:
            return
        events, more = lifeline.receive()
        for event in events:
            if isinstance(event, Ready):
                lifeline.pid = event.pid
        self.events.extend(events)
        if not more:
            self.selector.unregister(lifeline.socket)
            lifeline.open = False
            self.events.append(LifelineClosed(lifeline.worker))

    def _tell(self, worker: WorkerId, message: dict[str, Any]) -> None:
        if worker in self.lifelines:
            self.lifelines[worker].send(message)

    def _drain(self, decision: Drain) -> None:
        # In a stop nobody is left to serve what the kernel has queued, unless systemd keeps the
        # sockets for whoever comes next.
        accept_rest = self.fleet.stopping and not self.service.adopted
        message = {
            "drain": decision.seconds,
            "close_idle": decision.close_idle,
            "accept_rest": accept_rest,
            "hand_over": decision.hand_over,
        }
        if decision.worker in self.lifelines:
            # Its helper tells health checks so and gives idle connections away, also while it is
            # too busy to hear the order.
            state = "leaving" if decision.hand_over else "draining"
            self.board.set_state(self.lifelines[decision.worker].slot, state)
        self._tell(decision.worker, message)

    def _kill_worker(self, decision: KillWorker) -> None:
        # Not reaped yet, so the number cannot be another process's.
        with contextlib.suppress(ProcessLookupError):
            os.kill(decision.pid, signal.SIGKILL)

    def _release(self, decision: Release) -> None:
        lifeline = self.lifelines.pop(decision.worker, None)
        if lifeline:
            if lifeline.open:
                self.selector.unregister(lifeline.socket)
            lifeline.close()
            self.totals.worker_ended(self.board, lifeline.slot)
            self.board.clear(lifeline.slot)
            self.look_for_orphans = True

    def _measure(self, decision: Measure) -> None:
        assert self.fleet.live
        figures = {}
        for worker in self.fleet.live.in_state(W.READY):
            assert worker.pid is not None
            held = memory.of(worker.pid) if decision.memory else None
            done = self.board.read(worker.slot)
            figures[worker.id] = Figures(done["requests"], held.private if held else None)
        slots = [worker.slot for worker in self.fleet.workers()]
        connections = sum(self.board.read(slot)["connections"] for slot in slots)
        self.events.append(Measured(figures, connections))

    # The world outside.

    def _announce(self, decision: Announce) -> None:
        if decision.what == "ready":
            self.failures.succeeded()
            status = report.line(self.fleet, self.board, self.left_over.line())
            self.notifier.ready(status, time.monotonic())
        elif decision.what == "reloading":
            self.notifier.reloading()
        else:
            self.notifier.stopping()
            if self.service.config:
                self.notifier.extend(self.service.config.settings.timeouts.drain + MARGIN)

    def _note(self, decision: Note) -> None:
        journal.log(
            decision.priority,
            f"{decision.message}\n{decision.detail}".rstrip(),
            sockd_generation=decision.generation,
            sockd_worker=decision.worker,
        )

    def _exit(self, decision: Exit) -> None:
        self.exit = decision
