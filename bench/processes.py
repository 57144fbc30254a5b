"""A server under measurement: all of its processes, what they have used, and their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections import defaultdict
from pathlib import Path

from bench import HERE, Failure

DEADLINE = 30.0  # seconds to start, or to end
_libc = ctypes.CDLL(None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def connect(address: str) -> socket.socket:
    """To HOST:PORT or the path of a Unix socket."""
    unix = address.startswith("/")
    end = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    end.settimeout(10)
    host, _, port = address.rpartition(":")
    try:
        end.connect(address if unix else (host, int(port)))
    except OSError:
        end.close()
        raise
    return end


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads, those that ended included: what
    proc(5) has as utime + stime, but to the nanosecond (clock_getcpuclockid(3))."""
    clock = ctypes.c_int()
    error = _libc.clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


class Server:
    """A running command on one core. Its output goes to `directory`/log."""

    def __init__(self, name: str, command: list[object], address: str, core: int, directory: Path):
        self.name = name
        self.address = address
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, command)],
                cwd=HERE / "apps",
                env={**os.environ, "RUNTIME_DIRECTORY": str(directory), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_up(self) -> None:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError):
                connect(self.address).close()
                return
            time.sleep(0.02)
        words = self.log.read_text(errors="replace").strip().splitlines()[-5:]
        raise Failure(f"{self.name} does not start: " + " / ".join(words))

    def processes(self) -> list[int]:
        """The server's process and all that came of it."""
        children: dict[int, list[int]] = defaultdict(list)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    children[int(parent)].append(int(entry.name))
        found = [self._process.pid]
        for pid in found:
            found += children[pid]
        return found

    def cpu(self) -> dict[int, float]:
        """Seconds of CPU that each process has used so far."""
        return {pid: cpu_seconds(pid) for pid in self.processes()}

    def private_bytes(self) -> int:
        """Memory that is the processes' own: proc(5), smaps_rollup, Private_Dirty."""
        return sum(_rollup(pid, "Private_Dirty:") for pid in self.processes())

    def resident_bytes(self) -> int:
        return sum(_rollup(pid, "Rss:") for pid in self.processes())

    def stop(self) -> None:
        everyone = self.processes() if self._process.poll() is None else []
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        for pid in everyone:
            with contextlib.suppress(ProcessLookupError):
                if pid == self._process.pid and self._process.returncode is not None:
                    continue
                os.kill(pid, signal.SIGKILL)
        self._process.wait(DEADLINE)


def _rollup(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0
