"""Every request once: what became of it, what the application did, and what is wrong with that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

KEPT = 20  # failures that are kept as text

OPEN, ANSWERED, FAILED, WITHDRAWN = range(4)


@dataclass(frozen=True)
class Rules:
    """`may_close`: a connection may end after a response that said `Connection: close`; else none
    may. `longest`: seconds that a request may wait, 0 for any."""

    may_close: bool = False
    longest: float = 0.0


class Ledger:
    """`run` begins the id of every request, so that several runs can share an application."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.fates = bytearray()  # by the request's number
        self.failures: list[str] = []
        self.ends: list[str] = []  # of connections that had nothing in hand and did not say so
        self.strays: list[str] = []  # answers that nobody asked for
        self.announced = 0  # connections that ended after a response that said so
        self.connections = 0
        self.longest: dict[str, float] = {}  # seconds, by the kind of client

    # What happens

    def ask(self) -> str:
        """The id of one more request."""
        self.fates.append(OPEN)
        return f"{self.run}-{len(self.fates) - 1}"

    def answered(self, ident: str, kind: str, seconds: float) -> None:
        self._settle(ident, ANSWERED)
        self.longest[kind] = max(self.longest.get(kind, 0.0), seconds)

    def failed(self, ident: str, why: str) -> None:
        self._settle(ident, FAILED)
        self.failures.append(f"{ident} {why}")

    def withdrawn(self, ident: str) -> None:
        """It was pipelined behind one whose answer was the last: never to be executed (RFC 9112,
        section 9.6)."""
        self._settle(ident, WITHDRAWN)

    def _settle(self, ident: str, fate: int) -> None:
        number = int(ident.rpartition("-")[2])
        assert self.fates[number] == OPEN, f"{ident} has an end already"
        self.fates[number] = fate

    # What is wrong with it

    def verdict(self, rules: Rules, executed: Iterable[str] | None) -> list[str]:
        """What is wrong, a line each; nothing when all is well. `executed`: the ids that the
        application noted, each as often as it was called; None when it notes none."""
        wrong = [
            *_some("requests failed", self.failures),
            *_some("idle connections ended", self.ends),
            *_some("answers to nothing", self.strays),
            *self._told(OPEN, "requests without an end"),
        ]
        if self.announced and not rules.may_close:
            wrong.append(f"{self.announced} connections were closed by a response that said so")
        if ANSWERED not in self.fates:
            wrong.append("nothing was answered")
        longest = max(self.longest.values(), default=0.0)
        if rules.longest and longest > rules.longest:
            wrong.append(f"one waited {longest:.3f} s")
        return wrong + (self._executions(executed) if executed is not None else [])

    def _told(self, fate: int, what: str) -> list[str]:
        return _some(what, [f"{self.run}-{n}" for n, f in enumerate(self.fates) if f == fate])

    def _executions(self, executed: Iterable[str]) -> list[str]:
        counts: Counter[str] = Counter(
            ident for ident in executed if ident.rpartition("-")[0] == self.run
        )
        idents = [f"{self.run}-{number}" for number in range(len(self.fates))]
        missing, wrong = [], []
        for ident, fate in zip(idents, self.fates, strict=True):
            times = counts.pop(ident, 0)
            if times > 1:
                wrong.append(f"{ident} ({times} times)")
            if fate == ANSWERED and times == 0:
                missing.append(ident)
            if fate == WITHDRAWN and times:
                wrong.append(f"{ident} (withdrawn)")
        return [
            *_some("executed too often", wrong),
            *_some("answered without having been executed", missing),
            *_some("executed without having been asked for", list(counts)),
        ]

    def count(self, fate: int) -> int:
        return self.fates.count(fate)


def _some(what: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = ["..."] if len(items) > KEPT else []
    return [f"{len(items)} {what}: {', '.join([*items[:KEPT], *more])}"]
