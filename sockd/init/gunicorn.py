"""What a Gunicorn was told: its configuration file, which is Python and is not run, and its
command line."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from sockd.errors import SockdError, UsageError
from sockd.init.draft import Draft
from sockd.init.gunicorn_options import OPTIONS
from sockd.init.options import Given
from sockd.init.static import CORES, names_of, parse

CONF = "gunicorn.conf.py"
_PROGRAM = re.compile(r"(.*/)?gunicorn[0-9.]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


@dataclass
class CommandLine:
    """`gunicorn ... APP` taken apart. `venv` is that of the program, "" when it has none."""

    given: list[Given] = field(default_factory=list)
    conf: str = ""
    venv: str = ""


def read_conf(path: Path, draft: Draft) -> list[Given]:
    """The settings of a configuration file, in its order. SockdError when it cannot be read."""
    module = parse(path, path.parent)
    if module is None:
        raise SockdError(f"--from: {path} cannot be read as Python")
    found = []
    for name, named in names_of(module, {}).items():
        if name not in OPTIONS:
            continue
        found.append(Given(name, named.value, f"{named.path.name}:{named.line}"))
        if named.known and named.value is not CORES and re.search("environ|getenv", named.source):
            draft.say(
                "note",
                f"{named.path.name}:{named.line}: {name} depends on the environment, where it "
                "was not looked up; the default was taken",
            )
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"--from: gunicorn's command line: {message}")


def read_command(text: str) -> CommandLine:
    """UsageError for what is no command line of Gunicorn."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--from: {error}") from None
    at = next((i for i, word in enumerate(words) if _PROGRAM.fullmatch(word)), None)
    if at is None:
        raise UsageError('--from: expected a file, or a command line such as "gunicorn app:app"')
    line = CommandLine()
    origin = "the command line"
    arguments = words[at + 1 :]
    variables = [word for word in words[:at] if _ASSIGNMENT.fullmatch(word)]
    for variable in variables:
        name, _, value = variable.partition("=")
        if name == "GUNICORN_CMD_ARGS":
            arguments = [*shlex.split(value), *arguments]
    own = [item for item in variables if not item.startswith("GUNICORN_CMD_ARGS=")]
    line.venv = next(_venvs(words[: at + 1]), "")
    parser = _Parser(prog="gunicorn", add_help=False)
    for option in OPTIONS.values():
        if option.flags:
            action = {"nothing": "store_true", "values": "append"}.get(option.takes, "store")
            parser.add_argument(
                *option.flags, dest=option.name, default=argparse.SUPPRESS, action=action
            )
    parser.add_argument("wsgi_app", nargs="*", default=argparse.SUPPRESS)
    for name, value in vars(parser.parse_args(arguments)).items():
        if name == "config":
            line.conf = value
        elif name == "wsgi_app":
            line.given += [Given(name, item, origin) for item in value[:1]]
        elif name == "raw_env":
            own += value
        else:
            line.given.append(Given(name, value, origin))
    if own:
        line.given.append(Given("raw_env", own, origin))
    return line


def _venvs(words: list[str]) -> Iterator[str]:
    """Of programs that are named by their path: /srv/venv/bin/gunicorn."""
    for word in words:
        venv = Path(word).parent.parent
        if word.startswith("/") and (venv / "pyvenv.cfg").is_file():
            yield str(venv)
