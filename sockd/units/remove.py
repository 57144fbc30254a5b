"""An installation undone: only what sockd generated goes, and never a service's data."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sockd.errors import SockdError
from sockd.units import layout, tools
from sockd.units.install import BROKEN, reload_nginx, reload_systemd, test_nginx
from sockd.units.place import Backup, Entry, explained, may_write


def uninstall(name: str, *, root: str = "/") -> list[str]:
    """Stop and disable `name`, and remove its units and its site below `root`; what was done, a
    line each. What sockd did not generate is left and named. SockdError, PermissionDenied."""
    machine = Path(root).absolute()
    live = layout.is_live(machine)
    with explained():
        units, places = layout.possible(name, machine)
        ours = [entry for entry in units if _is_ours(entry)]
        sites = [entry for entry in places if _is_ours(entry)]
        may_write(ours + sites)
        report = [
            f"{entry.path}: left, sockd did not generate it"
            for entry in units + places
            if entry.is_foreign()
        ]
        if sites:
            report += _remove_site(sites, live)
        if ours:
            if live and tools.systemd_runs():
                report += _stop(sorted({layout.unit_of(entry) for entry in ours}))
            report += [_removed(entry) for entry in ours]
            if live:
                report += reload_systemd([])
    if not ours and not sites:
        report.append(f"nothing of {name} is installed")
    return report + _left(name, machine)


def _is_ours(entry: Entry) -> bool:
    return entry.is_placed() if entry.target else entry.is_generated()


def _remove_site(sites: list[Entry], live: bool) -> list[str]:
    """All of it, or nothing if nginx refuses what is left."""
    if not live or not tools.find("nginx"):
        return [_removed(entry) for entry in sites]
    test_nginx(BROKEN)
    backups = [Backup.of(entry.path) for entry in sites]
    report = [_removed(entry) for entry in sites]
    try:
        test_nginx("nginx refuses its configuration without the site; nothing was changed")
    except SockdError:
        for backup in reversed(backups):
            backup.restore()
        raise
    return [*report, reload_nginx()]


def _removed(entry: Entry) -> str:
    entry.path.unlink()
    with contextlib.suppress(OSError):  # drop-ins of others are there
        if entry.path.parent.name.endswith(".d") and entry.path.parent.name != "conf.d":
            entry.path.parent.rmdir()
    return f"{entry.path}: removed"


def _stop(names: list[str]) -> list[str]:
    # The socket first: it would start the service again.
    names.sort(key=lambda unit: unit.endswith(".service"))
    stopped = tools.run("systemctl", "disable", "--now", *names)
    if stopped.returncode:
        raise SockdError(
            f"systemctl disable --now {' '.join(names)} failed", detail=stopped.stdout
        )
    return [f"systemd: stopped and disabled {' and '.join(names)}"]


def _left(name: str, machine: Path) -> list[str]:
    """What an operator may want to remove, or to keep."""
    places = [
        f"etc/sockd/{name}.toml",
        f"etc/sockd/{name}.toml.d",
        f"etc/nginx/sockd/{name}",
        f"var/lib/{name}",
    ]
    for stem in (name, f"sockd@{name}"):
        places += [f"{layout.UNITS}/{stem}.{kind}.d" for kind in ("service", "socket")]
    return [f"{machine / place}: left" for place in places if (machine / place).exists()]
