"""What the service manager is told: sd_notify(3), and when its watchdog wants a word.

The variables are read once and taken out of the environment, so the application can neither
speak for the service nor ping its watchdog.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

import sdnotify

STATUS_INTERVAL = 1.0  # seconds between two STATUS= lines
SEND_TIMEOUT = 1.0  # seconds for a manager that does not read its socket

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "MAINPID")
PASSED_ON = VARIABLES[:3]  # to a program that takes this process over


class Notifier:
    """Speaks to the service manager, or to nobody when none asked for it."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._manager = None
        if environ.get("NOTIFY_SOCKET"):
            self._manager = sdnotify.SystemdNotifier()
            if self._manager.socket is not None:
                self._manager.socket.settimeout(SEND_TIMEOUT)
        self.watchdog = self._watchdog_seconds(environ)
        self.environ = {name: environ[name] for name in PASSED_ON if name in environ}
        for name in VARIABLES:
            environ.pop(name, None)
        self._status = ""
        self._told = ""
        self._told_at = float("-inf")
        self._pinged_at = float("-inf")

    @property
    def supervised(self) -> bool:
        """A manager listens: it restarts what ends."""
        return self._manager is not None

    @staticmethod
    def _watchdog_seconds(environ: MutableMapping[str, str]) -> float:
        """sd_watchdog_enabled(3): 0.0 when it is off or meant for another process."""
        with contextlib.suppress(ValueError):
            if int(environ.get("WATCHDOG_PID", os.getpid())) == os.getpid():
                return max(0.0, int(environ.get("WATCHDOG_USEC", "0")) / 1e6)
        return 0.0

    def alive(self) -> None:
        """What follows may take a while: have the watchdog count from here."""
        if self.watchdog:
            self.send("WATCHDOG=1")

    def send(self, *assignments: str) -> None:
        if self._manager is not None:
            # sdnotify sends Latin-1; so its bytes are made those of UTF-8 (sd_notify(3)).
            self._manager.notify("\n".join(assignments).encode().decode("latin-1"))

    def ready(self, status: str, now: float) -> None:
        """Together with what is ready, so that `systemctl start` and `status` agree."""
        self._status = self._told = status
        self._told_at = now
        self.send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Must be followed by `ready()`, else this reload and every later one hangs."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def store(self, name: str, descriptor: int) -> bool:
        """Have the manager hold a copy of it, also between two starts, and pass that to the next
        process as `name`; whether it was asked. Its end is not watched: a socket without a peer
        may get one again."""
        if self._manager is None or self._manager.socket is None:
            return False
        message = f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}".encode()
        try:
            socket.send_fds(self._manager.socket, [message], [descriptor])
        except OSError:
            return False
        return True

    def unstore(self, name: str) -> None:
        """Have it close what it holds by that name; a second file would stay beside the first."""
        self.send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def stopping(self) -> None:
        self.send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Starting or stopping may take this long from here."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def status(self, text: str) -> None:
        """The line of `systemctl status`; `turn` sends it."""
        self._status = text

    def turn(self, now: float, well: bool = True) -> float | None:
        """Send what is due; the time (CLOCK_MONOTONIC) at which something is due next. The
        watchdog hears nothing while this process is not `well`: it is restarted for that."""
        due: list[float] = []
        if self._status != self._told:
            if now >= self._told_at + STATUS_INTERVAL:
                self.send(f"STATUS={self._status}")
                self._told, self._told_at = self._status, now
            else:
                due.append(self._told_at + STATUS_INTERVAL)
        if self.watchdog:
            if now >= self._pinged_at + self.watchdog / 2:
                if well:
                    self.send("WATCHDOG=1")
                self._pinged_at = now
            due.append(self._pinged_at + self.watchdog / 2)
        return min(due, default=None)
