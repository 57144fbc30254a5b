"""How far a service is shut in: one row for each directive of systemd.exec(5)."""

from __future__ import annotations

from typing import NamedTuple

from sockd.settings import Settings


class Row(NamedTuple):
    """A directive's lines for `unit.hardening`; `off` is what a drop-in says to undo it."""

    name: str
    standard: tuple[str, ...]
    strict: tuple[str, ...]
    off: str
    why: str = ""


def _same(name: str, value: str, off: str = "no", why: str = "") -> Row:
    return Row(name, (value,), (value,), off, why)


ROWS = (
    _same("ProtectSystem", "strict"),
    _same("ProtectHome", "yes"),
    _same("PrivateTmp", "yes"),
    _same("PrivateDevices", "yes"),
    _same("PrivateUsers", "yes"),
    _same("PrivateMounts", "yes"),
    Row(
        "PrivateNetwork",
        (),
        ("yes",),
        "no",
        "No network at all: what it serves comes through the sockets that systemd passes.",
    ),
    Row(
        "IPAddressDeny",
        (),
        ("any",),
        "",
        "Nor does this touch them, systemd.resource-control(5).",
    ),
    _same("ProtectProc", "invisible", "default"),
    _same("ProtectClock", "yes"),
    _same("ProtectControlGroups", "yes"),
    _same("ProtectHostname", "yes"),
    _same("ProtectKernelLogs", "yes"),
    _same("ProtectKernelModules", "yes"),
    _same("ProtectKernelTunables", "yes"),
    _same("CapabilityBoundingSet", "", "~"),
    _same("NoNewPrivileges", "yes"),
    _same("LockPersonality", "yes"),
    _same(
        "MemoryDenyWriteExecute",
        "yes",
        why="Refuses just-in-time compilers (numba, node as a child): "
        "memory is written or executed, not both.",
    ),
    Row("RestrictAddressFamilies", ("AF_UNIX AF_INET AF_INET6",), ("AF_UNIX",), ""),
    _same("RestrictNamespaces", "yes"),
    _same("RestrictRealtime", "yes"),
    _same("RestrictSUIDSGID", "yes"),
    _same("SystemCallArchitectures", "native", ""),
    Row(
        "SystemCallFilter",
        ("@system-service", "~@privileged @resources"),
        ("@system-service", "~@privileged @resources"),
        "",
    ),
    _same(
        "SystemCallErrorNumber",
        "EPERM",
        "",
        "An error that the application can handle and log, instead of a worker killed by SIGSYS.",
    ),
)

UNDONE = {row.name: row.off for row in ROWS}


def directives(settings: Settings, *, reads_home: bool) -> list[tuple[str, str, str]]:
    """Name, value and why, in the order of the rows; none of them with `off`."""
    level = settings.unit.hardening
    found = []
    for row in ROWS:
        values: tuple[str, ...] = getattr(row, level) if level != "off" else ()
        why = row.why
        if row.name == "ProtectHome" and reads_home and values:
            values, why = (
                ("read-only",),
                'Not "yes": some of what the configuration names lies there.',
            )
        for number, value in enumerate(values):
            found.append((row.name, value, "" if number else why))
    return found
