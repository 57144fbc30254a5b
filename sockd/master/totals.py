"""What the service has counted since it was started: of workers that live, that have ended, and
under earlier masters.

A master keeps its counts in $RUNTIME_DIRECTORY, which survives a restart with
RuntimeDirectoryPreserve=restart and goes with a stop. They are written when workers or the master
end and now and then between, so after a master that was killed a few seconds' worth is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sockd import histogram
from sockd.board import COUNTED, Board
from sockd.master import processes
from sockd.master.inheritance import TotalsState

FORMAT = 1
SAVING = 5.0  # seconds between two times that the counts of living workers are written
HISTOGRAMS = ("durations", "queues")


class Counts:
    """Sums of slots of the board."""

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self.durations = [0] * histogram.BUCKETS
        self.queues = [0] * histogram.BUCKETS

    def add_slot(self, board: Board, slot: int) -> None:
        fields = board.read(slot)
        self.numbers.update({name: fields[name] for name in COUNTED})
        for name in HISTOGRAMS:
            self._add(name, getattr(board, name)(slot))

    def add(self, other: Counts) -> None:
        self.numbers.update(other.numbers)
        for name in HISTOGRAMS:
            self._add(name, getattr(other, name))

    def _add(self, name: str, counts: Iterable[int]) -> None:
        own = getattr(self, name)
        for index, count in enumerate(counts):
            if count:
                own[index] += count

    def document(self) -> dict[str, Any]:
        """As `totals` of GET /status has it."""
        return {
            **{name: self.numbers[name] for name in COUNTED if not name.endswith("_usec")},
            "cpu_usec": self.numbers["cpu_usec"],
            "duration": spread(self.durations, self.numbers["duration_usec"]),
            "queue": spread(self.queues, self.numbers["queue_usec"]),
        }

    def state(self) -> dict[str, Any]:
        kept: dict[str, Any] = {"numbers": dict(self.numbers)}
        for name in HISTOGRAMS:
            kept[name] = {str(i): n for i, n in enumerate(getattr(self, name)) if n}
        return kept

    @classmethod
    def parse(cls, state: dict[str, Any]) -> Counts:
        """ValueError, TypeError or KeyError for what `state` did not make."""
        made = cls()
        for name, number in state["numbers"].items():
            made.numbers[name] = int(number)
        for name in HISTOGRAMS:
            for index, count in state[name].items():
                if not 0 <= int(index) < histogram.BUCKETS:
                    raise ValueError("no such bucket")
                getattr(made, name)[int(index)] = int(count)
        return made


def spread(counts: list[int], sum_usec: int, *, buckets: bool = True) -> dict[str, Any]:
    """Durations as JSON has them: how many, their sum, percentiles, and all buckets if wanted."""
    found = histogram.pairs(counts)
    made: dict[str, Any] = {
        "count": sum(counts),
        "sum_usec": sum_usec,
        "p50_usec": histogram.percentile(found, 0.5),
        "p90_usec": histogram.percentile(found, 0.9),
        "p99_usec": histogram.percentile(found, 0.99),
        "max_usec": found[-1][0] if found else None,
    }
    return made | {"buckets": found} if buckets else made


class Totals:
    """`ended` is of workers that have ended and of earlier masters. `happened` counts what becomes
    of the service: `respawns.CAUSE`, `reloads.ok`, `reloads.failed`; `earlier` of those is what
    earlier masters saw."""

    def __init__(self, supervised: bool) -> None:
        directory = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        self._path = Path(directory) / "totals.json" if directory and supervised else None
        self.ended = Counts()
        self.earlier: Counter[str] = Counter()
        self._save_at = 0.0
        self._load()

    def _load(self) -> None:
        if self._path:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                state = json.loads(self._path.read_text())
                if state["format"] == FORMAT:
                    ended = Counts.parse(state["counts"])
                    happened = Counter({k: int(v) for k, v in state["happened"].items()})
                    self.ended, self.earlier = ended, happened

    def state(self, board: Board, living: Iterable[tuple[int, int | None]]) -> TotalsState:
        """What the next master in this process goes on with."""
        return TotalsState(self.ended.state(), self.now(board, living).state(), dict(self.earlier))

    def inherit(self, state: TotalsState, *, alone: bool) -> None:
        """`alone`: without the board that the workers of the earlier master write."""
        self.earlier = Counter(state.earlier)
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            self.ended = Counts.parse(state.all if alone else state.ended)

    def worker_ended(self, board: Board, slot: int) -> None:
        """Before its slot is cleared."""
        self.ended.add_slot(board, slot)
        self._save_at = 0.0

    def child_ended(self, cpu_usec: int) -> None:
        """A worker was reaped, which has used so much processor time."""
        self.ended.numbers["cpu_usec"] += cpu_usec

    def now(self, board: Board, living: Iterable[tuple[int, int | None]]) -> Counts:
        """With those of the living: (slot, pid) of each."""
        made = Counts()
        made.add(self.ended)
        for slot, pid in living:
            made.add_slot(board, slot)
            made.numbers["cpu_usec"] += processes.cpu_usec(pid) or 0 if pid else 0
        return made

    def turn(
        self,
        now: float,
        board: Board,
        living: Iterable[tuple[int, int | None]],
        happened: Counter[str],
    ) -> None:
        """Write them if that is due; `happened` under this master."""
        if self._path and now >= self._save_at:
            self._save_at = now + SAVING
            self.save(board, living, happened)

    def save(
        self, board: Board, living: Iterable[tuple[int, int | None]], happened: Counter[str]
    ) -> None:
        if self._path is None:
            return
        state = {
            "format": FORMAT,
            "counts": self.now(board, living).state(),
            "happened": dict(self.earlier + happened),
        }
        made = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            made.write_text(json.dumps(state))
            made.replace(self._path)
