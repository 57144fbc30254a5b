"""`sockd init` and `sockd generate-units`: what makes files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sockd import config
from sockd.cli.common import (
    Commands,
    add_command,
    add_configuration,
    coloured,
    file_path,
    key_and_value,
    loader,
    name_and_app,
    not_empty,
    say,
)
from sockd.errors import FAILED, OK, UsageError


def add(commands: Commands) -> None:
    _add_init(commands)
    _add_generate_units(commands)


def _init(options: argparse.Namespace) -> int:
    from sockd import init

    name, app = name_and_app(options.what)
    output = options.output
    if name is None and output and str(output) != "-":
        name = output.name.removesuffix(".toml")
    draft = init.make(
        init.Request(options.dir, name, app, options.venv, options.sources, options.set)
    )
    text = draft.text()
    colours = {"found": "32", "mapped": "32", "left": "33", "note": "33"}
    paint = coloured(sys.stderr)
    place = output or config.DIRECTORY / f"{draft.name}.toml"
    if str(output) != "-":
        init.write(place.absolute(), text, force=options.force)
    for finding in draft.findings:
        word = finding.word.ljust(len("mapped"))
        shown = f"\x1b[{colours[finding.word]}m{word}\x1b[0m" if paint else word
        print(shown, finding.text, file=sys.stderr)
    if str(output) == "-":
        print(text, end="")
        return OK
    say(f"wrote {place}")
    named = draft.name if place.parent == config.DIRECTORY else f"--config {place}"
    say(f"next: sockd check {named}, then sockd generate-units --install {named}")
    return OK


def _generate_units(options: argparse.Namespace) -> int:
    from sockd import units

    if options.uninstall:
        for sentence in units.uninstall(_only_a_name(options.what)):
            say(sentence)
        return OK
    settings = loader(options)()
    files = units.render(
        settings,
        systemd_version=options.systemd,
        nginx_version=options.nginx,
        instance=options.instance or units.is_instance(settings.name),
    )
    if options.install:
        for sentence in units.install(files, force=options.force):
            say(sentence)
    elif options.output is not None:
        for sentence in units.write(files, options.output, force=options.force):
            say(sentence)
    elif options.check or options.diff:
        difference = units.compare(files)
        print(difference, end="")
        return FAILED if difference and options.check else OK
    else:
        for name, text in files.items():
            print(f"# ==> {name} <==\n{text}")
    return OK


def _only_a_name(words: Sequence[str]) -> str:
    name, app = name_and_app(words)
    if app:
        raise UsageError("--uninstall takes the NAME of a service and nothing else")
    return config.valid_name(name or config.only_name())


def _add_init(commands: Commands) -> None:
    init = add_command(
        commands,
        "init",
        _init,
        "write the configuration of a project",
        "Looks at a directory, without running any of its code, and writes /etc/sockd/NAME.toml:\n"
        "framework, virtual environment, static files. Says what it found and, with --from, what\n"
        "becomes of each option of another server.",
        ("sockd init shop --dir /srv/shop", "the project in /srv/shop"),
        ("sockd init shop shop.web:app --venv /srv/venv --output shop.toml", "chosen by hand"),
        ('sockd init shop --from "gunicorn -w 4 shop.wsgi"', "as this Gunicorn"),
        ("sockd init --from gunicorn.conf.py --output -", "look first"),
    )
    init.add_argument(
        "what",
        metavar="NAME | APP",
        nargs="*",
        type=not_empty,
        help="the service's NAME, by default the project's; the application, else looked for",
    )
    init.add_argument(
        "--dir", metavar="DIR", type=file_path, default=Path(), help="the project (default: here)"
    )
    init.add_argument("--venv", metavar="DIR", type=not_empty, help="else looked for")
    init.add_argument(
        "--from",
        dest="sources",
        metavar="WHAT",
        type=not_empty,
        action="append",
        default=[],
        help='gunicorn.conf.py, uwsgi.ini or "gunicorn -w 4 app:app" (repeatable)',
    )
    init.add_argument(
        "--set",
        metavar="KEY=VALUE",
        type=key_and_value,
        action="append",
        default=[],
        help="any setting, as nginx.server_name=shop.example (repeatable)",
    )
    init.add_argument(
        "--output",
        metavar="FILE",
        type=file_path,
        help="instead of /etc/sockd/NAME.toml; - is stdout",
    )
    init.add_argument("--force", action="store_true", help="replace a file that is there")


def _add_generate_units(commands: Commands) -> None:
    generate = add_command(
        commands,
        "generate-units",
        _generate_units,
        "make the systemd units and the nginx site of a service",
        "Prints them, unless told to write or install them.",
        ("sockd generate-units shop", "read them first"),
        ("sockd generate-units shop --output build/", "write them to a directory"),
        ("sockd generate-units shop --install", "place them, reload systemd and nginx"),
        ("sockd generate-units shop --diff", "what that would change"),
        ("sockd generate-units shop --uninstall", "stop it and take them away; its data stays"),
    )
    add_configuration(generate, "/run/sockd-NAME.sock")
    where = generate.add_mutually_exclusive_group()
    where.add_argument("--output", metavar="DIR", type=file_path, help="write them to DIR")
    for flag, text in (
        ("--install", "place them and tell what was done"),
        ("--diff", "show what --install would change"),
        ("--check", "the same, and exit with 1 when there is a difference"),
        ("--uninstall", "stop the service, and remove what --install placed"),
    ):
        where.add_argument(flag, action="store_true", help=text)
    generate.add_argument(
        "--instance",
        action="store_true",
        help="drop-ins for the packaged sockd@NAME; the default where that is enabled",
    )
    generate.add_argument(
        "--systemd", metavar="VERSION", type=int, help="render for this systemd, such as 252"
    )
    generate.add_argument(
        "--nginx", metavar="VERSION", type=not_empty, help="render for this nginx, such as 1.22"
    )
    generate.add_argument(
        "--force", action="store_true", help="overwrite files that sockd did not generate"
    )
