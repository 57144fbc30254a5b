"""`sockd serve` and `sockd check`: what runs the application, or tries to."""

from __future__ import annotations

import argparse
import os
import sys

from sockd.cli.common import (
    Commands,
    add_command,
    add_configuration,
    coloured,
    file_path,
    loader,
)
from sockd.errors import OK


def add(commands: Commands) -> None:
    _add_serve(commands)
    _add_check(commands)


def _serve(options: argparse.Namespace) -> int:
    from sockd.master.loop import serve

    if options.prove is not None:
        from sockd.master.upgrade import prove

        print(prove(options.prove, loader(options)))
        return OK
    if options.runtime_dir is not None:
        os.environ["RUNTIME_DIRECTORY"] = str(options.runtime_dir.absolute())
    return serve(loader(options), watch=options.reload)


def _check(options: argparse.Namespace) -> int:
    from sockd import check

    colours = {"ok": "32", "note": "33", "problem": "31"}
    paint, worst = coloured(sys.stdout), OK
    for finding in check.examine(loader(options)()):
        word = finding.word.ljust(len("problem"))
        print(f"\x1b[{colours[finding.word]}m{word}\x1b[0m" if paint else word, finding.text)
        sys.stdout.flush()
        if finding.detail:
            print(finding.detail.rstrip("\n"), file=sys.stderr)
        worst = max(worst, finding.exit_code)
    return worst


def _add_serve(commands: Commands) -> None:
    serve = add_command(
        commands,
        "serve",
        _serve,
        "run an application in the foreground",
        "Takes over the sockets that systemd passes, else listens on --bind.",
        ("sockd serve shop", "the service that /etc/sockd/shop.toml describes"),
        ("sockd serve hello:app --bind :8080 --workers 2", "no configuration needed"),
        ("sockd serve hello:app --reload", "while you write it"),
        ("sockd serve 'shop.web:create_app()' --dir /srv/shop --venv /srv/shop/venv", "a factory"),
    )
    add_configuration(serve, "127.0.0.1:8000")
    serve.add_argument(
        "--reload",
        action="store_true",
        help="reload when a file of the application or the configuration changes (development)",
    )
    serve.add_argument(
        "--runtime-dir", metavar="DIR", type=file_path, help="where control.sock is made"
    )
    serve.add_argument("--prove", type=int, help=argparse.SUPPRESS)


def _add_check(commands: Commands) -> None:
    check = add_command(
        commands,
        "check",
        _check,
        "look for mistakes before a start or reload",
        "Reads the configuration, looks at what it names, and imports the application\n"
        "in a process of its own, as the service would. Root does so as unit.user, or as an\n"
        "unprivileged user when that is empty; anybody else as themselves.",
        ("sockd check", "the only service of this machine"),
        ("sockd check shop", "/etc/sockd/shop.toml"),
        ("sockd check --config ./shop.toml", "before it is installed"),
    )
    add_configuration(check, "127.0.0.1:8000")
