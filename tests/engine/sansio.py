"""The parser and the body reader as the loop uses them, without sockets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sockd.http.body import BodyReader
from sockd.http.parser import Refused, RequestHead


@dataclass(frozen=True)
class Request:
    method: bytes
    target: bytes
    body: bytes
    host: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    end: int
    """Where the next request begins, counted from the first byte of all input."""


@dataclass
class Outcome:
    requests: list[Request] = field(default_factory=list)
    end: str = "idle"
    """idle, more (the middle of a request), close, or the status and reason of a refusal."""


def read(data: bytes, cuts: Iterable[int] = (), *, body: int = 1 << 30, **limits: int) -> Outcome:
    """What `data` holds when it comes in pieces that end at `cuts`; `limits` as in Settings."""
    outcome = Outcome()
    in_body = {key: limits[key] for key in limits if key != "request_line"}
    start = 0  # of what is read: a head, or a piece of a body
    head, reader = RequestHead(**limits), None
    try:
        for came in (*sorted(cuts), len(data)):
            while True:
                if reader is None:
                    size = head.feed(data[start:came])
                    if not size:
                        outcome.end = "more" if came > start else "idle"
                        break
                    start += size
                    length = max(head.content_length, 0)
                    reader = BodyReader(chunked=head.chunked, length=length, limit=body, **in_body)
                start += reader.feed(data[start:came])
                if not reader.complete:
                    outcome.end = "more"
                    break
                content = reader.take().read()
                outcome.requests.append(
                    Request(
                        head.method, head.target, content, head.authority,
                        tuple(head.fields), start,
                    )
                )  # fmt: skip
                if not head.keep_alive:
                    outcome.end = "close"
                    return outcome
                head, reader = RequestHead(**limits), None
    except Refused as refused:
        outcome.end = f"{refused.status} {refused}"
    return outcome
