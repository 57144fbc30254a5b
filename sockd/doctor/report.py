"""What `sockd doctor` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sockd.doctor.checks import Judged

VERSION = 1  # of the document's format
WIDTH = 96
_COLOURS = {"ok": "32", "note": "33", "problem": "31", "unknown": "36"}
_INDENT = " " * 9


def document(name: str, judged: Sequence[Judged]) -> dict[str, Any]:
    """As JSON has it; `well` says what the exit code does."""
    return {
        "version": VERSION,
        "name": name,
        "well": is_well(judged),
        "findings": [{"check": one.check.name, **asdict(one.finding)} for one in judged],
    }


def is_well(judged: Sequence[Judged]) -> bool:
    return all(one.finding.word != "problem" for one in judged)


def text(judged: Sequence[Judged], *, everything: bool = False, colour: bool = False) -> str:
    """Problems, notes, what could not be looked at, a count; with `everything` what is well."""
    return "".join(f"{line}\n" for line in _lines(judged, everything, colour))


def _lines(judged: Sequence[Judged], everything: bool, colour: bool) -> Iterator[str]:
    for word in ("problem", "note", "ok") if everything else ("problem", "note"):
        for check, finding in judged:
            if finding.word == word:
                shown = _painted(word.ljust(7), word, colour)
                yield f"{shown}  {_printable(finding.text)}  [{check.name}]"
                if finding.why:
                    yield from _wrapped("why   ", finding.why)
                if finding.mend:
                    yield f"{_INDENT}mend  {_printable(finding.mend)}"
    unknown: dict[str, list[str]] = {}
    for check, finding in judged:
        if finding.word == "unknown":
            unknown.setdefault(finding.text, []).append(check.name)
    for reason, names in unknown.items():
        shown = _painted("unknown", "unknown", colour)
        yield f"{shown}  {_printable(reason)}"
        yield from _wrapped("not looked at: ", ", ".join(names))
    yield _count(judged)


def _wrapped(title: str, sentence: str) -> list[str]:
    return textwrap.wrap(
        _printable(sentence),
        WIDTH,
        initial_indent=_INDENT + title,
        subsequent_indent=_INDENT + " " * len(title),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _count(judged: Sequence[Judged]) -> str:
    checks = {one.check.name for one in judged}
    counts = dict.fromkeys(("problem", "note", "unknown"), 0)
    for _, finding in judged:
        if finding.word in counts:
            counts[finding.word] += 1
    found = [
        f"{count} {word}{'s' if count > 1 and word != 'unknown' else ''}"
        for word, count in counts.items()
        if count
    ]
    return f"{len(checks)} checks: {', '.join(found) or 'all is well'}"


def _painted(text: str, word: str, colour: bool) -> str:
    return f"\x1b[{_COLOURS[word]}m{text}\x1b[0m" if colour else text


def _printable(text: str) -> str:
    """The journal and other people's files may hold what steers a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
