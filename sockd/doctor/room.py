"""Whether what is configured has room: processors, memory, descriptors, database connections."""

from __future__ import annotations

from collections.abc import Iterator

from sockd.doctor.facts import Facts, Finding, Missing, Unknown, have, note, problem
from sockd.doctor.service import INFINITY

CROWD, MOB = 4, 8  # workers for each processor: a word about it, and a problem
SPARE_FILES = 300  # descriptors of a worker beside its connections: 253 in flight, and its own
CHANNEL = 212_992  # bytes of net.core.wmem_max, Debian's, that the handover channel counts on
THREADS = 4  # tasks of a worker beside its threads


def workers(facts: Facts) -> int:
    """Those that are wanted, else those that are configured, `auto` being the processors."""
    if not isinstance(facts.status, Missing) and facts.status.get("wanted"):
        return int(facts.status["wanted"])
    return have(facts.config).settings.workers or facts.machine.processors


def processors(facts: Facts) -> Iterator[Finding]:
    count, room = workers(facts), facts.machine.processors
    text = f"{count} workers for {room} processor{'' if room == 1 else 's'}"
    why = "they take turns, and each holds memory; waiting is done by threads, for less"
    mend = f'workers = "auto" and threads in /etc/sockd/{facts.name}.toml, then {_reload(facts)}'
    if count > MOB * room:
        yield problem(text, why, mend)
    elif count > CROWD * room:
        yield note(text, why, mend)


def memory(facts: Facts) -> Iterator[Finding]:
    """What the workers hold now, as if all were as large as the largest."""
    status = have(facts.status)
    found = have(facts.processes).found
    pids = [worker["pid"] for worker in status["workers"]]
    sizes = [found[pid] for pid in pids if pid in found and found[pid].private is not None]
    if not sizes:
        return
    private = max(process.private or 0 for process in sizes)
    shared = max(process.shared or 0 for process in sizes)
    count, limit = workers(facts), facts.machine.memory
    needed = shared + count * private
    what = "limit of the service" if facts.machine.limited else "memory of the machine"
    text = f"{count} workers of {_mib(private)} and {_mib(shared)} that they share"
    mend = (
        f"fewer workers, recycle.max_memory, or a larger MemoryMax= in unit.service, "
        f"then {_reload(facts)}"
    )
    if needed > limit:
        yield problem(
            f"{text} need {_mib(needed)}; {what}: {_mib(limit)}",
            "the kernel kills one of them, and its requests, when all are in use",
            mend,
        )
    elif needed + count * private > limit:
        yield note(
            f"{text}: during a reload up to {_mib(needed + count * private)}; "
            f"{what}: {_mib(limit)}",
            "two generations are in memory then",
            mend,
        )


def database(facts: Facts) -> Iterator[Finding]:
    """Each thread of the application holds a connection of its own, as Django's do."""
    allowed = facts.connections
    if not allowed:
        return
    threads = have(facts.config).settings.threads
    needed = workers(facts) * threads
    text = f"{workers(facts)} workers × {threads} threads are {needed} database connections"
    mend = f"fewer of them, a pooler, or more connections in the database; then {_reload(facts)}"
    if needed > allowed:
        yield problem(f"{text}, of {allowed}", "requests fail when all are busy", mend)
    elif 2 * needed > allowed:
        yield problem(
            f"{text}, {2 * needed} during a reload, of {allowed}",
            "two generations are connected then: the new one fails to boot, or requests fail",
            mend,
        )


def descriptors(facts: Facts) -> Iterator[Finding]:
    unit = have(facts.unit)
    limit = unit.get("LimitNOFILE", INFINITY)
    connections = have(facts.config).settings.limits.connections
    if limit < connections + SPARE_FILES:
        yield problem(
            f"LimitNOFILE={limit}, and a worker may have {connections} connections",
            "a worker without descriptors refuses clients, and loses those that are handed over",
            f"systemctl edit {unit.name}: [Service] LimitNOFILE=65536, then "
            f"systemctl restart {unit.name}",
        )


def tasks(facts: Facts) -> Iterator[Finding]:
    unit = have(facts.unit)
    limit = unit.get("TasksMax", INFINITY)
    threads = have(facts.config).settings.threads
    needed = 2 * workers(facts) * (threads + THREADS)  # two generations
    if limit < needed:
        yield problem(
            f"TasksMax={limit}; {workers(facts)} workers × {threads} threads are up to {needed} "
            "tasks during a reload",
            "fork and threads fail",
            f"systemctl edit {unit.name}: [Service] TasksMax={needed * 2}",
        )


def channel(facts: Facts) -> Iterator[Finding]:
    found = facts.machine.kernel.get("net.core.wmem_max")
    if found is None:
        raise Unknown("net.core.wmem_max cannot be read here")
    if found < CHANNEL:
        yield problem(
            f"net.core.wmem_max is {found}, Debian's is {CHANNEL}",
            "fewer connections fit into the channel by which they outlive a worker; others close",
            f"sysctl -w net.core.wmem_max={CHANNEL}, and the same in /etc/sysctl.d/sockd.conf",
        )


def _reload(facts: Facts) -> str:
    return f"systemctl reload {facts.name}"


def _mib(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 10 << 20 else f"{count / (1 << 20):.1f} MiB"
