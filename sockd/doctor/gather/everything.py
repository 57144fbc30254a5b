"""The facts of one service."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sockd import client, config, units
from sockd.config import Config
from sockd.doctor.facts import Facts, Missing, Unit, Unknown
from sockd.doctor.gather import journal, machine, nginx, processes, systemd
from sockd.errors import NotRunning, PermissionDenied, SockdError
from sockd.units import sections

Load = Callable[[Sequence[str], Mapping[str, str]], Config]
"""Arguments of `sockd serve` and its environment → the configuration. SockdError."""

NO_SYSTEMD = Missing("systemd does not run here")


def gather(name: str, load: Load, *, connections: int = 0) -> Facts:
    """`connections`: what the database allows; 0: not told."""
    unit, sockets = _units(name)
    settings, error = _config(name, unit, load)
    status = _status(name)
    if isinstance(unit, Missing) and isinstance(status, Missing) and error:
        raise NotRunning(f"no service {name}: it does not run, and has no unit\n{error}")
    found = processes.of_unit(unit, status)
    facts = Facts(
        name=name,
        config=settings,
        config_error=error,
        unit=unit,
        sockets=sockets,
        rendered=_rendered(settings),
        status=status,
        processes=found,
        listening=(),
        nginx=Missing("not yet looked at"),
        journal=journal.of_unit(unit),
        machine=machine.of_unit(unit, None if isinstance(status, Missing) else status["pid"]),
        places={},
        versions=processes.versions(unit, settings),
        drift=_drift(name, settings),
        changed_at=_changed_at(settings),
        now=time.time(),
        monotonic_usec=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000,
        connections=connections,
    )
    proxy, user = nginx.look()
    facts = replace(facts, nginx=proxy)
    try:
        addresses = facts.addresses()
    except Unknown:
        addresses = []
    return replace(
        facts,
        listening=_strangers(facts, addresses),
        places=machine.places(_paths(facts, addresses), user),
    )


def _units(name: str) -> tuple[Unit | Missing, Sequence[Unit] | Missing]:
    if not client.systemd_runs():
        return NO_SYSTEMD, NO_SYSTEMD
    try:
        service = systemd.service(name)
        if isinstance(service, Missing):
            return service, service
        return service, systemd.sockets(service, name)
    except SockdError as error:
        why = Missing(f"{error}: {error.detail}" if error.detail else str(error))
        return why, why


def _config(name: str, unit: Unit | Missing, load: Load) -> tuple[Config | Missing, str]:
    """As the unit's sockd reads it, where there is a unit; and what is wrong with it."""
    words: Sequence[str] = [name]
    environ: Mapping[str, str] = {}
    if not isinstance(unit, Missing):
        words = systemd.serve_words(unit) or words
        environ = systemd.environment(unit)
    try:
        return load(words, environ), ""
    except PermissionDenied as error:
        return Missing(str(error)), ""
    except SockdError as error:
        return Missing("the configuration cannot be loaded"), str(error)


def _status(name: str) -> Mapping[str, Any] | Missing:
    try:
        return client.status(client.locate(name, {**os.environ, "RUNTIME_DIRECTORY": ""}))
    except SockdError as error:
        return Missing(str(error))


def _rendered(
    settings: Config | Missing,
) -> Mapping[str, Mapping[str, Sequence[str]]] | Missing:
    if isinstance(settings, Missing):
        return settings
    try:
        made = units.render(settings)
    except SockdError as error:
        return Missing(str(error))
    return sections.parse(made[f"{settings.name}.service"])


def _drift(name: str, settings: Config | Missing) -> str | Missing:
    if isinstance(settings, Missing):
        return settings
    try:
        instance = units.is_instance(name)
        files = units.render(settings, instance=instance)
        site = f"nginx/{name}.conf"
        if not _has_site(f"{name}.conf"):
            files.pop(site, None)  # whether it should be there is another question
        if instance:
            # The packaged unit is complete without them.
            files = {file: text for file, text in files.items() if file == site or _says(text)}
        return units.compare(files)
    except SockdError as error:
        return Missing(str(error))


def _has_site(file: str) -> bool:
    places = ("sites-available", "conf.d")
    return any(Path("/etc/nginx", place, file).exists() for place in places)


def _says(drop_in: str) -> bool:
    """More than where its files lie."""
    sections_of = sections.parse(drop_in).values()
    return any(name != "RequiresMountsFor" for section in sections_of for name in section)


def _changed_at(settings: Config | Missing) -> float:
    if isinstance(settings, Missing):
        return 0.0
    times = []
    for path in config.sources_of(settings):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def _strangers(facts: Facts, addresses: Sequence[str]) -> Any:
    """Who listens where the service should, though neither systemd nor sockd does."""
    if not isinstance(facts.status, Missing):
        addresses = [
            address
            for address in addresses
            if address not in {listener["address"] for listener in facts.status["listeners"]}
            and not any(
                address.rpartition(":")[2] == listener["address"].rpartition(":")[2]
                for listener in facts.status["listeners"]
                if ":" in listener["address"] and not address.startswith("/")
            )
        ]
    own = () if isinstance(facts.sockets, Missing) else facts.sockets
    if any(unit.active for unit in own):
        return ()
    return machine.listening(addresses)


def _paths(facts: Facts, addresses: Sequence[str]) -> list[str]:
    paths = [address for address in addresses if address.startswith("/")]
    if not isinstance(facts.config, Missing):
        site = facts.config.settings.nginx
        paths += [*site.static.values(), *site.media.values()]
    if not isinstance(facts.unit, Missing):
        for kind, top in (("RuntimeDirectory", "/run"), ("StateDirectory", "/var/lib")):
            paths += [f"{top}/{name}" for name in facts.unit.get(kind, [])]
    return paths
