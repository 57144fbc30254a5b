"""`sockd exec`: a management command, run as the application runs."""

from __future__ import annotations

import argparse
import os

from sockd import client, config
from sockd.cli.common import Commands, add_command, add_configuration, loader, name_and_app
from sockd.errors import UsageError


def split(words: list[str]) -> tuple[list[str], list[str] | None]:
    """What is sockd's, and what `sockd exec` is to run, which argparse would look into."""
    if words[:1] == ["exec"] and "--" in words:
        at = words.index("--")
        return words[:at], words[at + 1 :]
    return words, None


def _exec(options: argparse.Namespace) -> int:
    from sockd import execute

    if not options.command:
        raise UsageError("write the command after --, as in: sockd exec shop -- python3 manage.py")
    if options.here or not client.systemd_runs():
        command = execute.prepare(loader(options)(), options.command, os.environ)
        return command.wait() if options.in_unit else command.replace_process()
    name, app = name_and_app(options.what)
    if app or any((options.config, options.bind, options.workers, options.dir, options.venv)):
        raise UsageError("the unit says what the service runs with; flags and APP need --here")
    if options.set:
        raise UsageError("the unit says what the service runs with; --set needs --here")
    return execute.run(execute.of_service(name or config.only_name()), options.command)


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "exec",
        _exec,
        "run a management command as the application runs",
        "With its user, environment, virtual environment (first in PATH), directory, state\n"
        "directories and sandbox, whether the service runs or not. The exit code is the\n"
        "command's, 128 + N if signal N ended it. Without systemd it runs as you.",
        ("sockd exec shop -- python3 manage.py migrate", "writes what the service may write"),
        ("sockd exec shop -- python3 manage.py shell", "a terminal is passed on"),
        ("sockd exec --here shop -- python3 manage.py collectstatic", "as you: part of a release"),
    )
    add_configuration(command, "127.0.0.1:8000")
    command.add_argument(
        "--here",
        action="store_true",
        help="as you and outside of systemd: only environment, PATH and directory are the app's",
    )
    command.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)
    command.usage = "sockd exec [--here] [NAME] -- COMMAND [ARGUMENT ...]"
