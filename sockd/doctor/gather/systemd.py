"""The units of a service, and which of their files says what."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from sockd import manager
from sockd.doctor.facts import Missing, Said, Unit
from sockd.units.values import MARK


def service(name: str) -> Unit | Missing:
    """NAME.service or sockd@NAME.service: an active one first."""
    found = []
    for candidate in (f"{name}.service", f"sockd@{name}.service"):
        properties = manager.properties(candidate)
        if properties["LoadState"] == "loaded" and properties.get("ExecStart"):
            found.append(_unit(properties))
    real = [unit for unit in found if unit.active or _configured(unit)]
    if not real:
        return Missing(f"no unit runs {name}: sockd generate-units --install {name} makes it")
    return next((unit for unit in real if unit.active), real[0])


def _configured(unit: Unit) -> bool:
    """sockd@ANYTHING.service can be loaded, whatever has that name."""
    words = serve_words(unit)
    path = words[words.index("--config") + 1] if "--config" in words[:-1] else ""
    return not unit.name.startswith("sockd@") or not path or Path(path).exists()


def sockets(service: Unit, name: str) -> Sequence[Unit]:
    """Those that start it; else one of its name."""
    names = [one for one in service.get("TriggeredBy", []) if one.endswith(".socket")]
    found = [_unit(manager.properties(one)) for one in names]
    if not found:
        properties = manager.properties(service.name.removesuffix(".service") + ".socket")
        if properties["LoadState"] == "loaded":
            found.append(_unit(properties))
    return found


def serve_words(unit: Unit) -> list[str]:
    """What follows `sockd serve` in ExecStart=."""
    for command in unit.get("ExecStart", []):
        words = manager.words(command)
        for at, word in enumerate(words[:-1]):
            if word.rpartition("/")[2] == "sockd" and words[at + 1] == "serve":
                return list(words[at + 2 :])
    return []


def environment(unit: Unit) -> Mapping[str, str]:
    """SOCKD_* of the unit. Those of EnvironmentFile= are read where that is permitted."""
    assignments = list(unit.get("Environment", []))
    for path, _ in unit.get("EnvironmentFiles", []):
        try:
            assignments += shlex.split(Path(path).read_text(), comments=True)
        except (OSError, ValueError):
            continue
    pairs = (assignment.partition("=") for assignment in assignments)
    return {name: value for name, _, value in pairs if name.startswith("SOCKD_")}


def _unit(properties: Mapping[str, object]) -> Unit:
    fragment = str(properties.get("FragmentPath") or "")
    drop_ins = properties.get("DropInPaths")
    files = [fragment, *(drop_ins if isinstance(drop_ins, list) else [])]
    said: dict[str, Said] = {}
    generated = False
    for path in files:
        try:
            text = Path(path).read_text(errors="replace") if path else ""
        except OSError:
            continue
        ours = text.startswith(MARK)
        generated |= ours and path == fragment
        for line in text.splitlines():
            name, sign, _ = line.strip().partition("=")
            if sign and name[:1].isalpha():
                said[name.strip()] = Said(path, ours)
    return Unit(str(properties["Id"]), properties, said, generated)
