"""The service's control group (cgroups(7)): what runs in it, and what systemd is about to do.

The unit has KillMode=process, so that a master is followed by the next one at once, beside workers
that still finish their requests. What runs in the group is sockd's to end then.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable, Mapping
from pathlib import Path

SYSTEMCTL = "/usr/bin/systemctl"
PATIENCE = 3.0  # seconds for systemctl to answer
UNKNOWN = "process"
NOT_OURS = "(sd-pam)"  # systemd's own, with PAMName= (systemd.exec(5))


class Group:
    """That of the unit whose main process this is. `unit` is its name, empty where no systemd has
    made a group for this process: then nothing in it is known to be the service's."""

    def __init__(self, environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> None:
        self.unit = ""
        self.user = False  # of a user's own systemd
        self._root = root
        self._path = root
        # systemd.exec(5): the process that systemd itself has exec'd, no child of it.
        if environ.get("SYSTEMD_EXEC_PID") != str(os.getpid()):
            return
        with contextlib.suppress(OSError):
            lines = (root / "proc/self/cgroup").read_text().splitlines()
            own = next((line[3:] for line in lines if line.startswith("0::")), "")
            path = root / "sys/fs/cgroup" / own.lstrip("/")
            if own.endswith(".service") and (path / "cgroup.procs").exists():
                self.unit = Path(own).name
                self.user = "/user@" in own
                self._path = path

    def others(self) -> dict[int, str]:
        """Every other process in it: pid to name. The name of one that an earlier start of a
        hardened unit has left is unknown, since it is in another user namespace (ProtectProc=)."""
        found = {}
        if self.unit:
            with contextlib.suppress(OSError):
                for pid in map(int, (self._path / "cgroup.procs").read_text().split()):
                    name = UNKNOWN
                    with contextlib.suppress(OSError):
                        name = (self._root / f"proc/{pid}/comm").read_text().strip()
                    if pid not in (0, os.getpid()) and name != NOT_OURS:
                        found[pid] = name
        return found


class Question:
    """Asks systemd whether it stops the unit or restarts it, beside the master's loop."""

    def __init__(
        self,
        group: Group,
        selector: selectors.BaseSelector,
        answered: Callable[[bool], None],
        now: float,
    ) -> None:
        """`answered` is told whether another master may follow: also when nobody knows."""
        self.deadline: float | None = now + PATIENCE
        self._unit = group.unit
        self._selector = selector
        self._answered = answered
        self._text = b""
        self._fd, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        command = [SYSTEMCTL, *(["--user"] if group.user else []), "list-jobs", "--no-legend"]
        environ = {"LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
        environ |= {
            name: os.environ[name]
            for name in ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR")
            if name in os.environ
        }
        selector.register(self._fd, selectors.EVENT_READ, self._hear)
        try:
            os.posix_spawn(
                SYSTEMCTL,
                [*command, self._unit],
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 1),
                    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                ],
                setsid=True,
                setsigmask=[],
            )
        except OSError:
            self._answer(True)
        finally:
            os.close(theirs)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            piece = os.read(self._fd, 65536)
            self._text += piece
            if not piece:
                self._answer(self._another_follows())

    def turn(self, now: float) -> float | None:
        """When to come back."""
        if self.deadline is not None and now >= self.deadline:
            self._answer(True)
        return self.deadline

    def _another_follows(self) -> bool:
        """A line of list-jobs: `JOB UNIT TYPE STATE`. It prints a line also when there is none, so
        that silence says that it could not find out."""
        lines = self._text.decode(errors="replace").splitlines()
        jobs = [line.split() for line in lines]
        types = [job[2] for job in jobs if len(job) >= 4 and job[1] == self._unit]
        return types != ["stop"] if types else not lines

    def _answer(self, another: bool) -> None:
        if self.deadline is not None:
            self.deadline = None
            self._selector.unregister(self._fd)
            os.close(self._fd)
            self._answered(another)
