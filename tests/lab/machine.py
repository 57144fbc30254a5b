"""A booted Debian: its own systemd as PID 1, its own network with nothing but loopback.

Each machine is the image of `image` under an overlay of its own, in build/lab/SUITE/machines/NAME,
so the image stays as it was made. systemd-nspawn runs in a mount namespace (the overlay goes with
its last process) and a control group of its own, and is killed with the process that booted it.

Sources: systemd-nspawn(1), nsenter(1), overlayfs in the kernel's Documentation/filesystems.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from types import TracebackType

from tests.lab.image import LAB, image

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
    "DEBIAN_FRONTEND": "noninteractive",
}

# setpriv keeps its pid through all three, so what Popen knows is systemd-nspawn itself.
BOOT = r"""
set -eu
mkdir -p "$CGROUP"
echo $$ > "$CGROUP/cgroup.procs"
mount -t overlay lab -o "lowerdir=$LAYERS,upperdir=$HOME_OF/changes,workdir=$HOME_OF/work" \
    "$HOME_OF/root"
exec systemd-nspawn --quiet --boot --directory "$HOME_OF/root" \
    --machine "$NAME-$$" --hostname "$NAME" \
    --register=no --keep-unit --private-network \
    --resolv-conf=off --timezone=off --link-journal=no --console=read-only
"""


class CommandFailed(Exception):
    """A command in the machine ended with another status than 0; carries its output."""


class Machine:
    """One booted machine, named `name`, of the Debian release `suite`. A context manager; or
    `boot()` and `poweroff()`.

    `layers` are directories whose content lies over the image's, the uppermost first.
    """

    def __init__(self, name: str, suite: str, layers: tuple[Path, ...] = ()) -> None:
        self.name = name
        self.suite = suite
        self.home = LAB / suite / "machines" / name
        self.layers = layers
        self.leader = 0
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._cgroup = _cgroup2() / f"sockd-lab-{os.getpid()}-{suite}-{name}"

    def __enter__(self) -> Machine:
        self.boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.poweroff(keep=kind is not None)

    @property
    def shell(self) -> str:
        """The command that gives a shell in it."""
        return f"nsenter --target {self.leader} --all --wdns=/ bash -l"

    def boot(self, timeout: float = 60) -> None:
        """Return once systemd says that the system is running; raise what it says otherwise."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.home.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandFailed(f"{self.home} is booted already, by another process") from None
        if self.home.exists():
            shutil.rmtree(self.home)
        for part in ("changes", "work", "root"):
            (self.home / part).mkdir(parents=True)
        layers = ":".join(str(layer) for layer in (*self.layers, image(self.suite)))
        environ = {
            **os.environ,
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "CGROUP": str(self._cgroup),
            "LAYERS": layers,
            "HOME_OF": str(self.home),
            "NAME": self.name,
        }
        with (self.home / "console").open("wb") as console:
            self._nspawn = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "sh", "-c", BOOT],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who then power off
            )
        try:
            self._wait_until_up(time.monotonic() + timeout)
        except BaseException:
            self.poweroff(keep=True)
            raise

    def poweroff(self, keep: bool = False, timeout: float = 30) -> None:
        """End the machine and everything in it. `keep`: leave its directory and write its journal
        there."""
        nspawn, self._nspawn = self._nspawn, None
        if nspawn is None:
            return
        if keep and self.leader:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                (self.home / "journal").write_text(self.journal())
        if self.leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader, signal.SIGRTMIN + 4)  # systemd(1): start poweroff.target
        try:
            nspawn.wait(timeout if self.leader else 0)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()
        self.leader = 0
        _remove_cgroup(self._cgroup)
        shutil.rmtree(self.home / "work", ignore_errors=True)
        if not keep:
            shutil.rmtree(self.home)
        self._lock.close()

    # Commands

    def spawn(self, *command: str, **options: object) -> subprocess.Popen[str]:
        """Start a command in the machine; `options` are those of Popen."""
        inside = ["nsenter", f"--target={self.leader}", "--all", "--wdns=/", "--"]
        # nsenter forks to enter the pid namespace: what it runs shall not outlive it.
        inside += ["setpriv", "--pdeathsig=KILL", "--", *command]
        return subprocess.Popen(inside, env=ENVIRONMENT, text=True, **options)  # type: ignore[call-overload,no-any-return]

    def run(
        self, *command: str, check: bool = True, input: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. `check`: raise CommandFailed unless it exits with 0."""
        pipe = subprocess.PIPE
        with self.spawn(*command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            raise CommandFailed(
                f"{shlex.join(command)}: exit status {process.returncode}\n{out}{err}"
            )
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def out(self, *command: str, **options: object) -> str:
        """What a command prints, without the last line break."""
        return self.run(*command, **options).stdout.rstrip("\n")  # type: ignore[arg-type]

    def sh(self, script: str, **options: object) -> str:
        """What a shell script prints; it stops at the first failing command."""
        return self.out("bash", "-euo", "pipefail", "-c", script, **options)

    def journal(self, *options: str) -> str:
        """journalctl's lines of this boot; `options` select (`-u`, `-o`)."""
        return self.out("journalctl", "--boot", "--no-pager", "--quiet", *options)

    # Files

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file with this text; its directories are made."""
        self.run("install", f"-Dm{mode:o}", "/dev/stdin", path, input=text)

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def push(self, source: Path, target: str) -> None:
        """Copy a file or a directory tree to `target` (its name there, not its parent)."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(source, target.lstrip("/"), filter=_of_root)
        with self.spawn("tar", "-xC/", stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            process.stdin.buffer.write(packed.getvalue())  # type: ignore[attr-defined]
        if process.returncode:
            raise CommandFailed(f"pushing {source} to {target}")

    def _wait_until_up(self, deadline: float) -> None:
        assert self._nspawn is not None
        while not self.leader:
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                raise CommandFailed(f"no boot:\n{(self.home / 'console').read_text()}")
            time.sleep(0.02)
            self.leader = _first_of_a_pid_namespace(self._nspawn.pid)
        bus = "/run/dbus/system_bus_socket"
        while self.run("test", "-S", bus, check=False).returncode:
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                raise CommandFailed(f"no boot:\n{(self.home / 'console').read_text()}")
            time.sleep(0.05)
        left = max(1, deadline - time.monotonic())
        state = self.run(
            "systemctl", "is-system-running", "--wait", check=False, timeout=left
        ).stdout.strip()
        if state != "running":
            raise CommandFailed(f"booted {state}:\n{self.out('systemctl', '--failed')}")


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if entry.name.endswith("__pycache__"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _cgroup2() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise LookupError("no cgroup2 file system is mounted")


def _remove_cgroup(top: Path) -> None:
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()


def _first_of_a_pid_namespace(ancestor: int) -> int:
    """The pid here of the descendant that is process 1 of its own pid namespace, or 0."""
    pending = [ancestor]
    while pending:
        pid = pending.pop()
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
            if len(ids) > 2 and ids[-1] == "1":
                return pid
            pending += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return 0
