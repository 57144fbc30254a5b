"""Rendered units as sections of directives: systemd.syntax(7), without continued lines."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sockd.errors import ConfigError
from sockd.units.escape import Verbatim, line

Directives = dict[str, list[str]]
"""Name → its values, in the order in which they stand."""


def parse(text: str) -> dict[str, Directives]:
    """Section → its directives."""
    found: dict[str, Directives] = {}
    section: Directives = {}
    for row in text.splitlines():
        if row.startswith("["):
            section = found.setdefault(row.strip("[]"), {})
        elif row and not row.startswith("#"):
            name, _, value = row.partition("=")
            section.setdefault(name, []).append(value)
    return found


def override(text: str, section: str, given: Mapping[str, str]) -> str:
    """`text` with the directives `given`, in systemd's syntax, in place of those that `section`
    has of these names; the others follow at its end. ConfigError."""
    if not given:
        return text
    key = f"unit.{section.lower()}"
    for name, value in given.items():
        if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name):
            raise ConfigError(f"{key}: {name!r} cannot be the name of a directive")
        if name in SOCKDS_OWN:
            raise ConfigError(f"{key}: {name}= is what sockd works by, and {SOCKDS_OWN[name]}")
        line(Verbatim(value))
    made: list[str] = []
    missing = dict(given)
    here = False
    for row in text.splitlines():
        if row.startswith("["):
            if here:
                _append(made, key, missing)
            here = row == f"[{section}]"
        name = row.partition("=")[0]
        if not (here and name in given):
            made.append(row)
        elif name in missing:
            made += [f"# As {key} says:", f"{name}={missing.pop(name)}"]
    return "\n".join(made) + "\n"


SOCKDS_OWN = {
    "Type": "cannot be another",
    "NotifyAccess": "cannot be another",
    "Accept": "cannot be another",
    "User": "is given by unit.user",
    "Group": "is given by unit.group",
    "DynamicUser": "is given by unit.user",
    "SocketUser": "is given by unit.socket_user",
    "SocketGroup": "is given by unit.socket_group",
    "SocketMode": "is given by unit.socket_mode",
    "ListenStream": "is given by bind",
    "Backlog": "is given by limits.backlog",
    "WatchdogSec": "is given by unit.watchdog",
    "RestartSec": "is given by unit.restart_delay",
}
"""Directives that an option of its own gives, or that cannot be otherwise."""


def _append(made: list[str], key: str, missing: Mapping[str, str]) -> None:
    if missing:
        while made[-1] == "":
            made.pop()
        made += ["", f"# As {key} says:", *(f"{n}={v}" for n, v in missing.items()), ""]
