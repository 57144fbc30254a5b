"""The sockd that is to take this process over: which program that is, whether it can, and how.

The program is what this one was started as, not the interpreter that runs it: the script at the
same path, whatever is there and whatever it names after `#!` by then.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import sockd
from sockd.loader import bounded
from sockd.master import inheritance
from sockd.master.events import Proved
from sockd.master.inheritance import State, Unreadable
from sockd.master.roster import ended

VARIABLE = "SOCKD_INHERITED"  # the descriptor of the state, for the next master
FLAG = "--prove"  # the same, for one that only says whether it could
STATE_FD = 3  # of that one
PATIENCE = 60.0  # seconds that it may take
OUTPUT = 64 * 1024  # bytes of what it says are kept
PROVED = f"{sockd.__name__} can go on"


def program() -> list[str]:
    """The command that started this process, to be asked for when it begins."""
    script = Path(sys.argv[0])
    if script.is_file() and os.access(script, os.X_OK):
        return [str(script.absolute()), *sys.argv[1:]]
    return [sys.executable, *sys.orig_argv[1:]]


def inherited() -> State | None:
    """What an earlier master has left to this process. Unreadable."""
    text = os.environ.pop(VARIABLE, "")
    if not text:
        return None
    fd = int(text)
    state = read(fd)
    os.close(fd)
    os.environ.update(state.environ)
    for one in state.descriptors():
        os.set_inheritable(one, False)
    return state


def read(fd: int) -> State:
    """Unreadable."""
    try:
        data = os.pread(fd, os.fstat(fd).st_size, 0)
    except OSError as error:
        raise Unreadable(f"there is no state to read: {error.strerror}") from None
    return inheritance.read(data)


def _memfd(state: State) -> int:
    fd = os.memfd_create("sockd-state", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(inheritance.write(state))
    return fd


@contextlib.contextmanager
def signals_blocked(numbers: set[int]) -> Iterator[None]:
    """Handlers do not outlive execve(2), the mask and what is pending do. What has no handler is
    left alone: to the watchdog's SIGABRT a master that hangs must stay open."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def execute(command: list[str], state: State) -> str:
    """Become the other program. It returns only if that fails: why."""
    fd = _memfd(state)
    passed = [fd, *state.descriptors()]
    try:
        for one in passed:
            os.set_inheritable(one, True)
        os.execve(command[0], command, {**os.environ, VARIABLE: str(fd)})
    except OSError as error:
        for one in passed:
            os.set_inheritable(one, False)
        os.close(fd)
        return f"cannot execute {command[0]}: {error.strerror}"


class Proof:
    """A child of this process: the other program, which reads the state and says so."""

    def __init__(self, command: list[str], state: State, selector: selectors.BaseSelector) -> None:
        """Start it. OSError."""
        self.command = command
        self.deadline: float | None = time.monotonic() + PATIENCE
        self._selector = selector
        self._said = bytearray()
        self._late = False
        self._read, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(theirs, True)
        fd = _memfd(state)
        try:
            self.pid = os.posix_spawn(
                command[0],
                [*command, FLAG, str(STATE_FD)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 1),
                    (os.POSIX_SPAWN_DUP2, theirs, 2),
                    (os.POSIX_SPAWN_DUP2, fd, STATE_FD),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError:
            os.close(self._read)
            raise
        finally:
            os.close(theirs)
            os.close(fd)
        selector.register(self._read, selectors.EVENT_READ, self._hear)

    def _hear(self) -> bool:
        """Whether there was something."""
        if self._read < 0:  # closed in the turn that also saw it end
            return False
        try:
            data = os.read(self._read, 65536)
        except BlockingIOError:
            return False
        if not data and self._read in self._selector.get_map():
            self._selector.unregister(self._read)
        self._said = (self._said + data)[-OUTPUT:]
        return bool(data)

    def turn(self, now: float) -> float | None:
        """When to come back."""
        if self.deadline is not None and self.deadline <= now:
            self.deadline, self._late = None, True
            os.kill(self.pid, signal.SIGKILL)  # not reaped, so its number is its own
        return self.deadline

    def exited(self, status: int) -> Proved:
        """It was reaped: what came of it."""
        while self._hear():
            pass
        self._close()
        said = bounded(self._said.decode(errors="replace").strip())
        last = said.splitlines()[-1] if said else ""
        if status == 0 and last == PROVED:
            return Proved()
        if self._late:
            how = f"did not answer within {PATIENCE:g} s"
        elif status == 0:
            how = "ended without a word on it"
        else:
            how = ended(status) + (f": {last.removeprefix('sockd: ')}" if last else "")
        detail = said if len(said.splitlines()) > 1 else ""
        return Proved(f"{self.command[0]}, as it is, cannot go on from here: it {how}", detail)

    def end(self) -> None:
        """Nobody wants to know."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._close()

    def _close(self) -> None:
        if self._read in self._selector.get_map():
            self._selector.unregister(self._read)
        os.close(self._read)
        self._read = -1


def prove(fd: int, load: Callable[[], object]) -> str:
    """In the other program: what to print when it can read the state at `fd`, and the
    configuration. SockdError when it cannot."""
    read(fd)
    load()
    importlib.import_module("sockd.worker.forkserver")  # which a master has no use for
    return PROVED
