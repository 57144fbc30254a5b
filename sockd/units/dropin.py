"""What one instance of the packaged `sockd@` has otherwise, as drop-ins: systemd.unit(5)."""

from __future__ import annotations

from sockd.config import Config
from sockd.units.hardening import UNDONE
from sockd.units.sections import parse
from sockd.units.values import MARK

FILE = "sockd.conf"

_LISTS = frozenset(
    {
        "CapabilityBoundingSet",
        "ConditionFileIsExecutable",
        "ExecReload",
        "ExecStart",
        "ExecStopPost",
        "ListenStream",
        "RestrictAddressFamilies",
        "RuntimeDirectory",
        "StateDirectory",
        "SystemCallArchitectures",
        "SystemCallFilter",
    }
)
"""Of the packaged directives those that add up; an empty value forgets what was said before."""

_UNDONE = {
    **UNDONE,
    "ConditionFileIsExecutable": "",
    "DynamicUser": "no",
    "ExecStopPost": "",
    "WatchdogSec": "0",
}
"""What is said for those that are not to be set. Any other does no harm without its neighbours:
SocketMode= where there is no Unix socket."""


def difference(config: Config, kind: str, packaged: str, wanted: str) -> str:
    """The text of a drop-in that makes `packaged` say what `wanted` says."""
    before, after = parse(packaged), parse(wanted)
    lines = [
        f"{MARK} from {config.path}",
        f"# Where it wants sockd@{config.name}.{kind} otherwise than the packaged sockd@.{kind}.",
        "# Do not edit: change the configuration, then run",
        f"#   sockd generate-units --instance --install {config.name}",
        "# What that cannot say goes into another drop-in, which stays:",
        f"#   systemctl edit sockd@{config.name}.{kind}",
    ]
    for section in after:
        old, new = before[section], after[section]
        changed = []
        for name in [*new, *(name for name in old if name not in new)]:
            values = new.get(name, [])
            if values == old.get(name, []):
                continue
            if name in old and name in _LISTS and values:
                changed.append(f"{name}=")
            elif not values and name in _UNDONE:
                values = [_UNDONE[name]]
            changed += [f"{name}={value}" for value in values]
        if changed:
            lines += ["", f"[{section}]", *changed]
    return "\n".join(lines) + "\n"
