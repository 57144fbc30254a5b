"""The processes of a service, as /proc has them, and the versions of sockd that they are of."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sockd
from sockd import manager, memory
from sockd.config import Config
from sockd.doctor.facts import Missing, Process, Processes, Unit, Versions

CGROUPS = Path("/sys/fs/cgroup")
VERSION_TIME = 20.0  # seconds for `sockd --version`


def of_unit(unit: Unit | Missing, status: Mapping[str, Any] | Missing) -> Processes | Missing:
    """Those of the unit's control group. Where no unit runs, the master's descendants, among which
    nothing can be left over."""
    if not isinstance(unit, Missing):
        group = unit.get("ControlGroup", "")
        main = int(unit.get("MainPID", 0))
        if not group:
            return Processes(main, {})
        try:
            pids = list(_of_group(CGROUPS / group.lstrip("/")))
        except OSError as error:
            return Missing(f"{error.filename}: {error.strerror}")
        return Processes(main, _read(pids))
    if isinstance(status, Missing):
        return status
    everybody = _read([int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()])
    main = int(status["pid"])
    own: dict[int, Process] = {}
    fresh = {main} & everybody.keys()
    while fresh:
        own |= {pid: everybody[pid] for pid in fresh}
        fresh = {pid for pid, one in everybody.items() if one.parent in fresh} - own.keys()
    return Processes(main, own)


def versions(unit: Unit | Missing, settings: Config | Missing) -> Versions:
    own = sockd.__version__
    started: str | Missing = unit if isinstance(unit, Missing) else _started(unit)
    venv: str | Missing = settings if isinstance(settings, Missing) else ""
    if not isinstance(settings, Missing) and settings.settings.app.venv:
        venv = _installed(Path(settings.settings.app.venv))
    return Versions(own, started, venv)


def _of_group(path: Path) -> Iterator[int]:
    for file in [path / "cgroup.procs", *path.glob("**/*/cgroup.procs")]:
        yield from map(int, file.read_text().split())


def _read(pids: list[int]) -> dict[int, Process]:
    found = {}
    for pid in pids:
        process = _process(pid)
        if process is not None:
            found[pid] = process
    return found


def _process(pid: int) -> Process | None:
    """None when it is gone."""
    place = Path(f"/proc/{pid}")
    try:
        stat = (place / "stat").read_text(errors="replace")
        command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        uid = place.stat().st_uid
    except OSError:
        return None
    name, _, rest = stat.partition(" (")[2].rpartition(") ")
    size = memory.of(pid)
    return Process(
        pid,
        int(rest.split()[1]),
        name,
        command.strip(),
        uid,
        _stale(place),
        size.private if size else None,
        size.shared if size else None,
    )


def _stale(place: Path) -> bool | None:
    """Whether it has a compiled module of sockd's mapped whose file has been replaced."""
    try:
        lines = (place / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return any(
        line.endswith(" (deleted)") and "/sockd/" in line and ".so" in line for line in lines
    )


def _started(unit: Unit) -> str | Missing:
    """The version of the sockd that ExecStart= names."""
    for command in unit.get("ExecStart", []):
        for word in manager.words(command):
            if word.rpartition("/")[2] == "sockd":
                return _ask(word)
    return Missing(f"{unit.name} does not start sockd")


def _ask(program: str) -> str | Missing:
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERSION_TIME,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Missing(f"{program} --version does not work")
    words = done.stdout.split()
    return (
        words[1]
        if done.returncode == 0 and len(words) == 2
        else Missing(f"{program} --version does not work")
    )


def _installed(venv: Path) -> str:
    """The version of sockd in a virtual environment, PEP 376's directory; empty without."""
    for place in venv.glob("lib/python3*/site-packages/[sS]ockd-*.dist-info"):
        return place.name.removesuffix(".dist-info").partition("-")[2]
    return ""
