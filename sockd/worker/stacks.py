"""Where the threads of this process are."""

from __future__ import annotations

import sys
import threading
import traceback

from sockd import loader


def stacks() -> str:
    """The Python stacks of all threads, but the caller's: the loop, which is here to answer."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = threading.get_ident()
    frames = sys._current_frames()
    head = "Thread MainThread waits for connections\n"
    return head + "".join(
        f"\nThread {names.get(ident, ident)} (most recent call last):\n"
        + "".join(traceback.format_stack(frames[ident]))
        for ident in frames
        if ident != own
    )


def told() -> str:
    """As much of that as a message takes."""
    return loader.bounded(stacks(), 24 * 1024)  # as JSON it can be six times as long
