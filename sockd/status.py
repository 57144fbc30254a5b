"""What `sockd status` shows, made of the control socket's document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sockd import metrics

_COLOURS = dict.fromkeys(("serving", "ready"), "32") | dict.fromkeys(
    ("reloading", "upgrading", "booting", "draining"), "33"
)
_STATE = 2  # the column that is coloured
_HEAD = ("WORKER", "PID", "STATE", "AGE", "REQUESTS", "4XX", "5XX", "CONNS", "P99", "MEMORY")
_RIGHT = frozenset({"PID", "AGE", "REQUESTS", "4XX", "5XX", "CONNS", "P99", "MEMORY"})
_MOST = 8  # requests that are shown of one worker


def screen(document: dict[str, Any], *, colour: bool = False, width: int = 0) -> str:
    """One screen, lines ended by newlines, and cut at `width` columns if that is not 0."""
    return "".join(line.rstrip() + "\n" for line in _lines(document, colour, width))


def _lines(document: dict[str, Any], colour: bool, width: int) -> Iterator[str]:
    state = document["state"]
    mark = painted("●", state, colour)
    generation = document["generation"]
    yield (
        f"{mark} {document['name']}: {painted(state, state, colour)}, "
        f"{'no generation yet' if generation is None else f'generation {generation}'}, "
        f"up {elapsed(document['uptime_usec'])}"
    )
    for title, text in _summary(document):
        yield cut(f"  {title:<10} {text}", width)
    yield ""
    workers = document["workers"]
    if not workers:
        yield "  no workers"
        return
    yield from table(_HEAD, [_row(w, document["now_usec"]) for w in workers], colour)
    if any(worker["in_hand"] for worker in workers):
        yield ""
        yield "  in hand"
    for worker in workers:
        for one in worker["in_hand"][:_MOST]:
            yield cut(f"  {in_hand(worker, one, document['now_usec'])}", width)
        more = worker["active"] - _MOST
        if more > 0 and len(worker["in_hand"]) > _MOST:
            yield f"  {worker['id']}  and {more} more"


def _summary(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "master", f"pid {document['pid']}, sockd {document['sockd']}"
    yield "config", document["config"] or "command line only"
    for index, one in enumerate(document["listeners"]):
        yield "" if index else "listening", f"{one['address']}{_queue(one)}"
    yield "workers", _workers(document)
    totals = document["totals"]
    yield "requests", _requests(totals)
    if totals["duration"]["count"]:
        yield "took", _spread(totals["duration"])
        yield "waited", _spread(totals["queue"])
    yield "traffic", f"{size(totals['bytes_in'])} in, {size(totals['bytes_out'])} out"
    held = [worker["memory"] for worker in document["workers"] if worker["memory"] is not None]
    cpu = f"CPU {elapsed(totals['cpu_usec'])}"
    yield (
        "memory",
        f"{size(sum(held))} private, {size(max(held))} the largest; {cpu}" if held else cpu,
    )
    reloads = totals["reloads"]
    yield "reloads", f"{reloads['ok']} ok, {reloads['failed']} failed"
    if document["reloads"]["last_error"]:
        last = document["reloads"]["last_error"].strip().splitlines()[-1]
        yield "last error", printable(last)
    causes = [(cause, n) for cause, n in totals["respawns"].items() if n]
    if causes:
        words = (f"{count} {cause.replace('_', ' ')}" for cause, count in causes)
        yield "replaced", f"workers: {', '.join(words)}"
    if totals["handed_over"] + totals["taken_over"]:
        yield (
            "moved",
            f"connections: {totals['handed_over']} handed over, {totals['taken_over']} taken, "
            f"{totals['stolen']} of them stolen",
        )
    if document["left_over"]:
        names = ", ".join(f"{one['id']} (pid {one['pid']})" for one in document["left_over"])
        yield "left over", f"workers of an earlier master: {names}"


def _queue(listener: Mapping[str, Any]) -> str:
    if listener["queue"] is None:
        return ""
    return f" ({listener['queue']} of {listener['limit']} wait, at most {listener['highest']} did)"


def _workers(document: Mapping[str, Any]) -> str:
    workers = document["workers"]
    ready = [worker for worker in workers if worker["state"] == "ready"]
    busy = sum(metrics.is_busy(worker, document["threads"]) for worker in ready)
    words = [f"{len(ready)} ready of {document['wanted'] or 0}, {busy} busy"]
    for state in ("booting", "draining", "killed"):
        count = sum(worker["state"] == state for worker in workers)
        words += [f"{count} {state}"] if count else []
    if document["threads"] > 1:
        words.append(f"{document['threads']} threads each")
    return ", ".join(words)


def _requests(totals: Mapping[str, Any]) -> str:
    words = [f"{totals['requests']:,}"]
    for name, title in (
        ("responses_4xx", "4xx"),
        ("responses_5xx", "5xx"),
        ("exceptions", "raised"),
        ("refused", "refused"),
        ("turned_away", "turned away"),
    ):
        if totals[name] or name.startswith("responses"):
            words.append(f"{totals[name]:,} {title}")
    return ", ".join(words)


def _spread(found: Mapping[str, Any]) -> str:
    names = ("p50", "p90", "p99", "max")
    return ", ".join(f"{elapsed(found[f'{name}_usec'])} {name}" for name in names)


def in_hand(worker: Mapping[str, Any], one: Mapping[str, Any], now_usec: int) -> str:
    """One request: its worker, age, method and target, and its id."""
    age = elapsed(now_usec - one["started_usec"])
    sending = ", being sent" if one["sending"] else ""
    request = printable(f"{one['method']} {one['target']}")
    return f"{worker['id']}  {age}  {request}  ({printable(one['id'])}{sending})"


def _row(worker: Mapping[str, Any], now_usec: int) -> tuple[str, ...]:
    p99 = worker["duration"]["p99_usec"]
    return (
        worker["id"],
        str(worker["pid"] or "-"),
        worker["state"],
        elapsed(now_usec - worker["started_usec"]) if worker["started_usec"] else "-",
        f"{worker['requests']:,}",
        f"{worker['responses_4xx']:,}",
        f"{worker['responses_5xx']:,}",
        f"{worker['connections']:,}",
        "-" if p99 is None else elapsed(p99),
        "-" if worker["memory"] is None else size(worker["memory"]),
    )


def stacks(worker: Mapping[str, Any]) -> str:
    """What `sockd stacks` shows of one worker."""
    how = {"signalled": ", whose loop does not answer", "silent": ": no answer"}
    head = f"worker {worker['id']} (pid {worker['pid']}){how.get(worker['how'], '')}"
    body = "".join(f"  {printable(line)}\n" for line in worker["stacks"].splitlines())
    return f"{head}\n{body}"


def table(
    head: tuple[str, ...], rows: list[tuple[str, ...]], colour: bool = False
) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if title in _RIGHT else cell.ljust(width)
            for cell, width, title in zip(row, widths, head, strict=True)
        ]
        if row is not head:
            cells[_STATE] = painted(cells[_STATE], row[_STATE], colour)
        yield "  " + "  ".join(cells)


def elapsed(usec: int) -> str:
    """A time that has passed, in the one or two units that matter: 40ms, 7.3s, 5min, 2h 14min."""
    seconds = max(0, usec) / 1e6
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f}ms" if usec > 0 else "0ms"
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


def size(number: int) -> str:
    """Bytes in three digits: 12 B, 3.4 MiB."""
    if number < 1000:
        return f"{number} B"
    value = float(number)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 999.5 or unit == "TiB":
            break
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def painted(text: str, state: str, colour: bool) -> str:
    return f"\x1b[{_COLOURS.get(state, '31')}m{text}\x1b[0m" if colour else text


def printable(text: str) -> str:
    """Clients choose what is in a request: nothing of it may steer the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def cut(line: str, width: int) -> str:
    return line if not width or len(line) <= width else f"{line[: width - 1]}…"
