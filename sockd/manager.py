"""systemd's manager, asked over D-Bus: units and their properties, typed.

Sources: org.freedesktop.systemd1(5), busctl(1). Nothing here needs root.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from sockd.errors import SockdError

_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = (_SYSTEMD, "/org/freedesktop/systemd1", f"{_SYSTEMD}.Manager")


def properties(unit: str) -> dict[str, Any]:
    """Those of every unit and those of its kind, name → value, as D-Bus has them: times in
    microseconds, no limit is 2⁶⁴-1. LoadState says whether there is such a unit. SockdError."""
    path = _call(*_MANAGER, "LoadUnit", "s", unit)
    kind = unit.rpartition(".")[2].capitalize()
    return {
        name: value["data"]
        for interface in ("Unit", kind)
        for name, value in _call(
            *(_SYSTEMD, path, "org.freedesktop.DBus.Properties", "GetAll"),
            *("s", f"{_SYSTEMD}.{interface}"),
        ).items()
    }


def words(command: Sequence[Any]) -> list[str]:
    """The command line of an ExecStart= or the like, as systemd runs it; variables stay as they
    are written. systemd keeps the `$$` that stands for a `$`, systemd.service(5)."""
    return [str(word).replace("$$", "$") for word in command[1]]


def shown(unit: str, *names: str) -> dict[str, str]:
    """Properties as `systemctl show` writes them. SockdError."""
    lines = _output("systemctl", "show", "--property=" + ",".join(names), unit).splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _call(*words: str) -> Any:
    return json.loads(_output("busctl", "--json=short", "call", *words))["data"][0]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise SockdError(f"cannot execute {command[0]}: {error.strerror}") from None
    if done.returncode:
        raise SockdError(f"{command[0]} failed", detail=done.stderr.strip())
    return done.stdout
