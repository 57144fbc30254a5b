"""The manual pages: `manual.py DIRECTORY` writes those of packaging/man there.

A line @WORD@ in a source stands for what is generated: the commands from the parser, the settings
from their rows. man(7) and groff_char(7) say how the text is written. The date is that of
SOURCE_DATE_EPOCH, or today.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from command_line import Command, Option, commands

from sockd import __version__
from sockd.settings import Row, rows

SOURCES = Path(__file__).parent / "man"

CHANGES = {
    "reload": "takes effect at a reload",
    "restart": "takes effect at a restart",
    "units": "read by \\fBsockd generate\\-units\\fR",
}


def pages() -> Iterator[tuple[str, str]]:
    """(name, text) of each page."""
    now = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(now))
    generated = {
        "COMMANDS": "\n".join(map(_command, commands())),
        "SYNOPSES": "\n.br\n".join(map(_synopsis, commands())),
        "SETTINGS": "\n".join(map(_setting, rows())),
        "UNIT_SETTINGS": "\n".join(map(_setting, _of_units(rows()))),
    }
    for source in sorted(SOURCES.glob("*.in")):
        text = source.read_text().replace("@VERSION@", __version__).replace("@DATE@", date)
        yield source.stem, re.sub(r"(?m)^@(\w+)@$", lambda match: generated[match[1]], text)


def roff(text: str) -> str:
    """Plain text; what stands in `backticks` is a literal and becomes bold."""
    parts = text.replace("\\", "\\e").split("`")
    for index, part in enumerate(parts):
        literal = index % 2
        part = part.replace("-", "\\-") if literal else re.sub(r"(?<=\W)-+(?=\w)", _dashes, part)
        part = part.replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")
        parts[index] = f"\\fB{part}\\fR" if literal else part
    made = "".join(parts)
    return made if not made.startswith((".", "\\(aq")) else f"\\&{made}"


def _dashes(match: re.Match[str]) -> str:
    return match[0].replace("-", "\\-")


def _literal(text: str) -> str:
    return roff(f"`{text}`")


def _of_units(found: Iterable[Row]) -> Iterator[Row]:
    return (row for row in found if row.change == "units")


def _setting(row: Row) -> str:
    default = row.default if isinstance(row.default, str) else json.dumps(row.default)
    default = f"`{default}`" if default else "empty"
    return "\n".join(
        [
            ".TP",
            f"{_literal(row.key)} ({roff(row.kind.name)})",
            f"{roff(row.doc[0].upper() + row.doc[1:])}.",
            f"Default: {roff(default)}; {CHANGES[row.change]}.",
        ]
    )


def _synopsis(command: Command) -> str:
    words = [f"\\fBsockd {_dashed(command.name)}\\fR"]
    if len(command.flags) > 1:
        words.append("[\\fIOPTION\\fR ...]")
    for operand in command.operands:
        word = f"\\fI{_dashed(operand.value)}\\fR"
        words.append(word if operand.required else f"[{word}]")
    return " ".join(words)


def _dashed(text: str) -> str:
    return text.replace("-", "\\-")


def _command(command: Command) -> str:
    sentence = command.summary[0].upper() + command.summary[1:]
    lines = [f".SS {_synopsis(command)}", f"{roff(sentence)}."]
    if command.more:
        lines.append(roff(command.more))
    for option in (*command.operands, *command.flags):
        if "-h" not in option.flags:
            lines += _option(option)
    if command.examples:
        lines += [".PP", "Examples:", ".PP", ".RS 4", ".EX"]
        for line, what in command.examples:
            lines += [_literal(line), f"    {roff(what)}"]
        lines += [".EE", ".RE"]
    return "\n".join(lines)


def _option(option: Option) -> list[str]:
    head = ", ".join(map(_literal, option.flags))
    if option.value:
        head = f"{head} \\fI{_dashed(option.value)}\\fR".strip()
    return [".TP", head, f"{roff(option.help[0].upper() + option.help[1:])}."]


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
