"""`sockd doctor`: what is wrong with a service, and what mends it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence

from sockd import config
from sockd.cli import serve
from sockd.cli.common import Commands, add_command, coloured, loader, not_empty
from sockd.errors import FAILED, OK, ConfigError


def _doctor(options: argparse.Namespace) -> int:
    from sockd import doctor

    name = config.valid_name(options.name or config.only_name())
    facts = doctor.gather(name, _of_unit, connections=options.db_connections)
    judged = list(doctor.examine(facts))
    if options.json:
        print(json.dumps(doctor.document(name, judged), indent=2))
    else:
        colour = coloured(sys.stdout)
        print(doctor.text(judged, everything=options.all, colour=colour), end="")
    return OK if doctor.is_well(judged) else FAILED


def _of_unit(words: Sequence[str], environ: Mapping[str, str]) -> config.Config:
    """What `sockd serve` with these arguments, and that environment, reads."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    serve.add(parser.add_subparsers())
    try:
        options = parser.parse_args(["serve", *words])
    except SystemExit:
        raise ConfigError(f"the unit starts sockd with what it refuses: {words}") from None
    return loader(options, environ)()


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError("expected a whole number above 0")
    return int(text)


def add(commands: Commands) -> None:
    doctor = add_command(
        commands,
        "doctor",
        _doctor,
        "look for what is wrong with a service, and say what mends it",
        "Units against what systemd is known to do, sockets, nginx, limits, processes, files and\n"
        "the journal of the last day. Changes nothing. Exits with 1 when there is a problem.\n"
        "What it could not look at, without root or without systemd, it names.",
        ("sockd doctor shop", "problems and notes, each with the command that mends it"),
        ("sockd doctor shop --db-connections 100", "and whether that is enough for all threads"),
        ("sockd doctor shop --json", "all checks, for programs"),
    )
    doctor.add_argument(
        "name", metavar="NAME", nargs="?", type=not_empty, help="the only configured one if none"
    )
    doctor.add_argument("--all", action="store_true", help="also name what is well")
    doctor.add_argument("--json", action="store_true", help="every check, as JSON")
    doctor.add_argument(
        "--db-connections",
        metavar="N",
        type=_count,
        default=0,
        help="how many connections the database allows this service",
    )
