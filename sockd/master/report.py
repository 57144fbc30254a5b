"""What the master says about itself: the answer to `sockd status`, and the line of systemctl."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sockd
from sockd.activation import Listener
from sockd.board import Board
from sockd.master.fleet import Fleet
from sockd.master.states import W, Worker

VERSION = 1  # of the answer's format
MOST_REQUESTS = 3  # of those that old workers still have in hand, in the line


def status(
    fleet: Fleet,
    board: Board,
    *,
    name: str,
    config: Path | None,
    listeners: list[Listener],
    started: float,
    left_over: Mapping[int, str],
) -> dict[str, Any]:
    """The whole truth, as JSON has it. Times in microseconds; `*_usec` of a worker that are points
    in time count CLOCK_MONOTONIC."""
    return {
        "sockd": sockd.__version__,
        "version": VERSION,
        "name": name,
        "pid": os.getpid(),
        "state": fleet.state,
        "uptime_usec": int((time.monotonic() - started) * 1e6),
        "config": str(config) if config else None,
        "generation": fleet.served,
        "listeners": [{"name": one.name, "address": one.address} for one in listeners],
        "reloads": {
            "ok": fleet.reloads_ok,
            "failed": fleet.reloads_failed,
            "last_error": fleet.last_error,
        },
        "workers": [_worker(worker, board.read(worker.slot)) for worker in fleet.workers()],
        "wanted": fleet.live.wanted if fleet.live else None,
        "respawns": fleet.respawns,
        "left_over": [{"pid": pid, "name": name} for pid, name in sorted(left_over.items())],
    }


def _worker(worker: Worker, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **fields,
        "id": str(worker.id),
        "generation": worker.id.generation,
        "worker": worker.id.serial,
        "pid": worker.pid,
        "state": str(worker.state),
    }


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
    if len(ready) < fleet.live.wanted:
        text += f", {fleet.live.wanted} wanted"
    draining = [worker for worker in fleet.workers() if worker.state is W.DRAINING]
    if draining:
        text += f"; {len(draining)} draining"
        if busy_with := [
            _request(worker, board) for worker in draining if _request(worker, board)
        ]:
            text += f" ({', '.join(busy_with[:MOST_REQUESTS])})"
    text += behind
    if fleet.candidate:
        text += f"; loading generation {fleet.candidate.number}"
    elif fleet.last_error:
        text += f"; last reload failed: {fleet.last_error}"
    return text.replace("\n", " ")[:1000]


def _request(worker: Worker, board: Board) -> str:
    """What it has in hand, without the query: everybody may read this line."""
    request = board.read(worker.slot)["request"].partition("?")[0]
    return f"{worker.id}: {request}" if request else ""


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
