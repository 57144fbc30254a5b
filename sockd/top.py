"""What `sockd top` shows: one frame, made of the last documents of GET /status.

Pure: documents and a View in, lines out. `sockd.terminal` has the screen and the keys.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sockd import histogram, metrics
from sockd.status import cut, elapsed, painted, printable, size

Document = Mapping[str, Any]

SORTS = ("worker", "request", "rate", "memory", "cpu")
"""By id; by the age of the oldest request; by requests a second; and so on, the most first."""
FILTERS = ("all", "busy", "not ready")
KEYS = "q quit  s sort  f filter  r reverse  space pause"
_BARS = "▁▂▃▄▅▆▇█"
_HISTORY = 120
_HEAD = ("WORKER", "STATE", "AGE", "REQ/S", "P99", "5XX", "CONN", "MEMORY", "CPU", "NOW")
_WIDTHS = (7, 8, 9, 7, 7, 5, 5, 8, 5)
_WIDE = frozenset((2, 6))  # columns that a narrow screen leaves to the requests
_NARROW = 100


@dataclass
class View:
    """What has been seen, and how it is to be shown."""

    sort: str = "worker"
    filter: str = "all"
    reverse: bool = False
    paused: bool = False
    note: str = ""  # why there is nothing newer
    documents: deque[Document] = field(default_factory=lambda: deque(maxlen=2))
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def add(self, document: Document) -> None:
        if self.documents and self.documents[-1]["pid"] != document["pid"]:
            self.documents.clear()  # another master, which may count CPU anew
        self.documents.append(document)
        self.note = ""
        if len(self.documents) == 2:
            before, now = self.documents
            self.rates.append(_rate(before, now, "requests"))
            self.latencies.append(_percentile(before, now, "duration", 0.99) or 0)

    def press(self, key: str) -> bool:
        """Whether to go on."""
        if key == "s":
            self.sort = _following(SORTS, self.sort)
        elif key == "f":
            self.filter = _following(FILTERS, self.filter)
        elif key == "r":
            self.reverse = not self.reverse
        elif key == " ":
            self.paused = not self.paused
        return key not in ("q", "\x03", "\x1b")


def frame(view: View, width: int, height: int, *, colour: bool = False) -> list[str]:
    """Lines of at most `width` columns (escape sequences of colours apart), at most `height`."""
    if not view.documents:
        return [cut(view.note or "waiting for the first figures", width)]
    document = view.documents[-1]
    before = view.documents[0] if len(view.documents) == 2 else None
    lines = [*_summary(view, before, document, width, colour), ""]
    room = max(1, height - len(lines) - 2)
    table = list(_workers(view, before, document, width, colour))
    if len(table) > room:
        hidden = len(table) - room + 1
        table = [*table[: room - 1], cut(f"… {hidden} lines more", width)]
    lines += [_painted(cut(_columns(_HEAD, width), width), "7", colour), *table]
    state = f"sort {view.sort}{' reversed' if view.reverse else ''}, show {view.filter}"
    words = [view.note, "paused" if view.paused else "", state, KEYS]
    lines.append(_painted(cut("  ·  ".join(filter(None, words)), width), "2", colour))
    return lines[:height]


def sparkline(values: Iterable[float], width: int) -> str:
    """The last `width` values as bars between 0 and the largest of them."""
    last = list(values)[-width:]
    top = max(last, default=0)
    if top <= 0:
        return _BARS[0] * len(last)
    return "".join(_BARS[min(7, int(8 * max(0, value) / top))] for value in last)


def _summary(
    view: View, before: Document | None, document: Document, width: int, colour: bool
) -> Iterator[str]:
    state, generation = document["state"], document["generation"]
    head = (
        f"{document['name']}  {state}  generation {generation or '-'}  "
        f"up {elapsed(document['uptime_usec'])}  sockd {document['sockd']}"
    )
    yield cut(head, width).replace(state, painted(state, state, colour), 1)
    ready = [worker for worker in document["workers"] if worker["state"] == "ready"]
    busy = sum(metrics.is_busy(worker, document["threads"]) for worker in ready)
    queue = [one for one in document["listeners"] if one["queue"] is not None]
    waiting = sum(one["queue"] for one in queue)
    highest = max((one["highest"] for one in queue), default=0)
    yield cut(
        f"workers  {len(ready)} ready of {document['wanted'] or 0}, {busy} busy   "
        f"in hand {sum(worker['active'] for worker in document['workers'])}   "
        f"listen queue {f'{waiting} (highest {highest})' if queue else 'unknown'}",
        width,
    )
    if before is None:
        return
    bars = max(0, width - 50)
    yield cut(
        f"rate     {_rate(before, document, 'requests'):9.1f}/s   "
        f"4xx {_rate(before, document, 'responses_4xx'):.1f}/s   "
        f"5xx {_rate(before, document, 'responses_5xx'):.1f}/s".ljust(50)
        + sparkline(view.rates, bars),
        width,
    )
    p50, p99 = (_took(before, document, "duration", part) for part in (0.5, 0.99))
    waited = _took(before, document, "queue", 0.99)
    yield cut(
        f"latency  p50 {p50}   p99 {p99}   waited p99 {waited}".ljust(50)
        + sparkline(view.latencies, bars),
        width,
    )
    held = sum(worker["memory"] or 0 for worker in document["workers"])
    yield cut(
        f"traffic  {size(int(_rate(before, document, 'bytes_in')))}/s in, "
        f"{size(int(_rate(before, document, 'bytes_out')))}/s out   memory {size(held)}   "
        f"CPU {_rate(before, document, 'cpu_usec') / 1e4:.0f} %",
        width,
    )


def _workers(
    view: View, before: Document | None, document: Document, width: int, colour: bool
) -> Iterator[str]:
    earlier = {worker["id"]: worker for worker in before["workers"]} if before else {}
    seconds = (document["now_usec"] - before["now_usec"]) / 1e6 if before else 0
    rows = []
    for worker in document["workers"]:
        was = earlier.get(worker["id"])
        rate = cpu = 0.0
        if was and seconds > 0:
            rate = (worker["requests"] - was["requests"]) / seconds
            cpu = ((worker["cpu_usec"] or 0) - (was["cpu_usec"] or 0)) / seconds / 1e4
        rows.append((worker, rate, cpu))
    shown = [row for row in rows if _is_shown(view.filter, row[0], document["threads"])]
    shown.sort(key=lambda row: _order(view.sort, *row))
    for worker, rate, cpu in reversed(shown) if view.reverse else shown:
        yield from _rows(worker, rate, cpu, document["now_usec"], width, colour)


def _rows(
    worker: Mapping[str, Any], rate: float, cpu: float, now_usec: int, width: int, colour: bool
) -> Iterator[str]:
    p99 = worker["duration"]["p99_usec"]
    in_hand = [
        f"{elapsed(now_usec - one['started_usec'])} "
        f"{printable(one['method'])} {printable(one['target'])}"
        f"{' (sending)' if one['sending'] else ''}"
        for one in worker["in_hand"]
    ]
    cells = (
        worker["id"],
        worker["state"],
        elapsed(now_usec - worker["started_usec"]) if worker["started_usec"] else "-",
        f"{rate:.1f}",
        "-" if p99 is None else elapsed(p99),
        str(worker["responses_5xx"]),
        str(worker["connections"]),
        "-" if worker["memory"] is None else size(worker["memory"]).replace("iB", ""),
        f"{cpu:.0f}%",
        in_hand[0] if in_hand else "",
    )
    state = worker["state"]
    yield cut(_columns(cells, width), width).replace(state, painted(state, state, colour), 1)
    for more in in_hand[1:]:
        yield cut(_columns(("",) * 9 + (more,), width), width)


def _columns(cells: Sequence[str], width: int) -> str:
    made = [
        cell.ljust(room) if number < 2 else cell.rjust(room)
        for number, (cell, room) in enumerate(zip(cells[:9], _WIDTHS, strict=True))
        if width >= _NARROW or number not in _WIDE
    ]
    return "".join([*made, "  ", cells[9]]).rstrip()


def _is_shown(chosen: str, worker: Mapping[str, Any], threads: int) -> bool:
    if chosen == "busy":
        return bool(worker["in_hand"]) or metrics.is_busy(worker, threads)
    return chosen == "all" or worker["state"] != "ready"


def _order(chosen: str, worker: Mapping[str, Any], rate: float, cpu: float) -> tuple[float, ...]:
    own = (worker["generation"], worker["worker"])
    if chosen == "request":
        oldest = min((one["started_usec"] for one in worker["in_hand"]), default=float("inf"))
        return (oldest, *own)
    largest = {"rate": rate, "memory": worker["memory"] or 0, "cpu": cpu}.get(chosen, 0)
    return (-largest, *own)


def _rate(before: Document, now: Document, name: str) -> float:
    """Of one of the totals, a second."""
    seconds = (now["now_usec"] - before["now_usec"]) / 1e6
    return (now["totals"][name] - before["totals"][name]) / seconds if seconds > 0 else 0.0


def _percentile(before: Document, now: Document, name: str, part: float) -> int | None:
    """Of what was counted between two documents, in microseconds."""
    counted = histogram.since(now["totals"][name]["buckets"], before["totals"][name]["buckets"])
    return histogram.percentile(counted, part)


def _took(before: Document, now: Document, name: str, part: float) -> str:
    found = _percentile(before, now, name, part)
    return "-" if found is None else elapsed(found)


def _painted(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def _following(words: Sequence[str], word: str) -> str:
    return next(itertools.islice(itertools.cycle(words), words.index(word) + 1, None))
