"""The commands that look at a running service: status, top, stacks, metrics."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from sockd import backlog, client, metrics, status, terminal, top
from sockd.cli.common import Commands, add_command, add_name, coloured
from sockd.errors import OK, SockdError

_LONGEST = 60.0


def document(path: Path) -> dict[str, Any]:
    """That of GET /status, and of the queues what the service's sandbox hides from its master."""
    made = client.status(path)
    for listener in made["listeners"]:
        if listener.get("queue", 0) is None and listener["address"].startswith(("/", "@")):
            found = backlog.of_unix(listener["address"], None)
            listener |= {"queue": found.waiting, "highest": found.waiting, "limit": found.limit}
    return made


def _status(options: argparse.Namespace) -> int:
    found = document(client.locate(options.name))
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        print(status.screen(found, colour=coloured(sys.stdout), width=width), end="")
    return OK


def _metrics(options: argparse.Namespace) -> int:
    print(metrics.text(document(client.locate(options.name))), end="")
    return OK


def _stacks(options: argparse.Namespace) -> int:
    found = client.stacks(client.locate(options.name))
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(map(status.stacks, found["workers"])), end="")
    return OK


def _top(options: argparse.Namespace) -> int:
    path = client.locate(options.name)
    view = top.View()
    paint = coloured(sys.stdout)

    def refresh() -> None:
        if not view.paused:
            try:
                view.add(document(path))
            except SockdError as error:
                view.note = str(error)  # it may be restarting

    refresh()
    if not view.documents:
        raise SockdError(view.note)
    terminal.run(
        lambda width, height: top.frame(view, width, height, colour=paint),
        refresh,
        view.press,
        options.interval,
    )
    return OK


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to {_LONGEST:g}")
    return seconds


def add(commands: Commands) -> None:
    show = add_command(
        commands,
        "status",
        _status,
        "show what a service is doing",
        "",
        ("sockd status", "the only running service"),
        ("sockd status shop --json", "all that is known, for programs"),
    )
    show.add_argument("--json", action="store_true", help="the whole document, as JSON")
    live = add_command(
        commands,
        "top",
        _top,
        "show what a service is doing, live",
        "\nEach worker with its rate, memory, CPU and requests. Keys: q quits, s sorts,\n"
        "f filters, r reverses, the space bar pauses.",
        ("sockd top shop", "looks once a second"),
        ("sockd top shop --interval 5", "less often"),
    )
    live.add_argument(
        "--interval", metavar="SECONDS", type=_seconds, default=1.0, help="between two looks"
    )
    stacks = add_command(
        commands,
        "stacks",
        _stacks,
        "show where every thread of every worker is",
        "\nNothing is stopped for that. A worker that is stuck is asked by a signal.",
        ("sockd stacks shop", "Python stacks, with the requests in hand in `sockd status`"),
    )
    stacks.add_argument("--json", action="store_true", help="as JSON")
    figures = add_command(
        commands,
        "metrics",
        _metrics,
        "print the metrics of a service, as Prometheus reads them",
        "\nGET /metrics of the control socket answers the same.",
        ("sockd metrics shop", "all of them, each with its help"),
    )
    add_name(show, live, stacks, figures)
