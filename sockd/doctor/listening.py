"""The sockets: systemd's units of them, the kernel's queue, and who else is there."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from sockd.doctor.facts import (
    Facts,
    Finding,
    Missing,
    Place,
    Unit,
    have,
    is_gone,
    note,
    problem,
)
from sockd.doctor.service import mend

ENABLED = ("enabled", "enabled-runtime", "static", "generated", "alias", "linked")


def units(facts: Facts) -> list[Unit]:
    return list(have(facts.sockets))


def active(facts: Facts) -> Iterator[Finding]:
    for unit in units(facts):
        if unit.active:
            continue
        state = unit.get("ActiveState")
        why = "connections are refused" if state == "failed" else "nobody listens"
        yield problem(
            f"{unit.name} is {state}" + (f" ({unit.get('Result')})" if state == "failed" else ""),
            f"{why}; the service is not started by its clients",
            f"systemctl start {unit.name}"
            + (f"; journalctl -u {unit.name} says why it failed" if state == "failed" else ""),
        )


def enabled(facts: Facts) -> Iterator[Finding]:
    found = units(facts)
    service = have(facts.unit)
    if not found or service.get("UnitFileState") in ENABLED:
        return
    if not any(unit.get("UnitFileState") in ENABLED for unit in found):
        yield problem(
            f"neither {found[0].name} nor {service.name} is enabled",
            "after the next boot of the machine nobody listens",
            f"systemctl enable {found[0].name}",
        )


def limits(facts: Facts) -> Iterator[Finding]:
    """Those that fail a socket."""
    for unit in units(facts):
        for directive, name, section, why in (
            (
                "StartLimitIntervalSec",
                "StartLimitIntervalUSec",
                "Unit",
                "five starts in ten seconds would fail it: connections refused",
            ),
            (
                "TriggerLimitIntervalSec",
                "TriggerLimitIntervalUSec",
                "Socket",
                "clients that knock at a service that cannot start would fail it, for good",
            ),
        ):
            if unit.get(name, 0):
                yield problem(
                    f"{directive} of {unit.name} is not 0",
                    why,
                    mend(facts, unit, directive, "0", section),
                )


def backlog(facts: Facts) -> Iterator[Finding]:
    """What is asked of listen(2) is cut to net.core.somaxconn, without a word."""
    most = facts.machine.kernel.get("net.core.somaxconn")
    wanted = have(facts.config).settings.limits.backlog
    if not isinstance(facts.sockets, Missing):
        for unit in facts.sockets:
            if unit.get("Backlog", wanted) < wanted:
                yield problem(
                    f"Backlog={unit.get('Backlog')} of {unit.name}, limits.backlog is {wanted}",
                    "the unit says how many connections wait while the service boots or restarts; "
                    "others are refused",
                    mend(facts, unit, "Backlog", str(wanted), "Socket", restart=True),
                )
    if most is not None and most < wanted:
        yield problem(
            f"net.core.somaxconn is {most}, limits.backlog {wanted}",
            "the kernel queues the lower of the two; beyond it connections are refused while the "
            "service boots or restarts",
            f"sysctl -w net.core.somaxconn={wanted}, and the same in /etc/sysctl.d/sockd.conf, "
            f"then systemctl restart {_socket(facts)}",
        )


def strangers(facts: Facts) -> Iterator[Finding]:
    """Somebody else has the address."""
    for one in have(facts.listening):
        who = ", ".join(
            f"{name} (pid {pid})" for name, pid in zip(one.names, one.pids, strict=False)
        )
        yield problem(
            f"{one.address} is taken by {who or 'a process that only root can see'}",
            "the socket cannot be made there, or clients reach somebody else",
            f"systemctl status {one.pids[0]} says whose it is; stop that, then "
            f"systemctl start {_socket(facts)}"
            if one.pids
            else f"as root: sockd doctor {facts.name}",
        )


def paths(facts: Facts) -> Iterator[Finding]:
    """The file of a Unix socket may be removed, or be another's, while systemd listens on."""
    if not any(unit.active for unit in units(facts)):
        return
    for address in facts.addresses():
        place = facts.places.get(address)
        if not address.startswith("/") or place is None:
            continue
        if is_gone(place):
            found = "is gone"
        elif isinstance(place, Place) and not stat.S_ISSOCK(place.mode):
            found = "is no socket"
        else:
            continue
        yield problem(
            f"{address} {found}, though {_socket(facts)} is active",
            "nginx cannot connect: it goes by the name",
            f"systemctl restart {_socket(facts)}",
        )


def no_service_by_hand(facts: Facts) -> Iterator[Finding]:
    """A master that systemd did not start has the place of one that it would."""
    service = have(facts.unit)
    status = facts.status
    if isinstance(status, Missing) or service.get("MainPID") in (0, None, status["pid"]):
        return
    yield note(
        f"the master that answers is pid {status['pid']}, that of {service.name} "
        f"is {service.get('MainPID')}",
        "two of one name share a control socket",
        f"kill {status['pid']}",
    )


def _socket(facts: Facts) -> str:
    if not isinstance(facts.sockets, Missing) and facts.sockets:
        return facts.sockets[0].name
    return f"{facts.name}.socket"
