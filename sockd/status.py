"""What `sockd status` shows, made of the control socket's document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_COLOURS = dict.fromkeys(("serving", "ready"), "32") | dict.fromkeys(
    ("reloading", "upgrading", "booting", "draining"), "33"
)
_STATE = 2  # the column that is coloured
_HEAD = ("WORKER", "PID", "STATE", "AGE", "REQUESTS", "4XX", "5XX", "CONNS", "NOW")
_RIGHT = frozenset({"PID", "AGE", "REQUESTS", "4XX", "5XX", "CONNS"})


def screen(document: dict[str, Any], now_usec: int, *, colour: bool = False) -> str:
    """One screen, lines ended by newlines. `now_usec` is CLOCK_MONOTONIC, as the document's."""
    return "".join(line.rstrip() + "\n" for line in _lines(document, now_usec, colour))


def _lines(document: dict[str, Any], now_usec: int, colour: bool) -> Iterator[str]:
    state = document["state"]
    mark = _painted("●", state, colour)
    generation = document["generation"]
    yield (
        f"{mark} {document['name']}: {_painted(state, state, colour)}, "
        f"{'no generation yet' if generation is None else f'generation {generation}'}, "
        f"up {elapsed(document['uptime_usec'])}"
    )
    yield f"  master     pid {document['pid']}, sockd {document['sockd']}"
    yield f"  config     {document['config'] or 'command line only'}"
    yield f"  listening  {', '.join(item['address'] for item in document['listeners'])}"
    reloads = document["reloads"]
    yield f"  reloads    {reloads['ok']} ok, {reloads['failed']} failed"
    if reloads["last_error"]:
        yield f"  last error {_printable(reloads['last_error'].strip().splitlines()[-1])}"
    yield f"  respawns   {document['respawns']}"
    yield ""
    yield from _table([_row(worker, now_usec) for worker in document["workers"]], colour)


def _row(worker: dict[str, Any], now_usec: int) -> tuple[str, ...]:
    now = "idle"
    if worker["request_started_usec"]:
        taken = elapsed(now_usec - worker["request_started_usec"])
        now = f"{_printable(worker['request'])} {taken}"
    return (
        worker["id"],
        str(worker["pid"] or "-"),
        worker["state"],
        elapsed(now_usec - worker["started_usec"]) if worker["started_usec"] else "-",
        f"{worker['requests']:,}",
        f"{worker['responses_4xx']:,}",
        f"{worker['responses_5xx']:,}",
        f"{worker['connections']:,}",
        now,
    )


def _table(rows: list[tuple[str, ...]], colour: bool) -> Iterator[str]:
    if not rows:
        yield "  no workers"
        return
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    for row in (_HEAD, *rows):
        cells = [
            cell.rjust(width) if title in _RIGHT else cell.ljust(width)
            for cell, width, title in zip(row, widths, _HEAD, strict=True)
        ]
        if row is not _HEAD:
            cells[_STATE] = _painted(cells[_STATE], row[_STATE], colour)
        yield "  " + "  ".join(cells)


def elapsed(usec: int) -> str:
    """A time that has passed, in the one or two units that matter: 40ms, 7.3s, 5min, 2h 14min."""
    seconds = max(0, usec) / 1e6
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h {minutes}min"
    return f"{hours // 24}d {hours % 24}h"


def _painted(text: str, state: str, colour: bool) -> str:
    return f"\x1b[{_COLOURS.get(state, '31')}m{text}\x1b[0m" if colour else text


def _printable(text: str) -> str:
    """Clients choose what is in a request: nothing of it may steer the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
