"""What the master decides about a worker whose request took longer than `timeouts.request`."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from sockd.board import FIELDS, SLOT_BYTES, Board
from sockd.journal import ERR
from sockd.master import report
from sockd.master.events import (
    Drain,
    KillWorker,
    Note,
    NoteStacks,
    Plan,
    Release,
    Reload,
    Serve,
    Spawn,
    Spawned,
    TimedOut,
    WorkerId,
)
from sockd.master.overruns import entry, first
from sockd.master.roster import GRACE, LIVED
from sockd.worker.overruns import ANSWERS, WAYS

from .test_fleet import World, kinds

ONE, TWO = WorkerId(1, 1), WorkerId(1, 2)


def request(how: str = "raised", **more: Any) -> dict[str, Any]:
    made = {
        "how": how, "answer": "504", "elapsed": 60.02, "thread": 0x7F00, "method": "GET",
        "target": "/report?year=1", "client": "10.0.0.1", "request_id": "r-1",
    }  # fmt: skip
    if how in ("raised", "thread"):
        made["stacks"] = "Thread MainThread"
    return {**made, **more}


def entries(world: World) -> list[Note]:
    all_notes = [one.note if isinstance(one, NoteStacks) else one for one in world.all]
    return [one for one in all_notes if isinstance(one, Note) and one.request]


def test_one_that_can_serve_is_replaced_first() -> None:
    world = World(Plan(workers=1, drain=30.0, request=60.0)).boot()
    assert world.tell(TimedOut(ONE, request(), True)) == [Spawn(TWO, 1)]
    assert world.states() == {"1.1": "ready", "1.2": "spawning"}
    # What else it has in hand has its own deadline.
    assert world.come_up(1, 2) == [Serve(TWO), Drain(ONE, 61.0, False, True)]
    world.die(1, 1, 0)
    assert world.states() == {"1.2": "ready"}
    (note,) = entries(world)
    assert note.priority == ERR
    assert note.detail == "Thread MainThread"
    assert note.message == (
        "GET /report?year=1 (from 10.0.0.1): answered with 504 after 60.0 s (timeouts.request): "
        "RequestTimeout was raised in it; worker 1.1 is replaced"
    )
    assert "worker 1.1: to be replaced after a request timeout" in world.notes()
    assert world.fleet.happened["respawns.request_timeout"] == 1
    assert world.fleet.respawns == 0


def test_many_in_one_worker_replace_it_once() -> None:
    world = World(Plan(workers=1)).boot()
    for _ in range(3):
        world.tell(TimedOut(ONE, request("thread"), True))
    assert len(entries(world)) == 3
    assert list(world.states()) == ["1.1", "1.2"]


def test_one_whose_threads_are_all_lost_does_not_wait_for_its_replacement() -> None:
    world = World().boot()
    decisions = world.tell(TimedOut(ONE, request("thread"), False))
    assert decisions == [Drain(ONE, GRACE, False, True), Spawn(WorkerId(1, 3), 2)]
    assert kinds(world.wait(2 * GRACE)) == [KillWorker]
    assert kinds(world.die(1, 1)) == [Release]
    assert len(entries(world)) == 1


@pytest.mark.parametrize("lived", [0.0, LIVED])
def test_one_that_is_stuck_is_replaced_at_once_and_told_of_with_its_stacks(lived: float) -> None:
    world = World().boot()
    world.wait(lived)
    decisions = world.tell(TimedOut(ONE, request("stuck"), False, 0.5))
    assert decisions == [Spawn(WorkerId(1, 3), 2)]
    assert world.states()["1.1"] == "draining"
    assert not entries(world), "the stacks are being written"
    decisions = world.die(1, 1)
    assert kinds(decisions) == [NoteStacks, Release]
    assert "worker 1.1: ended, killed by SIGKILL (request timeout)" in world.notes()
    assert world.fleet.respawns == world.fleet.happened["respawns.request_timeout"] == 1
    assert world.fleet.generations[1].hold.failures == 0
    world.come_up(1, 3)
    assert world.states() == {"1.2": "ready", "1.3": "ready"}


def test_the_master_kills_it_if_nobody_else_does() -> None:
    world = World().boot()
    world.tell(TimedOut(ONE, request("stuck"), False, 10.0))
    world.tell(Spawned(WorkerId(1, 3), 1003))
    assert world.wait(10.5) == []
    assert world.wait(GRACE) == [KillWorker(ONE, 1001)]
    world.die(1, 1)
    assert len(entries(world)) == 1


def test_one_that_drains_already_has_no_longer_for_it() -> None:
    world = World().boot()
    world.tell(Reload())
    world.load(2)
    assert world.states()["1.1"] == "draining"
    world.tell(TimedOut(TWO, request("thread"), True))
    world.tell(TimedOut(ONE, request("stuck"), False, 0.5))
    assert KillWorker(ONE, 1001) in world.wait(2.0)
    world.die(1, 1)
    assert len(entries(world)) == 2
    assert not world.fleet.happened["respawns.request_timeout"]
    assert "1.3" not in world.states()


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_words(how: str, answer: str) -> None:
    note = entry(ONE, request(how, answer=answer))
    assert ANSWERS[answer].format(60.02) in note.message
    assert WAYS[how] in note.message
    bare = entry(ONE, {"how": how, "answer": answer, "elapsed": 1, "thread": 1})
    assert bare.message.startswith("a request (from a Unix socket): ")


def test_the_thread_in_question_comes_first() -> None:
    written = (
        "Thread 0x0000000000000001 (most recent call first):\n  here\n\n"
        "Current thread 0x000000000000000a (most recent call first):\n  there\n"
    )
    assert first(written, 1).startswith("Thread 0x0000000000000001 ")
    assert first(written, 10).startswith("Current thread 0x000000000000000a ")
    assert first(written, 10).count("most recent") == 2
    assert first("", 10) == ""


def test_a_deadline_that_nobody_enforces_is_seen() -> None:
    world = World().boot()
    board = Board.create(64)
    assert not report.overdue(world.fleet, board, 100.0)
    worker = world.fleet._find(ONE)
    assert worker
    offset = worker.slot * SLOT_BYTES + 8 * FIELDS.index("deadline_usec")
    with mmap.mmap(board.fd, 0) as memory:
        memory[offset : offset + 8] = (100_000_000).to_bytes(8, "little")
    assert board.read(worker.slot)["deadline_usec"] == 100_000_000
    assert not report.overdue(world.fleet, board, 100.0 + report.UNENFORCED)
    assert report.overdue(world.fleet, board, 100.1 + report.UNENFORCED)
    world.tell(TimedOut(ONE, request("stuck"), False, 0.5))
    world.wait(5.0)
    assert not report.overdue(world.fleet, board, 200.0), "it is being killed"
