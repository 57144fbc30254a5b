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
import fcntl
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from sockd import journal, linux, loader, stdio
from sockd.board import Board
from sockd.errors import INTERNAL, AppError
from sockd.worker import messages, process
from sockd.worker.messages import DUMP_SIGNAL, Spec

HIGH = 900  # sockd's descriptors start here: out of the reach of "close 3 to 100"
KEPT_FOR_THE_MASTER = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def main(fd: int) -> None:
    """Serve the master at the other end of `fd` until it is gone. Workers return from here with
    SystemExit, so that the interpreter ends properly in them."""
    linux.set_parent_death_signal(signal.SIGKILL)
    stdio.fill()
    control = socket.socket(fileno=_move(fd))
    control.setblocking(True)
    message, descriptors = messages.receive(control)
    if message is None:
        os._exit(0)
    spec = Spec.parse(message)
    if os.getppid() != spec.master:
        os._exit(0)  # it died before it could be asked for
    server = ForkServer(control, spec, descriptors)
    server.load()
    server.run()


def _move(fd: int) -> int:
    with contextlib.suppress(OSError):  # a low RLIMIT_NOFILE: it stays where it is
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
        os.close(fd)
        return high
    os.set_inheritable(fd, False)
    return fd


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class ForkServer:
    def __init__(self, control: socket.socket, spec: Spec, descriptors: list[int]) -> None:
        dump, board, *listeners = descriptors
        self.control = control
        self.spec = spec
        self.dump = _move(dump)
        self.board = Board.attach(board)
        os.close(board)
        self.listeners = [socket.socket(fileno=_move(fd)) for fd in listeners]
        self.app: Callable[..., Any] | None = None
        self.app_handlers: dict[int, Any] = {}

    def load(self) -> None:
        """Import the application and tell the master how that went; ends the process if badly."""
        spec = self.spec
        linux.set_process_name(f"sockd-fork {spec.generation}")
        journal.configure(
            spec.settings.log.level, sockd_name=spec.name, sockd_generation=spec.generation
        )
        for number in KEPT_FOR_THE_MASTER:
            # A handler, not SIG_IGN: exec resets it, so the app's own children can be ended.
            signal.signal(number, _leave_to_master)
        faulthandler.register(DUMP_SIGNAL, file=self.dump, all_threads=True)
        ours = [self.control, *self.listeners]
        identities = [_identity(sock.fileno()) for sock in ours]
        try:
            os.chdir(spec.directory)
            sys.path.insert(0, spec.directory)
            self.app = loader.load(spec.settings.app.target)
        except AppError as error:
            self._give_up(str(error), error.detail, identities[0])
        except OSError as error:
            self._give_up(f"cannot enter {spec.directory}: {error.strerror}", "", identities[0])
        if identities != [_identity(sock.fileno()) for sock in ours]:
            self._give_up(
                "the application closed descriptors that are sockd's while it was imported; "
                "it may close only what it opened",
                "",
                identities[0],
            )
        stdio.fill()  # the import may have closed them; so may a hook at the fork
        for number in (*KEPT_FOR_THE_MASTER, signal.SIGCHLD):
            self.app_handlers[number] = signal.getsignal(number)
            default = number == signal.SIGCHLD
            signal.signal(number, signal.SIG_DFL if default else _leave_to_master)
        gc.collect()
        gc.freeze()
        threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        self._tell({"loaded": {"threads": threads}})

    def _give_up(self, message: str, detail: str, control: tuple[int, int] | None) -> None:
        if _identity(self.control.fileno()) == control:
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
            serial, slot = message["spawn"]
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
        faulthandler.unregister(DUMP_SIGNAL)
        os.close(self.dump)
        signal.signal(signal.SIGCHLD, self.app_handlers[signal.SIGCHLD])
        lifeline = socket.socket(fileno=_move(lifeline.detach()))
        assert self.app is not None
        worker = process.Worker(self.spec, serial, lifeline)
        sys.exit(worker.run(self.app, self.listeners, self.board, slot))


def _leave_to_master(number: int, frame: object) -> None:
    """The master has the same signal and ends what is to end."""
