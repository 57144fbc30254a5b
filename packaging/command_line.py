"""What the command line takes, read from sockd's own parser: the source of the manual page and of
the shells' completions, which hence cannot disagree with `sockd --help`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from sockd import cli


@dataclass(frozen=True)
class Option:
    """A flag, or an operand when `flags` is empty. `value`: its metavar, if it takes one."""

    flags: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    repeatable: bool
    required: bool
    help: str


@dataclass(frozen=True)
class Command:
    name: str
    summary: str
    more: str
    """What its help says beyond the summary."""
    examples: tuple[tuple[str, str], ...]
    """(command line, what it is for)"""
    options: tuple[Option, ...]
    exclusive: tuple[frozenset[str], ...]
    """Groups of flags of which one at most may be given."""

    @property
    def flags(self) -> tuple[Option, ...]:
        return tuple(option for option in self.options if option.flags)

    @property
    def operands(self) -> tuple[Option, ...]:
        return tuple(option for option in self.options if not option.flags)

    def excluded_by(self, flag: str) -> list[str]:
        others = {other for group in self.exclusive if flag in group for other in group}
        return sorted(others - {flag})


def commands() -> Iterator[Command]:
    """In the order of `sockd --help`."""
    parser = cli._parser()
    (subparsers,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    summaries = {choice.dest: choice.help or "" for choice in subparsers._choices_actions}
    for name, command in subparsers.choices.items():
        description = " ".join((command.description or "").split())
        yield Command(
            name,
            summaries[name],
            description[len(summaries[name]) + 1 :].strip(),
            tuple(_examples(command.epilog or "")),
            tuple(
                _option(action) for action in command._actions if action.help != argparse.SUPPRESS
            ),
            tuple(
                frozenset(
                    flag for action in group._group_actions for flag in action.option_strings
                )
                for group in command._mutually_exclusive_groups
            ),
        )


def _option(action: argparse.Action) -> Option:
    takes_value = action.nargs != 0
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    choices = tuple(str(choice) for choice in action.choices or ())
    return Option(
        tuple(action.option_strings),
        value if takes_value else "",
        choices,
        isinstance(action, argparse._AppendAction),
        action.required if action.option_strings else action.nargs not in ("?", "*"),
        _sentence(action),
    )


def _sentence(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    return "show what the command takes, and examples" if action.dest == "help" else text


def _examples(epilog: str) -> Iterator[tuple[str, str]]:
    lines = [line.strip() for line in epilog.splitlines()[1:] if line.strip()]
    yield from zip(lines[::2], lines[1::2], strict=True)
