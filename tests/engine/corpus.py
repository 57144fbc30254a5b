"""corpus.txt: what comes over the wire, and what sockd does with it.

    == SECTION | RULE OR ADVISORY        cases below belong here
    wire TEMPLATE                        what the next cases send; `@` is the part of each
    NAME | PART | VERDICT                one case; `|` itself is \\x7c

Bytes are written as in Python, Latin-1; `{TEXT*N}` repeats TEXT. A verdict is what happens one
after the other, joined by ` + `:

    GET /a               the application gets this method and target, with no body
    POST /a "body"       ... with this body
    GET /a host=H x=1    ... with this Host; a field, where one is named: then there are no others
    GET /a no-fields     ... with no fields at all
    400 REASON           refused, and nothing is served after it
    close                the connection is closed, and nothing is served after it
    more                 the request is not complete

Without an end, the connection waits for the next request. Fields do not count Host and those that
concern the connection and the body. All is held to LIMITS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LIMITS = {"request_line": 200, "header_field": 200, "headers": 10, "head": 1000, "body": 2000}

TAIL = b"GET /tail HTTP/1.1\r\nHost: tail\r\n\r\n"
"""Sent after every case that is complete: served if the connection is open, else not."""

FRAMING = {"connection", "content-length", "content-type", "expect", "transfer-encoding"}


@dataclass(frozen=True)
class Seen:
    """A request as the application gets it, or is to get it; None says nothing."""

    method: str
    target: str
    body: str = ""
    host: str | None = None
    fields: dict[str, str] | None = None

    def matches(self, other: Seen) -> bool:
        """Whether `other`, a whole request, is what is said here."""
        return (
            (self.method, self.target, self.body) == (other.method, other.target, other.body)
            and self.host in (None, other.host)
            and self.fields in (None, other.fields)
        )


@dataclass(frozen=True)
class Case:
    name: str
    rule: str
    wire: bytes
    requests: tuple[Seen, ...]
    end: str
    """idle, more, close, or the status and reason of a refusal."""

    @property
    def sent(self) -> bytes:
        return self.wire if self.end == "more" else self.wire + TAIL

    @property
    def expected(self) -> tuple[Seen, ...]:
        """The requests in `sent` that reach the application."""
        return (*self.requests, Seen("GET", "/tail")) if self.end == "idle" else self.requests

    @property
    def refusal(self) -> str | None:
        return self.end if self.end[0].isdigit() else None


def _bytes(text: str) -> bytes:
    repeated = 1
    while repeated:
        text, repeated = re.subn(
            r"\{([^{}]+)\*(\d+)\}", lambda match: match[1] * int(match[2]), text
        )
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def _text(text: str) -> str:
    return _bytes(text).decode("latin-1")


def _seen(step: str) -> Seen:
    match = re.fullmatch(r'(\S+) (\S+)(?: "(.*?)")?((?: \S+)*)', step)
    assert match, f"not a verdict: {step}"
    method, target, body, rest = match.groups()
    host, fields = None, None
    for word in rest.split():
        name, _, value = word.partition("=")
        if name == "host":
            host = _text(value)
        else:
            fields = fields or {}
            if name != "no-fields":
                fields[_text(name)] = _text(value)
    texts = (_text(text or "") for text in (method, target, body))
    return Seen(*texts, host, fields)


def _case(section: str, rule: str, template: str, line: str) -> Case:
    name, part, verdict = (column.strip(" ") for column in line.split("|"))
    *steps, last = verdict.split(" + ")
    ends = last in ("more", "close") or re.match(r"[45]\d\d ", last)
    if not ends:
        steps.append(last)
    return Case(
        f"{section}: {name}",
        rule,
        _bytes(template.replace("@", part, 1)),
        tuple(_seen(step) for step in steps),
        last if ends else "idle",
    )


def _load() -> Iterator[Case]:
    section = rule = template = ""
    for line in (Path(__file__).parent / "corpus.txt").read_text("ascii").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("== "):
            section, _, rule = line[3:].partition(" | ")
        elif line.startswith("wire "):
            template = line[5:]
        else:
            yield _case(section, rule, template, line)


CASES = {case.name: case for case in _load()}
