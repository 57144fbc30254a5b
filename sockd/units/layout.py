"""Where the files of a service lie on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sockd.units import tools
from sockd.units.dropin import FILE
from sockd.units.place import Entry

UNITS = "etc/systemd/system"
PACKAGED_UNITS = (
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
    "run/systemd/system",
    "run/systemd/generator.late",  # made from /etc/init.d
)
"""A unit in /etc takes the place of one of the same name here, systemd.unit(5)."""


def is_live(machine: Path) -> bool:
    """It is this machine, whose systemd and nginx can be told."""
    return machine.resolve() == Path("/")


def units(files: Mapping[str, str], machine: Path) -> list[Entry]:
    return [
        Entry(machine / UNITS / name, text)
        for name, text in sorted(files.items())
        if not name.startswith("nginx/")
    ]


def sites(files: Mapping[str, str], machine: Path) -> list[Entry]:
    """As this machine's packaging of nginx has its sites; none without nginx."""
    nginx = machine / "etc/nginx"
    if not nginx.is_dir() or (is_live(machine) and not tools.find("nginx")):
        return []
    entries = []
    for name, text in files.items():
        if not name.startswith("nginx/"):
            continue
        name = name.removeprefix("nginx/")
        if (nginx / "sites-available").is_dir():
            entries.append(Entry(nginx / "sites-available" / name, text))
            link = nginx / "sites-enabled" / name
            entries.append(Entry(link, target=f"/etc/nginx/sites-available/{name}"))
        else:
            entries.append(Entry(nginx / "conf.d" / name, text))
    return entries


def unit_of(entry: Entry) -> str:
    """The name of the unit that a file or drop-in is about."""
    parent = entry.path.parent.name
    return parent.removesuffix(".d") if parent.endswith(".d") else entry.path.name


def service_of(entry: Entry) -> str:
    """The NAME of the service whose unit that is."""
    return unit_of(entry).rpartition(".")[0].removeprefix("sockd@")


def other_form(entry: Entry) -> Entry:
    """The file that stands in the place of a unit's in the other form, sockd@NAME or NAME."""
    name, kind = service_of(entry), unit_of(entry).rpartition(".")[2]
    if unit_of(entry) == entry.path.name:
        return Entry(entry.path.with_name(f"sockd@{name}.{kind}.d") / FILE)
    return Entry(entry.path.parents[1] / f"{name}.{kind}")


def is_instance(name: str, root: str = "/") -> bool:
    """Whether this machine has `name` as sockd@NAME: enabled, or with drop-ins of ours."""
    directory = Path(root) / UNITS
    stem = f"sockd@{name}"
    return (directory / f"{stem}.socket.d" / FILE).exists() or any(
        (directory / target / f"{stem}.{kind}").is_symlink()
        for target, kind in (
            ("sockets.target.wants", "socket"),
            ("multi-user.target.wants", "service"),
        )
    )


def possible(name: str, machine: Path) -> tuple[list[Entry], list[Entry]]:
    """Everything, units and site, that may have been placed for `name`."""
    kinds = ("service", "socket")
    files = {f"{name}.{kind}": "" for kind in kinds}
    files |= {f"sockd@{name}.{kind}.d/{FILE}": "" for kind in kinds}
    nginx = machine / "etc/nginx"
    places = [
        Entry(
            nginx / "sites-enabled" / f"{name}.conf",
            target=f"/etc/nginx/sites-available/{name}.conf",
        ),
        Entry(nginx / "sites-available" / f"{name}.conf"),
        Entry(nginx / "conf.d" / f"{name}.conf"),
    ]
    return units(files, machine), places
