"""The processes: who is left over, and which sockd they run."""

from __future__ import annotations

from collections.abc import Iterator

from sockd.doctor.facts import Facts, Finding, Missing, Process, Processes, have, note, problem

OURS = "sockd-"  # how fork servers and workers call themselves


def left_over(facts: Facts) -> Iterator[Finding]:
    """Processes of the control group that are none of the master's."""
    processes = have(facts.processes)
    draining = set()
    if not isinstance(facts.status, Missing):
        draining = {worker["pid"] for worker in facts.status.get("left_over", ())}
    strays = [
        process
        for pid, process in sorted(processes.found.items())
        if pid not in draining and not _descends(pid, processes) and not _finishes(facts, process)
    ]
    if strays:
        pids = " ".join(str(process.pid) for process in strays)
        yield problem(
            f"left over in the control group: {_names(strays)}",
            "they are of an earlier master, or of the application: they hold memory, files and "
            "perhaps the database",
            f"ps -o pid,lstart,args -p {pids.replace(' ', ',')}; kill {pids}",
        )


def adopted(facts: Facts) -> Iterator[Finding]:
    """What workers that have ended left running, and the master has adopted."""
    processes = have(facts.processes)
    workers = {worker["pid"] for worker in have(facts.status)["workers"]}
    found = [
        process
        for pid, process in sorted(processes.found.items())
        if process.parent == processes.main
        and pid not in workers
        and not process.name.startswith(OURS)
    ]
    if found:
        yield note(
            f"the application left running: {_names(found)}",
            "a task that outlives its request belongs into a unit or a queue of its own; it ends "
            "with its generation, unless it made a session of its own",
            f"journalctl -u {facts.name} -g 'left running'",
        )


def versions(facts: Facts) -> Iterator[Finding]:
    found = facts.versions
    installed = found.own if isinstance(found.unit, Missing) else found.unit
    if installed and not isinstance(facts.status, Missing):
        running = facts.status["sockd"]
        if running != installed:
            yield problem(
                f"the master is sockd {running}, installed is {installed}",
                "the mistakes that the newer one mends are still there, and a venv with the newer "
                "one is refused",
                f"sockd upgrade {facts.name}",
            )
    if not isinstance(found.venv, Missing) and found.venv and found.venv != installed:
        path = have(facts.config).settings.app.venv
        yield problem(
            f"app.venv has sockd {found.venv}, the master's is {installed}",
            "a start or reload with it is refused",
            f"{path}/bin/pip install sockd=={installed}, or: {path}/bin/pip uninstall sockd",
        )


def replaced(facts: Facts) -> Iterator[Finding]:
    """Files of sockd's that a package manager has replaced under a master that runs."""
    processes = have(facts.processes)
    main = processes.found.get(processes.main)
    if main is not None and have(
        Missing("only root sees which files it has open") if main.stale is None else main.stale
    ):
        yield problem(
            f"the master (pid {main.pid}) runs files of sockd that have been replaced",
            "the package was upgraded, and the master is still the old one",
            f"sockd upgrade {facts.name}",
        )


def _descends(pid: int, processes: Processes) -> bool:
    """From the master; ends where the control group does."""
    seen: set[int] = set()
    while pid in processes.found and pid not in seen:
        if pid == processes.main:
            return True
        seen.add(pid)
        pid = processes.found[pid].parent
    return False


def _finishes(facts: Facts, process: Process) -> bool:
    """A client of systemd's that is about its work: ExecReload=, ExecStop=."""
    words = process.command.split()
    return any(word.rpartition("/")[2] == "sockd" for word in words[:2]) and any(
        word in ("reload", "stop") for word in words[1:4]
    )


def _names(processes: list[Process]) -> str:
    return ", ".join(f"{process.name} (pid {process.pid})" for process in processes)
