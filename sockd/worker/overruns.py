"""Requests that take too long: what the loop has to say of them, for the journal and the master.

A request is a dict here, as the message to the master has it (sockd.worker.messages): `elapsed` in
seconds, `thread` as the interpreter numbers it, and `method`, `target`, `client` and `request_id`
where they are known.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from sockd import journal, loader

Request = Mapping[str, Any]
LIMIT = 24 * 1024  # bytes of stacks in a message: as JSON they can be six times as long

ANSWERS = {
    "504": "answered with 504 after {:.1f} s",
    "cut": "response cut, nothing came for {:.1f} s",
    "complete": "answered, but close() of the response took {:.1f} s",
    "its own": "took {:.1f} s, and went on with an answer of its own",
}
WAYS = {
    "raised": "RequestTimeout was raised in it",
    "thread": "its thread goes on until its worker ends",
    "stuck": "it could not be interrupted",
    "deaf": "it went on after RequestTimeout was raised in it",
}


class Overruns:
    def __init__(self, tell: Callable[[dict[str, Any]], bool]) -> None:
        """`tell` sends a message to the master, if that is possible."""
        self._tell = tell
        self._stacks = ""

    def slow(self, request: Request, frame: FrameType | None) -> None:
        """One journal entry with the stack of a request that goes on; `frame` is where it is, if
        it is interrupted for this."""
        frame = frame or sys._current_frames().get(request["thread"])
        elapsed = request["elapsed"]
        journal.log(
            journal.WARNING,
            f"{describe(request)}: slow, {elapsed:.1f} s so far (log.slow)\n"
            f"{loader.bounded(stack(frame)) if frame else ''}".rstrip(),
            **journal.request_fields(request),
        )

    def stopped(self, thread: int, frame: FrameType | None) -> None:
        """A request is at its deadline: remember where all threads are, before that changes."""
        self._stacks = stacks(thread, frame)

    def over(self, request: Request, able: bool) -> None:
        """It was answered, or ended: tell the master. `able`: this worker can serve on."""
        stacks, self._stacks = loader.bounded(self._stacks, LIMIT), ""
        if not self._tell({"timeout": {**request, "able": able, "stacks": stacks}}):
            text = f"{sentence(request)}\n{stacks}".rstrip()
            journal.log(journal.ERR, text, **journal.request_fields(request))


def describe(request: Request) -> str:
    return f"{request.get('method', '')} {request.get('target', '')}".strip() or "a request"


def sentence(request: Request) -> str:
    """What became of one that was over its time."""
    answer = ANSWERS[request["answer"]].format(request["elapsed"])
    who = request.get("client") or "a Unix socket"
    way = WAYS[request["how"]]
    return f"{describe(request)} (from {who}): {answer} (timeouts.request): {way}"


def stack(frame: FrameType) -> str:
    """The stack of one thread, without the frames of sockd that lead to the application."""
    entries = traceback.extract_stack(frame)
    while len(entries) > 1 and loader.is_own(entries[0].filename):
        del entries[0]
    return "".join(traceback.format_list(entries))


def stacks(first: int, frame: FrameType | None = None) -> str:
    """Those of all threads, `first` before the others; it is at `frame`, if that is given."""
    frames = dict(sys._current_frames())
    if frame:
        frames[first] = frame
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(ident, ident)} (most recent call last):\n{stack(frames[ident])}"
        for ident in sorted(frames, key=lambda ident: ident != first)
    )
