"""The Markdown of a run."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.instructions import Count
from bench.measure import Plan, Result
from bench.peers import PEERS
from bench.works import NOISE

INTRODUCTION = """\
# What a request costs

Written by `make bench` on {date}: {system}, Linux {kernel}, Python {python}, {cpu}.
{versions}.

Each server runs with one worker on core 0, the load (wrk) on core 1, 64 keep-alive connections
unless the row says otherwise; all are measured in the same run, {rounds} rounds of {seconds:g} s
going round the servers. A figure is the median of the CPU time in microseconds, user and system,
that all of a server's processes took per request: for sockd its master, fork server and worker.
*C* is `bench/responder.c`, an epoll loop that checks nothing and always answers the same: the
floor. A bar is held with {noise:.0%} for noise.

- uWSGI's HTTP socket and gunicorn's sync worker close after each response. Behind nginx uWSGI
  speaks its own protocol; fastwsgi has no Unix sockets and is reached over TCP.
- fastwsgi and bjoern hardly check what they parse, and neither bounds how long a client may take.
"""


def markdown(
    results: Sequence[Result],
    others: Sequence[Result],
    counts: dict[str, Count],
    plan: Plan,
    versions: dict[str, str],
    failed: dict[str, str],
) -> str:
    listed = ", ".join(
        f"{name} {number}" for name, number in {"sockd": version("sockd"), **versions}.items()
    )
    text = INTRODUCTION.format(
        date=datetime.now(UTC).date(),
        system=platform.freedesktop_os_release()["PRETTY_NAME"],
        kernel=platform.release(),
        python=platform.python_version(),
        cpu=_processor(),
        versions=listed,
        rounds=plan.rounds,
        seconds=plan.seconds,
        noise=NOISE - 1,
    )
    if plan.slow_rounds < plan.rounds:
        text += f"- gunicorn is far off and has {plan.slow_rounds} round only.\n"
    for name, why in failed.items():
        text += f"- {name} could not be built: {why}\n"
    names = [peer.name for peer in PEERS if any(peer.name in r.costs for r in results)]
    text += "\n" + _table(
        ["work", *names, "sockd / C", "bar for sockd", "met"],
        [_cost_row(result, names) for result in results],
    )
    text += "\n![costs](bench.svg)\n\n## Other conditions\n\n"
    text += _table(
        ["condition", "sockd", "others", "bar", "met"], [_other_row(each) for each in others]
    )
    text += "\n![cost by number of connections](bench-connections.svg)\n\n## Instructions\n\n"
    text += "Counted by callgrind in a worker, user space only, one connection:\n\n"
    text += _table(
        ["request", "instructions", "of them for the board"],
        [[name, f"{each.total:,.0f}", f"{each.board:,.0f}"] for name, each in counts.items()],
    )
    notes = [f"- {each.title}: {note}" for each in (*results, *others) for note in each.notes]
    if notes:
        text += "\n## What went wrong\n\n" + "\n".join(notes) + "\n"
    return text


def missed(results: Sequence[Result]) -> list[str]:
    return [result.title for result in results if result.met is False]


def _cost_row(result: Result, names: Sequence[str]) -> list[str]:
    costs = result.costs
    cells = [f"{costs[name]:.1f}" if name in costs else "–" for name in names]
    ratio = f"{costs['sockd'] / costs['C']:.2f}" if {"sockd", "C"} <= costs.keys() else "–"
    return [result.title, *cells, ratio, result.bar, _word(result)]


def _other_row(result: Result) -> list[str]:
    others = "; ".join(f"{n} {text}" for n, text in result.shown.items() if n != "sockd")
    return [result.title, result.shown.get("sockd", "–"), others, result.bar, _word(result)]


def _word(result: Result) -> str:
    if result.met is None:
        return "skipped" if result.notes else "no peer to compare with"
    return "yes" if result.met else "**no**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
