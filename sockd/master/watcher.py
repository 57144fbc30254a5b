"""The process that watches files for `sockd serve --reload`, as the master sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from sockd import journal, watch
from sockd.config import Config, sources_of


class Watcher:
    """Watches what one configuration names."""

    def __init__(self, config: Config) -> None:
        """Start it. OSError."""
        self.watched = watched(config)
        here, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        their_input, self._alive = os.pipe2(os.O_CLOEXEC)
        self.fd = here
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, str(Path(watch.__file__).resolve()), *self.watched],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, their_input, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 1),
                ],
                setsid=True,  # a terminal's signals are the master's
                setsigmask=[],
            )
        finally:
            os.close(theirs)
            os.close(their_input)

    def changed(self) -> str | None:
        """One of the files that have changed, empty if none has; None when the process is gone."""
        try:
            lines = os.read(self.fd, 65536).decode(errors="replace").splitlines()
        except BlockingIOError:
            return ""
        if "" in lines:
            journal.log(journal.INFO, f"watching {self.watched[0]} for changes")
        return max(lines, default=None)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._alive)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # reaped already
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def watched(config: Config) -> list[str]:
    """The application's directory, then the files that a reload reads."""
    app = config.settings.app
    files = [*sources_of(config), *([app.env_file] if app.env_file else [])]
    return [str(Path(app.directory or ".").resolve()), *map(str, files)]
