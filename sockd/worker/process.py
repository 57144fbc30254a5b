"""A worker: what a forked child does around the event loop that serves.

Its lifeline is a socket to the master. The master says on it when to serve, drain or stop; its end
means that the master is gone, and the worker finishes what it has in hand. Two more things hold
when the loop cannot turn, because the application is busy or stuck: a kernel timer ends the worker
after the drain time, and the parent death signal (prctl(2)) arms that timer if the master dies.
That signal must not end the worker itself, or requests in hand were lost; and it is no ordinary
one, since the interpreter, which may be stuck, has no part in its handler.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from sockd import journal, linux, loader, memory
from sockd.board import Board
from sockd.errors import INTERNAL, AppError
from sockd.http.loop import Loop
from sockd.worker import messages, warmup
from sockd.worker.access import AccessLog
from sockd.worker.application import Application
from sockd.worker.descriptors import Guard, move
from sockd.worker.messages import DUMP_SIGNAL, ORPHAN_SIGNAL, Spec
from sockd.worker.wsgi import WSGIHandler

ADOPTION = 5.0  # seconds for the kernel to make the master this process's parent
GRACE = 1.0  # seconds after the drain deadline to end by itself


class Worker:
    def __init__(self, spec: Spec, serial: int, lifeline: socket.socket, dump: int) -> None:
        """`dump` is where its stack goes when it does not become ready."""
        self.spec = spec
        self.id = f"{spec.generation}.{serial}"
        self.lifeline = lifeline
        self.dump = dump
        self.app: Application | None = None
        self.loop: Loop | None = None
        self.access: AccessLog | None = None
        self.serving = False
        self.ending = False
        self.unsaid = False  # that it drains
        self.log_files: list[Callable[[], object]] = []  # how to open each of them anew
        self.wake_read, self.wake_write = map(move, os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))

    def run(
        self,
        app: Application | None,
        listeners: list[socket.socket],
        channel: list[socket.socket],
        board: Board,
        slot: int,
    ) -> int:
        """Serve until told to end; the exit status of the process. Without `app`, the worker
        imports it for itself. `channel` is the handover channel: where to give, where to take."""
        try:
            self._settle_in()
            board.set_process(slot, os.getpid(), time.monotonic_ns() // 1000)
            self.app = app or self._import([*listeners, *channel])
            self._take_signals()
            self.app.run("after_fork")
            warmup.run(self.app.callable, self.spec.settings)
            handler = WSGIHandler(self.app.callable, self.spec.settings, report=report)
            self.loop = Loop(handler, listeners, self.spec.settings, board, slot)
            give, take = channel
            self.loop.join(give.fileno(), take.fileno(), outlives=self.spec.outlives)
            if self.spec.settings.log.access != "off":
                self.access = AccessLog(self.spec.settings.log)
                self.loop.log_access(self.access)
        except Exception as error:
            self._last_words(error)
            return error.exit_code if isinstance(error, AppError) else INTERNAL
        faulthandler.unregister(DUMP_SIGNAL)
        os.close(self.dump)
        weigh = self.spec.settings.workers == 0  # auto: their number depends on that
        self._say({"ready": os.getpid(), "memory": memory.of("self") if weigh else None})
        self._wait_to_serve()
        if self.serving and not self.ending:
            self.loop.watch(self.lifeline.fileno(), self._hear)
            self.loop.hold(self.lifeline.fileno())
            self.loop.watch(self.wake_read, self._awake)
            try:
                self.loop.run()
            except Exception as error:
                self._last_words(error)
                return INTERNAL
            if self.loop.aborted:
                journal.log(
                    journal.WARNING,
                    f"worker {self.id}: {self.loop.aborted} connections cut at the drain deadline",
                )
            if self.loop.left_over:
                journal.log(
                    journal.WARNING,
                    f"worker {self.id}: {self.loop.left_over} idle connections closed at the "
                    "drain deadline, as the handover channel had no room for them",
                )
        self._awake()  # a loop without clients ends before it comes to that
        self._run_hook("on_exit")
        # The interpreter's end restores default actions: a late signal must not look like a death.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        return 0

    def _settle_in(self) -> None:
        linux.set_process_name(f"sockd {self.id}")
        journal.configure(sockd_worker=self.id)
        self.lifeline.setblocking(False)
        linux.make_deadline(ORPHAN_SIGNAL, self.spec.settings.timeouts.drain + GRACE)
        until = time.monotonic() + ADOPTION
        # Set before the adoption the death signal would come at once: the parent of that moment
        # is a process that has just exited.
        while os.getppid() != self.spec.master and time.monotonic() < until:
            time.sleep(0.0005)
        linux.set_parent_death_signal(ORPHAN_SIGNAL)
        if os.getppid() != self.spec.master:
            os.kill(os.getpid(), ORPHAN_SIGNAL)

    def _import(self, sockets: list[socket.socket]) -> Application:
        ours = [self.dump, self.wake_read, self.wake_write]
        guard = Guard([*ours, *(sock.fileno() for sock in [self.lifeline, *sockets])])
        app = Application.load(self.spec.settings.app)
        if not guard.intact():
            raise AppError(Guard.COMPLAINT)
        return app

    def _take_signals(self) -> None:
        """After the import, which may have its own ideas."""
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_quit)
        signal.signal(signal.SIGQUIT, self._on_quit)

    def _run_hook(self, hook: str) -> None:
        assert self.app
        try:
            self.app.run(hook)
        except AppError as error:
            journal.log(journal.ERR, f"worker {self.id}: {error}\n{error.detail}".rstrip())

    def _wait_to_serve(self) -> None:
        """A generation takes over as a whole: until it does, its workers do not accept."""
        poll = select.poll()
        poll.register(self.lifeline, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        while not (self.serving or self.ending):
            poll.poll()
            self._awake()
            self._hear()

    def _hear(self) -> None:
        """What the master says."""
        while True:
            try:
                message, _ = messages.receive(self.lifeline)
            except BlockingIOError:
                return
            except OSError:
                message = None
            if message is None:
                self._orphaned()
                return
            if "serve" in message:
                self.serving = True
            elif "drain" in message:
                self._drain(
                    message["drain"],
                    close_idle=message.get("close_idle", False),
                    accept_rest=message.get("accept_rest", False),
                    hand_over=message.get("hand_over", False),
                )
            elif "stop" in message:
                self._stop()
            elif "reopen" in message:
                self._reopen()

    def _reopen(self) -> None:
        """Open log files anew, by their names."""
        for reopen in self.log_files:
            reopen()

    def _orphaned(self) -> None:
        if not self.ending:
            journal.log(journal.WARNING, f"worker {self.id}: the master is gone, finishing")
        if self.loop and self.serving:
            self.loop.unwatch(self.lifeline.fileno())
        self.lifeline.close()
        if not self.ending:
            drain = self.spec.settings.timeouts.drain
            self._drain(drain, close_idle=False, hand_over=self.spec.outlives)

    def _awake(self) -> None:
        """After a signal or an order to drain; the loop has begun to do it in this turn."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_read, 4096)
        if self.unsaid:
            self.unsaid = False
            self._say({"draining": True})
            self._run_hook("on_drain")

    def _on_term(self, number: int, frame: object) -> None:
        # The master replaces it, and orders otherwise if all are to end.
        self._drain(self.spec.settings.timeouts.drain, close_idle=False, hand_over=True)

    def _on_quit(self, number: int, frame: object) -> None:
        self._stop()

    def _drain(
        self,
        seconds: float,
        *,
        close_idle: bool,
        accept_rest: bool = False,
        hand_over: bool = False,
    ) -> None:
        self.ending = True
        linux.set_deadline(seconds + GRACE)
        if self.loop:
            self.loop.drain(
                seconds, close_idle=close_idle, accept_rest=accept_rest, hand_over=hand_over
            )
        # The loop stops accepting in its next turn, and this wakes it for that.
        self.unsaid = True
        with contextlib.suppress(BlockingIOError):
            os.write(self.wake_write, b"\0")

    def _stop(self) -> None:
        self.ending = True
        linux.set_deadline(GRACE)
        if self.loop:
            self.loop.stop()

    def _last_words(self, error: Exception) -> None:
        if isinstance(error, AppError):
            words = {"message": str(error), "detail": error.detail}
        else:
            kind = type(error).__name__
            words = {"message": f"{kind}: {error}", "detail": loader.describe(error)}
        try:
            messages.send(self.lifeline, {"failed": words})
        except OSError:  # too large, or the application has closed it
            journal.log(journal.ERR, f"{words['message']}\n{words['detail']}".rstrip())

    def _say(self, message: messages.Message) -> None:
        with contextlib.suppress(OSError):  # its end tells what that means
            messages.send(self.lifeline, message)


def report(message: str, exc_info: Any, fields: dict[str, str]) -> None:
    """Journal what went wrong with a request: one entry, with its traceback if there is one.

    The application's failures (`exc_info`) are errors and everything else is what clients do,
    unless PRIORITY among the fields (a number as in syslog(3)) says otherwise.
    """
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    detail = f"\n{loader.describe(error)}" if error is not None else ""
    usual = journal.INFO if error is None else journal.ERR
    priority = int(fields.pop("PRIORITY", usual))
    journal.log(priority, (message + detail).rstrip(), **fields)
