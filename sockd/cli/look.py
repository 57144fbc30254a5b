"""The commands that look at a running service."""

from __future__ import annotations

import argparse
import json
import sys

from sockd import client, status
from sockd.cli.common import Commands, add_command, add_name, coloured
from sockd.errors import OK


def _status(options: argparse.Namespace) -> int:
    document = client.status(client.locate(options.name))
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print(status.screen(document, colour=coloured(sys.stdout)), end="")
    return OK


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
    add_name(show)
