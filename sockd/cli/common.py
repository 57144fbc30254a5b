"""What the commands share: how they speak, what they take, how help looks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from sockd import config
from sockd.errors import UsageError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def say(line: str, colour: str = "0") -> None:
    prefix = f"\x1b[{colour}msockd:\x1b[0m" if coloured(sys.stderr) else "sockd:"
    print(prefix, line, file=sys.stderr)


def coloured(stream: object) -> bool:
    """https://no-color.org: colours on a terminal, unless NO_COLOR is not empty."""
    is_terminal = getattr(stream, "isatty", lambda: False)()
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    more: str,
    *examples: tuple[str, str],
) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {more}",
        epilog=shown(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.set_defaults(run=run)
    return made


def shown(*examples: tuple[str, str]) -> str:
    return "examples:\n" + "\n".join(f"  {line}\n      {what}" for line, what in examples)


def add_configuration(command: argparse.ArgumentParser, bind: str) -> None:
    command.add_argument(
        "what",
        metavar="NAME | APP",
        nargs="*",
        type=not_empty,
        help="the service's NAME, and its application as module:attribute or module:factory()",
    )
    command.add_argument(
        "--config", metavar="FILE", type=file_path, help="instead of /etc/sockd/NAME.toml"
    )
    command.add_argument(
        "--bind",
        metavar="ADDRESS",
        action="append",
        type=not_empty,
        help=f"HOST:PORT, [V6]:PORT, :PORT or /path.sock (repeatable; default {bind})",
    )
    for flag, metavar, text in (
        ("--workers", "N", "worker processes, or auto"),
        ("--dir", "DIR", "the application's working directory"),
        ("--venv", "DIR", "virtual environment that it runs in"),
    ):
        command.add_argument(flag, metavar=metavar, type=not_empty, help=text)
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        type=key_and_value,
        action="append",
        default=[],
        help="any setting, as timeouts.drain=5s (repeatable)",
    )


def not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a value, not an empty one")
    return text


def file_path(text: str) -> Path:
    return Path(not_empty(text))


def key_and_value(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise argparse.ArgumentTypeError("expected KEY=VALUE")
    return key, value


def loader(
    options: argparse.Namespace, environ: Mapping[str, str] = os.environ
) -> Callable[[], config.Config]:
    """Reads the configuration that the command line names, each time anew."""
    name, app = name_and_app(options.what)
    if name is None and options.config is None and app is None:
        name = config.only_name()
    given = {
        "app.target": app,
        "bind": options.bind,
        "workers": options.workers,
        "app.directory": options.dir,
        "app.venv": options.venv,
    }
    overrides = dict(options.set) | {key: value for key, value in given.items() if value}
    path = options.config and options.config.absolute()
    return partial(config.load, name, path, overrides, environ)


def name_and_app(words: Sequence[str]) -> tuple[str | None, str | None]:
    apps = [word for word in words if ":" in word]
    names = [word for word in words if ":" not in word]
    if len(apps) > 1 or len(names) > 1:
        raise UsageError("expected one NAME and one APP (module:attribute) at most")
    return (names[0] if names else None), (apps[0] if apps else None)


def add_name(*commands: argparse.ArgumentParser) -> None:
    """The operand of commands that speak to a running service."""
    for command in commands:
        command.add_argument(
            "name", metavar="NAME", nargs="?", type=not_empty, help="the only running one if none"
        )
