"""The fork server: imports the application once, then only forks workers that share its memory.

It is exec'd by the master (`boot.py`), owns nothing but its end of a control socket, and ends when
the master's end is closed. It serves nobody, so the kernel kills it when the master dies, also
while an import hangs (prctl(2); a fork clears that, so its workers live on). What it imports the
application sees too, so that is the standard library and sockd; all of it is imported before the
application is, since a package manager may replace the files later.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import socket
import sys
from typing import Any

from sockd import journal, linux, loader, stdio
from sockd.board import Board
from sockd.errors import INTERNAL, AppError
from sockd.worker import leftovers, messages, process
from sockd.worker.application import Application
from sockd.worker.descriptors import Guard, move
from sockd.worker.messages import DUMP_SIGNAL, Spec

KEPT_FOR_THE_MASTER = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def main(fd: int) -> None:
    """Serve the master at the other end of `fd` until it is gone. Workers return from here with
    SystemExit, so that the interpreter ends properly in them."""
    linux.set_parent_death_signal(signal.SIGKILL)
    stdio.fill()
    control = socket.socket(fileno=move(fd))
    control.setblocking(True)
    message, descriptors = messages.receive(control)
    if message is None:
        os._exit(0)
    try:
        spec = Spec.parse(message)
    except ValueError as error:
        words = {"message": f"cannot speak to the master: {error}", "detail": ""}
        messages.send(control, {"failed": words})
        os._exit(INTERNAL)
    if os.getppid() != spec.master:
        os._exit(0)  # it died before it could be asked for
    server = ForkServer(control, spec, descriptors)
    server.become()
    server.load()
    server.run()


class ForkServer:
    def __init__(self, control: socket.socket, spec: Spec, descriptors: list[int]) -> None:
        dump, board, give, take, *listeners = descriptors
        self.control = control
        self.spec = spec
        self.dump = move(dump)
        self.board = Board.attach(board)
        os.close(board)
        self.channel = [socket.socket(fileno=move(fd)) for fd in (give, take)]
        self.listeners = [socket.socket(fileno=move(fd)) for fd in listeners]
        self.app: Application | None = None
        self.app_handlers: dict[int, Any] = {}

    def become(self) -> None:
        """Whom the application runs as, for good."""
        spec = self.spec
        if spec.settings.process.umask is not None:
            os.umask(spec.settings.process.umask)
        if spec.identity is None:
            return
        try:
            spec.identity.assume()
        except OSError as error:
            who = spec.identity.name or f"uid {spec.identity.uid}"
            self._give_up(
                f"cannot become {who}: {error.strerror}", "", Guard([self.control.fileno()])
            )
        # A change of credentials takes that away, prctl(2).
        linux.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != spec.master:
            os._exit(0)

    def load(self) -> None:
        """Import the application, if workers are to share it, and tell the master how that went;
        ends the process if badly."""
        spec = self.spec
        linux.set_process_name(f"sockd-fork {spec.generation}")
        journal.configure(
            spec.settings.log.level,
            spec.settings.log.format,
            sockd_name=spec.name,
            sockd_generation=spec.generation,
        )
        for number in KEPT_FOR_THE_MASTER:
            # A handler, not SIG_IGN: exec resets it, so the app's own children can be ended.
            signal.signal(number, _leave_to_master)
        faulthandler.register(DUMP_SIGNAL, file=self.dump, all_threads=True)
        ours = [self.control, *self.channel, *self.listeners]
        guard = Guard([self.dump, *(sock.fileno() for sock in ours)])
        before = leftovers.sockets()
        try:
            os.chdir(spec.directory)
            sys.path.insert(0, spec.directory)
            if spec.preload:
                self.app = Application.load(spec.settings.app)
                self.app.run("before_fork")
        except AppError as error:
            self._give_up(str(error), error.detail, guard)
        except OSError as error:
            self._give_up(f"cannot enter {spec.directory}: {error.strerror}", "", guard)
        if not guard.intact():
            self._give_up(Guard.COMPLAINT, "", guard)
        stdio.fill()  # the import may have closed them; so may a hook at the fork
        for number in (*KEPT_FOR_THE_MASTER, signal.SIGCHLD):
            self.app_handlers[number] = signal.getsignal(number)
            default = number == signal.SIGCHLD
            signal.signal(number, signal.SIG_DFL if default else _leave_to_master)
        gc.collect()
        gc.freeze()
        left = leftovers.left(before)
        shareable = spec.settings.preload == "on" or not (left["threads"] or left["connections"])
        self._tell({"loaded" if shareable else "unshareable": left})

    def _give_up(self, message: str, detail: str, guard: Guard) -> None:
        if guard.holds(self.control.fileno()):
            words = {"message": message, "detail": detail}
            try:
                messages.send(self.control, {"failed": words})
            except OSError:  # too large: escapes can make it three times as long
                words["detail"] = loader.bounded(detail, loader.DETAIL_LIMIT // 4)
                self._tell({"failed": words})
        else:
            journal.log(journal.ERR, f"{message}\n{detail}".rstrip())
        os._exit(INTERNAL)

    def _tell(self, message: messages.Message) -> None:
        with contextlib.suppress(OSError):  # the master is gone; `run` finds that out
            messages.send(self.control, message)

    def run(self) -> None:
        while True:
            message, descriptors = messages.receive(self.control)
            if message is None:
                # Without the application's atexit functions: what they take away, the workers
                # that still drain may use.
                os._exit(0)
            if "spawn" not in message:
                for fd in descriptors:
                    os.close(fd)
                continue
            serial, slot, *_ = message["spawn"]
            lifeline = socket.socket(fileno=descriptors[0])
            if self._spawn(serial):
                self._become_worker(serial, slot, lifeline)
            lifeline.close()

    def _spawn(self, serial: int) -> bool:
        """Fork twice, so that the worker is adopted by the master. True in the worker.

        The first fork runs no at-fork hooks, hence they run once for each worker.
        """
        try:
            between = linux.fork_without_hooks()
        except OSError as error:
            self._tell({"unspawned": serial, "error": str(error.strerror)})
            return False
        if between == 0:
            return self._spawn_between(serial)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(between, 0)
        return False

    def _spawn_between(self, serial: int) -> bool:
        try:
            # Out of the fork server's process group, which is killed when it is stuck.
            os.setpgid(0, 0)
            worker = os.fork()
        except BaseException as error:
            with contextlib.suppress(BaseException):
                messages.send(self.control, {"unspawned": serial, "error": str(error)})
            os._exit(1)
        if worker == 0:
            return True
        with contextlib.suppress(BaseException):
            messages.send(self.control, {"spawned": serial, "pid": worker})
        os._exit(0)

    def _become_worker(self, serial: int, slot: int, lifeline: socket.socket) -> None:
        stdio.fill()
        self.control.close()
        signal.signal(signal.SIGCHLD, self.app_handlers[signal.SIGCHLD])
        lifeline = socket.socket(fileno=move(lifeline.detach()))
        worker = process.Worker(self.spec, serial, lifeline, self.dump)
        sys.exit(worker.run(self.app, self.listeners, self.channel, self.board, slot))


def _leave_to_master(number: int, frame: object) -> None:
    """The master has the same signal and ends what is to end."""
