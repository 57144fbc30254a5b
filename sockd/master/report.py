"""What the master says about itself: the document of GET /status, and the line of systemctl.

docs/monitoring.md has the document's fields.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import sockd
from sockd import backlog, memory, metrics
from sockd.activation import Listener
from sockd.board import Board
from sockd.config import Config
from sockd.master import processes
from sockd.master.fleet import Fleet
from sockd.master.leftover import LeftOver
from sockd.master.states import W, Worker
from sockd.master.totals import Totals, spread

VERSION = 1  # of the document's format
MOST_REQUESTS = 3  # of those that old workers still have in hand, in the line
WEIGHING = 5.0  # seconds that a worker's memory is believed: the kernel walks through all of it


class Reporter:
    """Makes the document of GET /status."""

    def __init__(self, fleet: Fleet, board: Board, totals: Totals, left_over: LeftOver) -> None:
        self.fleet = fleet
        self.board = board
        self.totals = totals
        self.left_over = left_over
        self.started = time.monotonic()
        self._highest: Counter[str] = Counter()
        self._weighed: dict[int, tuple[float, int | None]] = {}  # pid: when, private bytes

    def status(self, config: Config, listeners: list[Listener]) -> dict[str, Any]:
        """Times in microseconds; `*_usec` of a worker that are points in time count
        CLOCK_MONOTONIC, as `now_usec` does."""
        fleet = self.fleet
        uptime = time.monotonic() - self.started
        self._weighed = {w.pid: self._weight(w.pid) for w in fleet.workers() if w.pid}
        return {
            "sockd": sockd.__version__,
            "version": VERSION,
            "name": config.name,
            "pid": os.getpid(),
            "state": fleet.state,
            "now_usec": time.monotonic_ns() // 1000,
            "uptime_usec": int(uptime * 1e6),
            "started": round(time.time() - uptime, 3),
            "config": str(config.path) if config.path else None,
            "generation": fleet.served,
            "threads": config.settings.threads,
            "listeners": [self._listener(one, config) for one in listeners],
            "reloads": {
                "ok": fleet.reloads_ok,
                "failed": fleet.reloads_failed,
                "last_error": fleet.last_error,
            },
            "workers": [self._worker(worker) for worker in fleet.workers()],
            "wanted": fleet.live.wanted if fleet.live else None,
            "respawns": fleet.respawns,
            "left_over": [
                {"pid": pid, "id": name.removeprefix("sockd ")}
                for pid, name in sorted(self.left_over.found.items())
            ],
            "totals": self._totals(),
        }

    def look_at(self, listeners: list[Listener]) -> None:
        """Remember how long the queues are, as far as that costs next to nothing."""
        for listener in listeners:
            if not _is_unix(listener):
                self._remember(listener, backlog.of_tcp(listener.socket))

    def _remember(self, listener: Listener, found: backlog.Backlog) -> None:
        known = self._highest[listener.address]
        self._highest[listener.address] = max(known, found.waiting or 0)

    def _listener(self, listener: Listener, config: Config) -> dict[str, Any]:
        if _is_unix(listener):
            found = backlog.of_unix(listener.address, config.settings.limits.backlog)
        else:
            found = backlog.of_tcp(listener.socket)
        self._remember(listener, found)
        return {
            "name": listener.name,
            "address": listener.address,
            "queue": found.waiting,
            "highest": None if found.waiting is None else self._highest[listener.address],
            "limit": found.limit,
        }

    def _worker(self, worker: Worker) -> dict[str, Any]:
        slot = worker.slot
        fields = self.board.read(slot)
        del fields["request_started_usec"]  # `in_hand` has it
        duration, queue = fields.pop("duration_usec"), fields.pop("queue_usec")
        return {
            **fields,
            "id": str(worker.id),
            "generation": worker.id.generation,
            "worker": worker.id.serial,
            "pid": worker.pid,
            "state": str(worker.state),
            "in_hand": self.board.in_hand(slot),
            "duration": spread(self.board.durations(slot), duration, buckets=False),
            "queue": spread(self.board.queues(slot), queue, buckets=False),
            "memory": self._weighed[worker.pid][1] if worker.pid else None,
            "cpu_usec": processes.cpu_usec(worker.pid) if worker.pid else None,
        }

    def _weight(self, pid: int) -> tuple[float, int | None]:
        now = time.monotonic()
        if pid in self._weighed and now < self._weighed[pid][0] + WEIGHING:
            return self._weighed[pid]
        held = memory.of(pid)
        return now, held.private if held else None

    def _totals(self) -> dict[str, Any]:
        happened = self.totals.earlier + self.fleet.happened
        return {
            **self.totals.now(self.board, living(self.fleet)).document(),
            "respawns": {cause: happened[f"respawns.{cause}"] for cause in metrics.CAUSES},
            "reloads": {how: happened[f"reloads.{how}"] for how in ("ok", "failed")},
        }


def living(fleet: Fleet) -> list[tuple[int, int | None]]:
    """Slot and pid of each worker."""
    return [(worker.slot, worker.pid) for worker in fleet.workers()]


def _is_unix(listener: Listener) -> bool:
    return listener.address.startswith(("/", "@"))


def line(fleet: Fleet, board: Board, left_over: str = "") -> str:
    """`generation 2: 4 workers, 1 busy; 2 draining`: STATUS= of sd_notify(3). `left_over` is what
    an earlier master left."""
    behind = f"; {left_over}" if left_over else ""
    if fleet.state == "stopping":
        left = len(list(fleet.workers()))
        return f"stopping, {_count(left, 'worker')} left{behind}"
    if fleet.live is None:
        return ("waiting to boot again" if fleet.waiting else "loading the application") + behind
    ready = fleet.live.in_state(W.READY)
    busy = sum(1 for worker in ready if board.read(worker.slot)["request_started_usec"])
    text = f"generation {fleet.live.number}: {_count(len(ready), 'worker')}, {busy} busy"
    if not fleet.live.wanted:
        text += ", drained until a reload or `sockd workers +1`"
    elif len(ready) < fleet.live.wanted:
        text += f", {fleet.live.wanted} wanted"
    draining = [worker for worker in fleet.workers() if worker.state is W.DRAINING]
    if draining:
        text += f"; {len(draining)} draining"
        if busy_with := [
            _request(worker, board) for worker in draining if _request(worker, board)
        ]:
            text += f" ({', '.join(busy_with[:MOST_REQUESTS])})"
    text += behind
    if fleet.proving:
        text += "; trying the sockd that is to go on"
    if fleet.candidate:
        text += f"; loading generation {fleet.candidate.number}"
    elif fleet.last_error:
        text += f"; last reload failed: {fleet.last_error}"
    return text.replace("\n", " ")[:1000]


def _request(worker: Worker, board: Board) -> str:
    """The oldest that it has in hand, without the query: everybody may read this line."""
    found = board.in_hand(worker.slot)
    if not found:
        return ""
    return f"{worker.id}: {found[0]['method']} {found[0]['target'].partition('?')[0]}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
