"""Values written so that systemd and nginx read back what was meant.

The functions are filters of the templates. Each refuses, with ConfigError, what its syntax cannot
say. Text of type `Verbatim` is in systemd's syntax as it is and passes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from sockd.errors import ConfigError


class Verbatim(str):
    """systemd's own syntax: `%i` in a template unit is a specifier, not two characters."""

    __slots__ = ()


def line(value: str) -> str:
    """A value that reaches to the end of its line: Description=, ListenStream=, User=."""
    _printable(value)
    if value != value.strip() or value.endswith("\\"):
        # systemd strips spaces, and a backslash there continues the line: systemd.syntax(7)
        raise ConfigError(f"a unit cannot say {value!r}: a space or backslash at its end")
    return _specifiers(value)


def pattern(value: str) -> str:
    """A path in EnvironmentFile=, which is a glob(7): a backslash takes the meaning away from what
    follows it. Its wildcards are left to the operator."""
    return line(value.replace("\\", "\\\\"))


def comment(value: str) -> str:
    """Text in a comment, which ends with its line, for systemd even after a backslash."""
    _printable(value)
    return value


def word(value: str) -> str:
    """One of several words: a path in RequiresMountsFor=, an assignment in Environment=."""
    _printable(value)
    value = _specifiers(value)
    if value and re.fullmatch(r"[^\s\"'\\;#]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def argument(value: str) -> str:
    """One argument of ExecStart=, where `$` starts a variable: systemd.service(5)."""
    return word(value if isinstance(value, Verbatim) else value.replace("$", "$$"))


def span(seconds: float) -> str:
    """A time for systemd and nginx, exact to the millisecond and rounded up."""
    milliseconds = math.ceil(round(seconds * 1000, 3))
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    return f"{milliseconds // 1000}s"


def size(count: int) -> str:
    """Bytes in nginx's largest unit that is exact."""
    for unit, factor in (("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def nginx(value: str) -> str:
    """One parameter of an nginx directive that does not evaluate variables."""
    _printable(value)
    if re.fullmatch(r"[A-Za-z0-9_./:*~^@%+=,\[\]-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def nginx_evaluated(value: str) -> str:
    """One parameter of an nginx directive that evaluates variables, such as alias."""
    if "$" in value:
        raise ConfigError(f"nginx cannot say {value!r}: it takes $ for the start of a variable")
    return nginx(value)


def _specifiers(value: str) -> str:
    return value if isinstance(value, Verbatim) else value.replace("%", "%%")


def _printable(value: str) -> None:
    if not value.isprintable():
        raise ConfigError(f"{value!r} holds a character that a configuration file cannot")


FILTERS: dict[str, Callable[..., str]] = {
    "line": line,
    "pattern": pattern,
    "comment": comment,
    "word": word,
    "argument": argument,
    "span": span,
    "size": size,
    "nginx": nginx,
    "nginx_evaluated": nginx_evaluated,
}
