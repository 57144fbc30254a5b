"""How often in a row the application has failed to boot, across masters.

Under systemd a failed boot ends that start, and the next client that knocks on the socket brings
the next one. So from the third failure on, the next master waits before it boots. The count lives
in $RUNTIME_DIRECTORY, which survives a restart with RuntimeDirectoryPreserve=restart.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PATIENCE = 3  # failures in a row before the first wait
LONGEST = 30.0


class BootFailures:
    def __init__(self, supervised: bool) -> None:
        directory = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        self._path = Path(directory) / "boot-failures" if directory and supervised else None

    def count(self) -> int:
        if self._path:
            with contextlib.suppress(OSError, ValueError):
                return max(0, int(self._path.read_text()))
        return 0

    def hold(self) -> float:
        """Seconds to wait before this boot: 0 at first, then 1, 2, 4 … LONGEST."""
        count = self.count()
        return 0.0 if count < PATIENCE else min(LONGEST, 2.0 ** min(count - PATIENCE, 10))

    def failed(self) -> None:
        if self._path:
            with contextlib.suppress(OSError):
                self._path.write_text(f"{self.count() + 1}\n")

    def succeeded(self) -> None:
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
