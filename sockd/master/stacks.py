"""The Python stacks of every thread of every worker, now, without stopping any.

A worker whose loop turns answers by itself. One that does not, because the application is busy or
stuck, writes them on a signal that the interpreter's own C handler serves (faulthandler), into a
memfd that the master got when it became ready.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sockd.master.events import WorkerId
from sockd.master.generation import Lifeline
from sockd.worker.messages import DUMP_SIGNAL

ASKING = 0.3  # seconds for a loop to answer
WRITING = 2.0  # seconds for a worker that does not to write
STEP = 0.02  # seconds between two looks at what it writes: it is whole when it does not grow


@dataclass
class _Asked:
    lifeline: Lifeline
    pid: int
    until: float
    before: int | None = None  # bytes of earlier dumps, once it was signalled
    seen: int = 0
    text: str | None = None
    how: str = "asked"

    def look(self, now: float) -> None:
        """See whether it has answered, and do what is next if it has not."""
        if self.lifeline.answer is not None:
            self.text = self.lifeline.answer
        elif self.before is None:
            if now >= self.until or not self.lifeline.open:
                self._signal(now)
        else:
            size = self.lifeline.dumped_size()
            if size > self.before and size == self.seen:
                self.how, self.text = "signalled", self.lifeline.dumped(self.before)
                self.lifeline.shown = size
            elif now >= self.until:
                self.how, self.text = "silent", ""
            self.seen = size

    def _signal(self, now: float) -> None:
        self.before = self.seen = self.lifeline.dumped_size()
        self.until = now + WRITING
        with contextlib.suppress(ProcessLookupError):  # not reaped, so its number is its own
            os.kill(self.pid, DUMP_SIGNAL)


class Stacks:
    """One round at a time; whoever asks during one gets its outcome."""

    def __init__(self, lifelines: Mapping[WorkerId, Lifeline]) -> None:
        self._lifelines = lifelines
        self._asked: list[_Asked] = []
        self._waiting: list[Callable[[dict[str, Any]], None]] = []

    def ask(self, answer: Callable[[dict[str, Any]], None]) -> None:
        """Call `answer` with the outcome: `{"workers": [{"id", "pid", "how", "stacks"}]}`."""
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self._asked = list(self._begin(time.monotonic()))

    def _begin(self, now: float) -> Iterator[_Asked]:
        for lifeline in self._lifelines.values():
            if lifeline.pid and lifeline.dump >= 0:
                lifeline.answer = None
                lifeline.send({"stacks": True})
                yield _Asked(lifeline, lifeline.pid, now + ASKING)

    def turn(self, now: float) -> float | None:
        """Go on; when to come back."""
        if not self._waiting:
            return None
        for one in self._asked:
            if one.text is None:
                one.look(now)
        if any(one.text is None for one in self._asked):
            return now + STEP
        found = [
            {"id": str(one.lifeline.worker), "pid": one.pid, "how": one.how, "stacks": one.text}
            for one in self._asked
        ]
        waiting, self._waiting, self._asked = self._waiting, [], []
        for answer in waiting:
            answer({"workers": found})
        return None
