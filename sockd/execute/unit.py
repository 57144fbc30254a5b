"""The command in a transient unit with the surroundings of the service's own.

So it has the service's user, also a dynamic one and also while the service does not run, its
state directories, credentials and sandbox; and the service's private /tmp while it runs. In the
unit `sockd exec --here` adds what the configuration says: what a unit holds can be read by every
user of the machine, so nothing of app.env_file goes there.

Sources: systemd-run(1), systemd.exec(5).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sockd import manager
from sockd.errors import NotRunning, PermissionDenied, SockdError
from sockd.execute.here import shell_status
from sockd.execute.properties import MASKS, settings_of

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
RETRY = 0.1  # s; a signal that comes before the unit is there is sent again
FOREVER = 86400.0  # s; any time would do
SYSTEMD_FAILED = range(200, 246)
"""Exit statuses of what systemd could not set up, systemd.exec(5); a command may have them too."""


class PerhapsNotStarted(SockdError):
    """The command, or systemd before it, ended with a status that systemd uses."""

    def __init__(self, code: int, unit: str) -> None:
        super().__init__(
            f"exit status {code}: unless the command itself ended so, systemd could not set up "
            f"what it runs in; journalctl -u {unit} says why"
        )
        self.exit_code = code


@dataclass(frozen=True)
class Unit:
    """A service unit that runs `sockd serve`."""

    name: str
    active: bool
    serve: Sequence[str]
    """The command line of ExecStart=."""
    properties: Mapping[str, Any]


def of_service(name: str) -> Unit:
    """The unit of the service `name`: NAME.service or sockd@NAME.service, an active one first.
    NotRunning when there is none."""
    candidates = [f"{name}.service", f"sockd@{name}.service"]
    found = [unit for unit in map(_read, candidates) if unit is not None]
    if not found:
        raise NotRunning(
            f"no unit runs {name}: sockd generate-units --install {name} makes it; "
            "with --here the command runs as you, outside of systemd"
        )
    return next((unit for unit in found if unit.active), found[0])


def run(unit: Unit, words: Sequence[str]) -> int:
    """Run the command to its end; its exit status, or 128 + N for signal N.

    stdin, stdout and stderr are the command's own. On a terminal it gets one of its own, which is
    passed on; otherwise signals that would end this process go to the command instead.
    """
    if os.geteuid() != 0:
        raise PermissionDenied(
            "systemd gives only root the surroundings of a service: run this as root, or with "
            "--here as yourself"
        )
    name = f"sockd-exec-{os.getpid()}.service"
    terminal = all(os.isatty(fd) for fd in (0, 1, 2))
    signal.pthread_sigmask(signal.SIG_BLOCK, [*FORWARDED, signal.SIGCHLD])
    command = ["systemd-run", *_options(unit, name, terminal), "--", *_inside(unit, words)]
    try:
        pid = os.posix_spawnp(
            command[0],
            command,
            {**os.environ, "SYSTEMD_ADJUST_TERMINAL_TITLE": "0"},
            # A terminal's Ctrl-C would end systemd-run and leave the command; it is passed on.
            **({} if terminal else {"setpgroup": 0}),  # type: ignore[arg-type]
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as error:
        raise SockdError(f"cannot execute systemd-run: {error.strerror}") from None
    code = _passing_signals_on(pid, name)
    if code in SYSTEMD_FAILED:
        raise PerhapsNotStarted(code, name)
    return code


def _passing_signals_on(pid: int, unit: str) -> int:
    pending: int | None = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return shell_status(status)
        if pending and _kill(unit, pending):
            pending = None
        patience = RETRY if pending else FOREVER
        got = signal.sigtimedwait({*FORWARDED, signal.SIGCHLD}, patience)
        if got and got.si_signo != signal.SIGCHLD:
            pending = got.si_signo


def _kill(unit: str, number: int) -> bool:
    done = subprocess.run(
        ["systemctl", "kill", f"--signal={number}", unit],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == 0


def _options(unit: Unit, name: str, terminal: bool) -> list[str]:
    properties = [*settings_of(unit.properties), "IgnoreSIGPIPE=no"]
    if unit.active:
        properties.append(f"JoinsNamespaceOf={unit.name}")
    return [
        *("--quiet", "--collect", "--wait", "--service-type=exec", f"--unit={name}"),
        f"--description=A command in the surroundings of {unit.name}",
        "--pty" if terminal else "--pipe",
        *(f"--property={line}" for line in properties),
    ]


def _inside(unit: Unit, words: Sequence[str]) -> list[str]:
    """`sockd exec --here` with the configuration that `sockd serve` of the unit has."""
    program, _, *rest = unit.serve
    # Variables are expanded in what systemd-run is given, unlike what the unit has: `$$` is `$`.
    inside = [program, "exec", "--here", "--in-unit", *rest, "--", *words]
    return [word.replace("$", "$$") for word in inside]


def _read(name: str) -> Unit | None:
    found = manager.properties(name)
    commands = [manager.words(command) for command in found.get("ExecStart", [])]
    if found["LoadState"] != "loaded" or not commands or commands[0][1:2] != ["serve"]:
        return None
    _, _, configuration = " ".join(commands[0]).partition(" --config ")
    if configuration and not Path(configuration).exists():
        return None  # sockd@ANYTHING.service can be loaded, whatever has that name
    found |= manager.shown(name, *MASKS)
    active = found["ActiveState"] in ("active", "reloading", "activating")
    return Unit(found["Id"], active, commands[0], found)
