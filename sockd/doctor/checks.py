"""The table of checks, and how they are made. Facts in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sockd.doctor import front, listening, past, places, processes, room, service
from sockd.doctor.facts import Facts, Finding, Unknown


class Check(NamedTuple):
    name: str
    what: str
    """What is so when it finds nothing."""
    look: Callable[[Facts], Iterator[Finding]]


def _rules() -> Iterator[Check]:
    for rule in service.RULES:
        name = f"unit.{rule.directive}"
        yield Check(name, f"{rule.directive}= is as sockd needs it", service.rule(rule.directive))


def _troubles() -> Iterator[Check]:
    for row in past.TROUBLES:
        what = row.what.partition(":")[0]
        yield Check(f"past.{row.name}", f"not {past.DAY}: {what}", past.trouble(row.name))


CHECKS = (
    Check("files.configuration", "the configuration can be loaded", places.configuration),
    Check("unit.state", "the unit is loaded and has not failed", service.loaded),
    Check("unit.ExecStart", "the unit starts sockd itself", service.runs_sockd),
    Check("unit.ExecReload", "systemctl reload waits for the outcome", service.reload_command),
    Check("unit.socket", "a socket unit belongs to the service", service.tied_to_socket),
    *_rules(),
    Check("unit.LogRateLimitBurst", "journald keeps bursts", service.rate_limit),
    Check("unit.RuntimeDirectory", "the control socket has its place", service.control_directory),
    Check("unit.FileDescriptorStoreMax", "there is room in the fd store", service.store),
    Check("socket.active", "systemd listens", listening.active),
    Check("socket.enabled", "it does so after a boot of the machine", listening.enabled),
    Check("socket.limits", "no limit can fail the socket", listening.limits),
    Check("socket.backlog", "the kernel's queue is as long as configured", listening.backlog),
    Check("socket.taken", "nobody else has its addresses", listening.strangers),
    Check("socket.path", "Unix sockets are where they should be", listening.paths),
    Check("nginx.works", "nginx runs, and accepts its configuration", front.works),
    Check("nginx.site", "a site passes requests to the service", front.site),
    Check("nginx.permission", "nginx may connect", front.permission),
    Check("nginx.body", "nginx and sockd agree on the size of bodies", front.body_size),
    Check("nginx.timeouts", "nginx and sockd agree on times", front.timeouts),
    Check("nginx.headers", "the application is told of its clients", front.headers),
    Check("nginx.files", "nginx can read static files and media", front.files),
    Check("room.processors", "there are processors for the workers", room.processors),
    Check("room.memory", "there is memory for the workers", room.memory),
    Check("room.database", "there are database connections for the threads", room.database),
    Check("room.descriptors", "there are descriptors for the connections", room.descriptors),
    Check("room.tasks", "there are tasks for the threads", room.tasks),
    Check("room.channel", "the kernel's buffers hold what is handed over", room.channel),
    Check("process.answers", "the master answers", places.answers),
    Check("process.one", "there is one master", listening.no_service_by_hand),
    Check("process.workers", "all workers are ready", past.enough_workers),
    Check("process.left", "nothing is left over in the control group", processes.left_over),
    Check("process.adopted", "the application left nothing running", processes.adopted),
    Check("version.same", "master, package and venv have the same sockd", processes.versions),
    Check("version.replaced", "the master runs the installed files", processes.replaced),
    Check("files.drift", "the units are what the configuration says", places.drift),
    Check("files.unread", "what serves has read the configuration", places.unread),
    Check("files.owned", "the service owns its directories", places.owned),
    Check("past.reload", "the last reload succeeded", past.last_reload),
    *_troubles(),
)


class Judged(NamedTuple):
    check: Check
    finding: Finding


def examine(facts: Facts) -> Iterator[Judged]:
    """At least one finding for each check, in the order of the table."""
    for check in CHECKS:
        try:
            found = list(check.look(facts))
        except Unknown as unknown:
            found = [Finding("unknown", str(unknown))]
        for finding in found or [Finding("ok", check.what)]:
            yield Judged(check, finding)
