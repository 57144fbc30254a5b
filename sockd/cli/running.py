"""The commands that have a running service do something: reload, upgrade, workers, stop."""

from __future__ import annotations

import argparse
import os
import re

from sockd import client
from sockd.cli.common import Commands, add_command, add_name, say
from sockd.errors import OK, NotRunning


def _reload(options: argparse.Namespace) -> int:
    main_pid = os.environ.get("MAINPID", "")  # systemd.service(5), ExecReload=
    generation, notes = client.reload(
        client.locate(options.name), watch_pid=int(main_pid) if main_pid.isdigit() else None
    )
    say(f"reloaded: generation {generation} serves")
    for note in notes:
        say(note)
    return OK


def _upgrade(options: argparse.Namespace) -> int:
    outcome = client.upgrade(client.locate(options.name))
    was, now = outcome.before, outcome.after
    how = f"from sockd {was} to {now}" if was != now else f"in place, sockd {now} again"
    say(f"upgraded {how}: generation {outcome.generation} serves")
    for note in outcome.notes:
        say(note)
    return OK


def _workers(options: argparse.Namespace) -> int:
    count = client.workers(client.locate(options.name), options.by)
    say(f"{count} worker{'' if count == 1 else 's'}, until the next reload")
    return OK


def _stop(options: argparse.Namespace) -> int:
    try:
        path = client.locate(options.name)
    except NotRunning:
        # It may be idle, with systemd waiting for the first client.
        sockets = client.active_sockets(options.name) if options.name else []
        if not sockets:
            raise
        done = client.stop_units(*sockets)
    else:
        done = client.stop(path)
    say(done)
    return OK


def _by(text: str) -> int:
    if not re.fullmatch(r"[+-]\d{1,3}", text, re.ASCII) or not int(text):
        raise argparse.ArgumentTypeError("expected +N or -N")
    return int(text)


def add(commands: Commands) -> None:
    reload = add_command(
        commands,
        "reload",
        _reload,
        "load the application's code and configuration anew, and wait for the outcome",
        "\nIf it cannot be loaded, the old code serves on, and the exit code is 1.",
        ("sockd reload shop", "after a deployment; `systemctl reload shop` does the same"),
    )
    upgrade = add_command(
        commands,
        "upgrade",
        _upgrade,
        "have the installed version of sockd take over a service, and wait for the outcome",
        "\nThe master's process goes on under its number, and the application is loaded anew.\n"
        "If that version cannot go on, the running one serves on, and the exit code is 1.",
        ("sockd upgrade shop", "after pip installed another; the Debian package does it"),
    )
    stop = add_command(
        commands,
        "stop",
        _stop,
        "end a service gracefully, and wait until it is gone",
        "\nOne that systemd runs is stopped together with its sockets.",
        ("sockd stop shop", "requests in hand are finished within timeouts.drain"),
    )
    workers = add_command(
        commands,
        "workers",
        _workers,
        "have more or fewer workers, until the next reload",
        "\nReturns when those that were added can answer.",
        ("sockd workers shop +2", "two more"),
        ("sockd workers -1", "one fewer, of the only running service"),
    )
    add_name(reload, upgrade, stop, workers)
    workers.add_argument("by", metavar="±N", type=_by, help="how many more (+N) or fewer (-N)")
