"""The unit of the service, against what was verified about systemd (docs/units.md)."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sockd.doctor.facts import Facts, Finding, Missing, Unit, Unknown, have, note, problem
from sockd.settings import Settings

INFINITY = (1 << 64) - 1
MOST_LINES = 10_000  # journald's own LogRateLimitBurst=, journald.conf(5)
LONGEST_PAUSE = 5e6  # µs before a crashed master is started again
TERM = 15
BACKOFF = 30.0  # s; the longest that a master waits before it boots after failed boots


def loaded(facts: Facts) -> Iterator[Finding]:
    unit = have(facts.unit)
    state = unit.get("ActiveState")
    if state == "failed":
        yield problem(
            f"{unit.name} has failed ({unit.get('Result')})",
            "nobody serves until it is started, by a client or by hand",
            f"journalctl -u {unit.name} -n 50, then systemctl start {unit.name}",
        )
    if unit.get("NeedDaemonReload"):
        yield problem(
            f"files of {unit.name} have changed since systemd read them",
            "systemd goes by the old ones",
            "systemctl daemon-reload",
        )


def runs_sockd(facts: Facts) -> Iterator[Finding]:
    unit = have(facts.unit)
    commands = unit.get("ExecStart", [])
    words = commands[0][1] if commands else []
    if not any(word.rpartition("/")[2] == "sockd" for word in words):
        yield problem(
            f"{unit.name} does not start sockd: ExecStart={' '.join(words)}",
            "what follows is about a unit of sockd's",
            f"sockd generate-units --install {facts.name}",
        )
    elif words and words[0].rpartition("/")[2] in ("sh", "bash", "dash"):
        yield problem(
            f"{unit.name} starts sockd through {words[0]}",
            "systemd would signal the shell, and hear nothing from a process that is not its main",
            f"in {_file(unit, 'ExecStart')}: ExecStart={_sockd(facts)} serve {facts.name}; "
            "then systemctl daemon-reload",
        )


def reload_command(facts: Facts) -> Iterator[Finding]:
    unit = have(facts.unit)
    commands = [command[1] for command in unit.get("ExecReload", [])]
    if any("reload" in words and _is_sockd(words) for words in commands):
        return
    shown = " ".join(commands[0]) if commands else ""
    yield problem(
        f"ExecReload={shown}" if shown else "there is no ExecReload=",
        "systemctl reload would say that all is well when the new code does not load"
        if shown
        else "systemctl reload does not work",
        mend(facts, unit, "ExecReload", f"{_sockd(facts)} reload {facts.name}"),
    )


def tied_to_socket(facts: Facts) -> Iterator[Finding]:
    unit = have(facts.unit)
    if not any(name.endswith(".socket") for name in unit.get("TriggeredBy", [])):
        yield problem(
            f"no socket unit belongs to {unit.name}",
            "sockd listens by itself, so each restart refuses connections",
            f"sockd generate-units --install {facts.name}",
        )
        return
    sockets = {name for name in unit.get("TriggeredBy", []) if name.endswith(".socket")}
    if not sockets & set(unit.get("Requires", [])):
        named = sorted(sockets)[0]
        yield note(
            f"{unit.name} does not require {named}",
            "started by itself, it would listen elsewhere",
            f"systemctl edit {unit.name}: [Unit] Requires={named} After={named}",
        )


class Rule(NamedTuple):
    """What a directive should say. `right(value, settings, rendered)`: it does; `wanted` is what
    to write, empty for what sockd renders."""

    directive: str
    right: Callable[[Any, Settings, str], bool]
    wanted: str
    why: str
    section: str = "Service"
    property: str = ""
    """Where it is not called as the directive is."""
    restart: bool = False
    """A change needs a restart of the service, beyond daemon-reload."""
    as_rendered: bool = False
    """It is right if it is as sockd renders it."""
    running: bool = False
    """It can be seen only while the service runs."""


def _is(text: str) -> Callable[[Any, Settings, str], bool]:
    return lambda value, settings, rendered: value == text


RULES = (
    Rule(
        "Type",
        _is("notify"),
        "notify",
        "systemctl start would not wait for workers that can answer, nor fail with them",
        restart=True,
    ),
    Rule(
        "NotifyAccess",
        _is("main"),
        "main",
        "with less systemd hears nothing; with more any process of the application speaks for it",
    ),
    Rule(
        "StartLimitIntervalSec",
        lambda value, *_: value == 0,
        "0",
        "a service that fails a few times in a row would fail its socket: refused connections",
        section="Unit",
        property="StartLimitIntervalUSec",
    ),
    Rule(
        "Restart",
        lambda value, settings, _: (
            value == "on-failure" or (value == "always" and not settings.timeouts.idle_exit)
        ),
        "on-failure",
        "a crashed master comes back only with a client, and an idle exit is to last",
    ),
    Rule(
        "RestartSec",
        lambda value, *_: value <= LONGEST_PAUSE,
        "100ms",
        "clients wait for so long after a crash",
        property="RestartUSec",
    ),
    Rule(
        "RestartPreventExitStatus",
        lambda value, *_: not any(value),
        "",
        "the socket starts the service all the same, without any pause between",
    ),
    Rule(
        "KillMode",
        lambda value, _, rendered: value == rendered,
        "",
        "sockd counts on it for what becomes of its workers when the master ends",
        as_rendered=True,
    ),
    Rule(
        "KillSignal",
        lambda value, *_: value == TERM,
        "SIGTERM",
        "another signal does not drain: requests in hand are cut",
    ),
    Rule(
        "TimeoutStopSec",
        lambda value, settings, _: value >= (settings.timeouts.drain + 1) * 1e6,
        "",
        "systemd would kill what timeouts.drain gives time to finish",
        property="TimeoutStopUSec",
    ),
    Rule(
        "TimeoutStartSec",
        lambda value, settings, _: value >= (settings.timeouts.boot + BACKOFF) * 1e6,
        "",
        "systemd would kill a start that timeouts.boot and the wait after failed boots allow, "
        "and without the reason",
        property="TimeoutStartUSec",
    ),
    Rule(
        "WatchdogSec",
        lambda value, settings, _: value not in (0, INFINITY) or not settings.unit.watchdog,
        "",
        "a master that hangs would stay",
        property="WatchdogUSec",
        restart=True,
        running=True,
    ),
    Rule(
        "OOMPolicy",
        _is("continue"),
        "continue",
        "one worker that the kernel kills for memory would stop the whole service",
    ),
    Rule(
        "RuntimeDirectoryPreserve",
        lambda value, *_: value in ("restart", "yes"),
        "restart",
        "the count of failed boots would be lost, and with it the pause between them",
    ),
)


def rule(directive: str) -> Callable[[Facts], Iterator[Finding]]:
    """The check of one of RULES."""
    (found,) = (one for one in RULES if one.directive == directive)
    return lambda facts: _judge(facts, found)


def _judge(facts: Facts, rule: Rule) -> Iterator[Finding]:
    unit = have(facts.unit)
    name = rule.property or rule.directive
    if name not in unit.properties:
        raise Unknown(f"this systemd does not tell {name}")
    if rule.running and not unit.get("MainPID"):
        raise Unknown(f"systemd tells {rule.directive}= of a service that runs")
    value, settings = unit.get(name), have(facts.config).settings
    rendered = _rendered(facts, rule.section, rule.directive)
    if rule.as_rendered:
        have(facts.rendered)
    if not rule.right(value, settings, rendered):
        yield problem(
            f"{rule.directive}={_signal(value) if name == 'KillSignal' else shown(value)}"
            f"{_said(unit, rule.directive)}",
            rule.why,
            mend(facts, unit, rule.directive, rule.wanted or rendered, rule.section, rule.restart),
        )


def rate_limit(facts: Facts) -> Iterator[Finding]:
    unit = have(facts.unit)
    burst = unit.get("LogRateLimitBurst", 0)
    if burst <= MOST_LINES:
        yield problem(
            f"LogRateLimitBurst={burst or MOST_LINES}{_said(unit, 'LogRateLimitBurst')}",
            "tracebacks come in bursts, and journald would drop the entry about a killed worker",
            mend(facts, unit, "LogRateLimitBurst", "100000", restart=True),
        )


def control_directory(facts: Facts) -> Iterator[Finding]:
    unit = have(facts.unit)
    wanted = f"sockd/{facts.name}"
    found = unit.get("RuntimeDirectory", [])
    if wanted not in found:
        yield problem(
            f"RuntimeDirectory={' '.join(found)}{_said(unit, 'RuntimeDirectory')}",
            f"sockd status, reload and stop look for /run/{wanted}/control.sock",
            mend(facts, unit, "RuntimeDirectory", wanted, restart=True),
        )


def store(facts: Facts) -> Iterator[Finding]:
    """The fd store, where the unit that sockd renders has one."""
    unit = have(facts.unit)
    wanted = _rendered(facts, "Service", "FileDescriptorStoreMax")
    found = unit.get("FileDescriptorStoreMax", 0)
    if wanted.isdigit() and found < int(wanted):
        yield problem(
            f"FileDescriptorStoreMax={found}{_said(unit, 'FileDescriptorStoreMax')}",
            "idle connections are handed to the next master through it, and would be closed",
            mend(facts, unit, "FileDescriptorStoreMax", wanted, restart=True),
        )


def _rendered(facts: Facts, section: str, directive: str) -> str:
    if isinstance(facts.rendered, Missing):
        return ""
    return next(iter(facts.rendered.get(section, {}).get(directive, [])[-1:]), "")


def mend(
    facts: Facts,
    unit: Unit,
    directive: str,
    value: str,
    section: str = "Service",
    restart: bool = False,
) -> str:
    """How the unit comes to say so. `restart`: daemon-reload is not enough."""
    after = f"systemctl restart {unit.name}" if restart else ""
    said = unit.said.get(directive)
    if said is not None and not said.generated:
        return _then(f"in {said.file}: {directive}={value}", "systemctl daemon-reload", after)
    if said is None and not unit.generated:
        return _then(f"systemctl edit {unit.name}: [{section}] {directive}={value}", after)
    again = f"sockd generate-units --install {facts.name}"
    if not isinstance(facts.config, Missing) and (directive in facts.config.settings.unit.service):
        place = facts.config.path or "the flags"
        return _then(f"take {directive} out of unit.service in {place}", again, after)
    return _then(again, after)


def _then(*steps: str) -> str:
    return ", then ".join(step for step in steps if step)


def _said(unit: Unit, directive: str) -> str:
    said = unit.said.get(directive)
    return f" (in {said.file})" if said else " (systemd's default)"


def _file(unit: Unit, directive: str) -> str:
    said = unit.said.get(directive)
    return said.file if said else unit.get("FragmentPath", unit.name)


def _is_sockd(words: list[str]) -> bool:
    return any(word.rpartition("/")[2] == "sockd" for word in words)


def _sockd(facts: Facts) -> str:
    """The program that the unit starts."""
    unit = have(facts.unit)
    for command in unit.get("ExecStart", []):
        for word in command[1]:
            if word.endswith("/sockd"):
                return str(word)
    return "/usr/bin/sockd"


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else str(number)


def shown(value: Any) -> str:
    """A property as systemd's files would have it; only times are so large."""
    if isinstance(value, bool) or not isinstance(value, int):
        if isinstance(value, list):
            return " ".join(re.sub(r"[\[\],]", " ", str(value)).split())
        return str(value)
    if value >= INFINITY:
        return "infinity"
    if value >= 1000:
        seconds = value / 1e6
        return f"{math.floor(seconds)}s" if seconds == int(seconds) else f"{value / 1e3:g}ms"
    return str(value)
