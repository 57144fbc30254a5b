"""Files and directories: whose they are, and whether they are what the configuration says."""

from __future__ import annotations

from collections.abc import Iterator

from sockd.doctor.facts import Facts, Finding, Missing, Place, have, is_gone, note, problem

NOBODY = 65534  # owns the directories of dynamic users, which systemd maps where it mounts them
SLACK = 2.0  # seconds between a reload that reads a file and the workers that it starts


def configuration(facts: Facts) -> Iterator[Finding]:
    if facts.config_error:
        lines = facts.config_error.splitlines()
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        yield problem(
            f"{lines[0]}{more}",
            "the next start or reload fails",
            f"sockd check {facts.name}",
        )


def answers(facts: Facts) -> Iterator[Finding]:
    """The control socket of a master that runs."""
    unit = facts.unit
    if isinstance(unit, Missing) or not unit.get("MainPID"):
        have(facts.status)
        return
    if unit.get("ActiveState") == "active" and isinstance(facts.status, Missing):
        if "permission" in facts.status.reason or "only root" in facts.status.reason:
            have(facts.status)
        yield problem(
            f"the master (pid {unit.get('MainPID')}) does not answer: {facts.status.reason}",
            "sockd status, reload and stop do not work",
            f"systemctl restart {unit.name}",
        )


def owned(facts: Facts) -> Iterator[Finding]:
    """The service's own directories, while it runs."""
    unit = have(facts.unit)
    processes = have(facts.processes)
    main = processes.found.get(processes.main)
    if main is None:
        return
    owners = {main.uid, NOBODY} if unit.get("DynamicUser") else {main.uid}
    for kind, top in (("RuntimeDirectory", "/run"), ("StateDirectory", "/var/lib")):
        for name in unit.get(kind, []):
            path = f"{top}/{name}"
            place = facts.places.get(path)
            if place is None:
                continue
            if is_gone(place):
                yield problem(
                    f"{path} is gone, {kind}= of a service that runs",
                    "sockd status and reload go through it"
                    if top == "/run"
                    else "the application keeps its files there",
                    f"systemctl restart {unit.name}",
                )
            elif isinstance(place, Place) and place.uid not in owners:
                yield problem(
                    f"{path} belongs to uid {place.uid}, the service is uid {main.uid}",
                    "the service cannot write there",
                    f"systemctl restart {unit.name}, which sets it right, or "
                    f"chown -R {main.uid} {path}",
                )
            elif isinstance(place, Place) and place.mode & 0o700 != 0o700:
                yield problem(
                    f"{path} has mode {place.mode & 0o777:04o}",
                    "the service cannot write there",
                    f"chmod u+rwx {path}",
                )


def drift(facts: Facts) -> Iterator[Finding]:
    unit = have(facts.unit)
    difference = have(facts.drift)
    if difference and not unit.generated:
        yield note(
            f"{unit.name} is not of sockd's making: not compared with the configuration",
            "",
        )
    elif difference:
        files = [
            line[4:].removesuffix(" (generated)").strip()
            for line in difference.splitlines()
            if line.startswith("+++ ")
        ]
        yield problem(
            f"not as the configuration has it: {', '.join(files)}",
            "the configuration, or sockd, has changed since they were made",
            f"sockd generate-units --diff {facts.name}, then "
            f"sockd generate-units --install {facts.name}",
        )


def unread(facts: Facts) -> Iterator[Finding]:
    """A configuration that was changed after the code that serves was loaded."""
    status = have(facts.status)
    serving = [
        worker["started_usec"]
        for worker in status["workers"]
        if worker["generation"] == status["generation"] and worker["started_usec"]
    ]
    if not serving or not facts.changed_at:
        return
    loaded_at = facts.now - (facts.monotonic_usec - min(serving)) / 1e6
    # All workers of a generation may have been replaced since: what is younger than the master
    # and older than they are may have been read.
    if facts.changed_at > loaded_at + SLACK:
        yield note(
            f"{status['config']} has changed since generation {status['generation']} was loaded",
            "it takes effect with the next reload, planned or not",
            f"systemctl reload {facts.name}",
        )
