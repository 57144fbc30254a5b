"""The machine: its size and limits, files, and who listens."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sockd.doctor.facts import Listening, Machine, Missing, Place, Unit
from sockd.doctor.service import INFINITY
from sockd.identity import Identity
from sockd.master import capacity, cgroup
from sockd.master.cgroup import ControlGroup

KERNEL = ("net.core.somaxconn", "net.core.wmem_max")
CGROUPS = Path("/sys/fs/cgroup")
_LISTEN = "0A"  # of st in /proc/net/tcp, the kernel's TCP_LISTEN
_ACCEPTS = 0x10000  # of Flags in /proc/net/unix


def of_unit(unit: Unit | Missing, master: int | None) -> Machine:
    group = _group(unit)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        capacity.processors(group, _affinity(master)),
        min(group.memory or total, total),
        group.memory is not None and group.memory < total,
        {name: value for name in KERNEL if (value := _kernel(name)) is not None},
    )


def _group(unit: Unit | Missing) -> ControlGroup:
    """Its limits, also while it does not run: what the unit says, and the groups above."""
    if isinstance(unit, Missing):
        return ControlGroup()
    own = str(unit.get("ControlGroup", "")).strip("/")
    found = cgroup.of(CGROUPS / own, CGROUPS) if own else ControlGroup()
    said = [unit.get(name, INFINITY) for name in ("MemoryMax", "MemoryHigh")]
    quota = unit.get("CPUQuotaPerSecUSec", INFINITY)
    limits = [limit for limit in (*said, found.memory) if limit not in (None, INFINITY)]
    cpus = [count for count in (found.cpus, quota / 1e6 if quota != INFINITY else None) if count]
    return ControlGroup(min(cpus, default=None), min(limits, default=None))


def _affinity(master: int | None) -> int:
    try:
        return len(os.sched_getaffinity(master or 0))
    except OSError:
        return len(os.sched_getaffinity(0))


def _kernel(name: str) -> int | None:
    """None where it cannot be seen, as some are not from a network namespace."""
    try:
        return int(Path("/proc/sys", *name.split(".")).read_text())
    except (OSError, ValueError):
        return None


def places(paths: Sequence[str], proxy: Identity | None) -> dict[str, Place | OSError]:
    return {path: _place(path, proxy) for path in paths}


def _place(path: str, proxy: Identity | None) -> Place | OSError:
    try:
        found = Path(path).stat()
    except OSError as error:
        return error
    directory = stat.S_ISDIR(found.st_mode)
    wanted = 0o5 if directory else 0o2 if stat.S_ISSOCK(found.st_mode) else 0o4
    reached = None
    if proxy is not None:
        real = Path(os.path.realpath(path))
        reached = _may(proxy, found, wanted) and all(
            _may(proxy, parent.stat(), 0o1) for parent in real.parents
        )
    return Place(found.st_uid, found.st_gid, found.st_mode, directory, reached)


def _may(who: Identity, found: os.stat_result, wanted: int) -> bool:
    """What path_resolution(7) has for permissions; access control lists are not looked at."""
    if who.uid == 0:
        return True
    if found.st_uid == who.uid:
        given = found.st_mode >> 6
    elif found.st_gid in (who.gid, *who.groups):
        given = found.st_mode >> 3
    else:
        given = found.st_mode
    return given & wanted == wanted


def listening(addresses: Sequence[str]) -> list[Listening]:
    """Who listens at any of these."""
    found = []
    inodes = dict(_listeners())
    for address in addresses:
        taken = [inode for inode, other in inodes.items() if _overlap(address, other)]
        if taken:
            pids = sorted(_holders(set(taken)))
            found.append(Listening(address, tuple(pids), tuple(map(_name, pids))))
    return found


def _listeners() -> Iterator[tuple[str, str]]:
    """inode → address, of every listening stream socket: proc_pid_net(5)."""
    for file in ("tcp", "tcp6"):
        for line in _lines(f"/proc/net/{file}"):
            words = line.split()
            if words[3] == _LISTEN:
                host, _, port = words[1].rpartition(":")
                yield words[9], f"{'*' if not int(host, 16) else host}:{int(port, 16)}"
    for line in _lines("/proc/net/unix"):
        _, _, _, flags, _, _, inode, *name = line.split(None, 7)
        if name and int(flags, 16) & _ACCEPTS:
            yield inode, name[0]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:
        return []


def _overlap(address: str, other: str) -> bool:
    """`other` is hexadecimal. Two hosts with one port overlap unless both are specific; those are
    taken for different here, but for this machine's own."""
    if address.startswith("/") or other.startswith(("/", "@")):
        return address == other
    host, _, port = address.rpartition(":")
    there, _, number = other.rpartition(":")
    if port != number:
        return False
    return there == "*" or host in ("", "0.0.0.0", "[::]") or there == _hexadecimal(host)


def _hexadecimal(host: str) -> str:
    """As /proc/net/tcp writes it: words of four bytes in the machine's order."""
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        packed = socket.inet_pton(family, "127.0.0.1" if host == "localhost" else host.strip("[]"))
    except OSError:
        return ""
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _holders(inodes: set[str]) -> set[int]:
    """Processes that have one of these sockets open, as far as they may be looked at."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    pids = set()
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            descriptors = list((place / "fd").iterdir())
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                if str(descriptor.readlink()) in wanted:
                    pids.add(int(place.name))
            except OSError:
                continue
    return pids


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"
