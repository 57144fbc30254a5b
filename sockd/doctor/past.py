"""What went wrong in the last day, by the journal: one row for each kind of trouble."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sockd.doctor.facts import Facts, Finding, Missing, have, note, problem

DAY = "in the last day"


class Trouble(NamedTuple):
    name: str
    pattern: re.Pattern[str]
    what: str
    """`{count}` of them."""
    why: str
    mend: str
    """`{name}` is the service's, `{unit}` its unit's."""
    serious: bool = True


TROUBLES = (
    Trouble(
        "memory",
        re.compile(r"by the OOM killer|killed by the OOM killer"),
        "workers were killed for memory: {count}",
        "each took its requests along",
        "recycle.max_memory below the limit, fewer workers or a larger MemoryMax=; "
        "journalctl -u {unit} -g 'OOM killer'",
    ),
    Trouble(
        "crashes",
        re.compile(
            r"(?m)^worker \S+: died, (?!.*OOM killer)|^worker \S+ .* while it booted|"
            r"^fork server died"
        ),
        "workers died: {count}",
        "each took its requests along",
        "journalctl -u {unit} -g 'died' shows how, with the last words of each",
    ),
    Trouble(
        "deadlines",
        re.compile(r"\(timeouts\.request\)"),
        "requests ran longer than timeouts.request: {count}",
        "their clients got 504, and a worker that was stuck was replaced",
        "journalctl -u {unit} -g timeouts.request shows where they were, with the stacks",
    ),
    Trouble(
        "boots",
        re.compile(
            r"(?m)^the application failed to boot before|did not boot within|"
            r"^generation \d+: .*(failed|did not load)|^generation \d+ failed|"
            r"Failed to start|failed to boot"
        ),
        "the application failed to boot: {count}",
        "a service that is started meanwhile does not come up",
        "journalctl -u {unit} -p err shows the tracebacks; sockd check {name}",
    ),
    Trouble(
        "watchdog",
        re.compile(r"Watchdog timeout"),
        "systemd ended a master that hung: {count}",
        "that is a mistake in sockd, or a machine that stood still",
        "journalctl -u {unit} -g Watchdog; please report it",
    ),
    Trouble(
        "dropped",
        re.compile(r"Suppressed \d+ messages"),
        "journald dropped entries: {count} times",
        "the entry that explains a night may be among them",
        "sockd generate-units --install {name}, and an application that logs less",
    ),
    Trouble(
        "cut",
        re.compile(r"connections? cut at the drain deadline"),
        "requests were cut at the drain deadline: {count} times",
        "their clients got no answer",
        "timeouts.drain above the longest request, then sockd generate-units --install {name}",
        serious=False,
    ),
)


def trouble(name: str) -> Callable[[Facts], Iterator[Finding]]:
    """The check of one of TROUBLES."""
    (row,) = (one for one in TROUBLES if one.name == name)
    return lambda facts: _look(facts, row)


def _look(facts: Facts, row: Trouble) -> Iterator[Finding]:
    journal = have(facts.journal)
    found = [message for message in journal.messages if row.pattern.search(message)]
    if not found:
        return
    count = f"{len(found)}{'' if journal.complete else ' or more'}"
    unit = f"{facts.name}.service" if isinstance(facts.unit, Missing) else facts.unit.name
    last = found[-1].strip().splitlines()[0]
    text = f"{row.what.format(count=count)} {DAY}; the last: {last[:200]}"
    mend = row.mend.format(name=facts.name, unit=unit)
    yield problem(text, row.why, mend) if row.serious else note(text, row.why, mend)


def last_reload(facts: Facts) -> Iterator[Finding]:
    error = have(facts.status)["reloads"]["last_error"]
    if error:
        yield problem(
            f"the last reload failed: {error.strip().splitlines()[-1][:200]}",
            "the code before it serves, and a restart would bring what does not load",
            f"sockd check {facts.name}; systemctl reload {facts.name}",
        )


def enough_workers(facts: Facts) -> Iterator[Finding]:
    status = have(facts.status)
    ready = [worker for worker in status["workers"] if worker["state"] == "ready"]
    wanted = status["wanted"] or 0
    booting = [one for one in status["workers"] if one["state"] in ("spawning", "booting")]
    if status["state"] == "serving" and len(ready) + len(booting) < wanted:
        yield problem(
            f"{len(ready)} of {wanted} workers are ready",
            "the others die at boot, and the next attempts wait",
            f"sockd status {facts.name}; journalctl -u {facts.name} -p warning -n 50",
        )
