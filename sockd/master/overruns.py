"""What the journal says of a request that took longer than `timeouts.request`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sockd.journal import ERR
from sockd.master.events import Note, WorkerId
from sockd.worker.overruns import sentence

CAUSE = "request timeout"  # of a worker's end


def entry(worker: WorkerId, request: Mapping[str, Any]) -> Note:
    """`request` is what the worker said of it: sockd.worker.messages."""
    text = f"{sentence(request)}; worker {worker} is replaced"
    return Note(ERR, text, worker.generation, worker, request.get("stacks", ""), request)


def first(stacks: str, thread: int) -> str:
    """What faulthandler wrote, with the stack of this thread before the others."""
    parts = [part for part in stacks.split("\n\n") if part.strip()]
    parts.sort(key=lambda part: f"hread 0x{thread:016x} " not in part)
    return "\n\n".join(part.strip("\n") for part in parts)
