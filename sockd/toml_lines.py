"""Where the keys of a TOML text stand, which tomllib does not tell.

The scanner knows TOML 1.0's punctuation only. tomllib has read the text before and says which keys
there are; where the scanner does not find exactly the same ones, it says nothing rather than
something wrong.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str | int, ...]
"""Keys, and indices of arrays: `("app", "env", "NAME")`, `("bind", 0)`."""

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|(?!""")[^\\])*"""(?:"{0,2})'  # the closing quotes may follow one or two more
    r"|'''(?:(?!''').)*'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]+|[^\s,\]}#]+")  # RFC 3339 allows the space


def locate(text: str, document: Mapping[str, Any]) -> dict[Path, int]:
    """The line, from 1, of each key and array element of `document`, which tomllib read from
    `text`; empty when the two cannot be brought together."""
    scanner = _Scanner(text)
    try:
        scanner.scan()
    except (ValueError, RecursionError):
        return {}
    return scanner.found if set(_paths(document)) == set(scanner.found) else {}


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    items = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from _paths(item, (*path, key))


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.found: dict[Path, int] = {}
        self.tables: dict[Path, int] = {}  # arrays of tables: how many elements so far

    def scan(self) -> None:
        prefix: Path = ()
        while self.skip(_BLANK) < len(self.text):
            if self.accept("[["):
                prefix = self.header("]]")
            elif self.accept("["):
                prefix = self.header("]")
            else:
                self.pair(prefix)

    def header(self, close: str) -> Path:
        line, keys = self.line, self.key()
        self.expect(close)
        path: Path = ()
        for key in keys:
            path = (*path, key)
            self.found.setdefault(path, line)
            if close == "]]" and len(path) - sum(isinstance(p, int) for p in path) == len(keys):
                self.tables[path] = self.tables.get(path, 0) + 1
            if path in self.tables:
                path = (*path, self.tables[path] - 1)
                self.found.setdefault(path, line)
        return path

    def pair(self, prefix: Path) -> None:
        path = prefix
        line, keys = self.line, self.key()
        for key in keys:
            path = (*path, key)
            self.found.setdefault(path, line)
        self.expect("=")
        self.value(path)

    def key(self) -> list[str]:
        keys = []
        while True:
            self.skip(_SPACE)
            quoted = self.text.startswith(('"', "'"), self.at)
            part = self.take(_STRING if quoted else _BARE_KEY)
            keys.append(tomllib.loads(f"key = {part}")["key"] if quoted else part)
            self.skip(_SPACE)
            if not self.accept("."):
                return keys

    def value(self, path: Path) -> None:
        self.skip(_SPACE)
        if self.accept("["):
            index = 0
            while self.skip(_BLANK) >= 0 and not self.accept("]"):
                self.found[(*path, index)] = self.line
                self.value((*path, index))
                index += 1
                self.skip(_BLANK)
                self.accept(",")
        elif self.accept("{"):
            while self.skip(_BLANK) >= 0 and not self.accept("}"):
                self.pair(path)
                self.skip(_BLANK)
                self.accept(",")
        else:
            self.take(_STRING if self.text.startswith(('"', "'"), self.at) else _SCALAR)

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if not match:
            raise ValueError(self.at)
        self.at = match.end()
        self.line += match[0].count("\n")
        return match[0]

    def skip(self, pattern: re.Pattern[str]) -> int:
        self.take(pattern)
        return self.at

    def accept(self, literal: str) -> bool:
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        return True

    def expect(self, literal: str) -> None:
        self.skip(_SPACE)
        if not self.accept(literal):
            raise ValueError(self.at)
