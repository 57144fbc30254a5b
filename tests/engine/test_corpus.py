"""The corpus: one verdict for every case, whatever the split, from the parser and on the wire."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sansio
from conftest import Engine, as_asgi, start_engine
from corpus import CASES, FRAMING, LIMITS, Case, Seen

SPLITS = ("whole", "bytes", "line ends")


def cuts(data: bytes, split: str) -> list[int]:
    if split == "bytes":
        return list(range(1, len(data)))
    if split == "line ends":
        return [at for at in range(1, len(data)) if data[at] in b"\r\n"]
    return []


def pieces(data: bytes, split: str) -> Iterator[bytes]:
    start = 0
    for end in (*cuts(data, split), len(data)):
        yield data[start:end]
        start = end


def reporter(environ, start_response):
    """Says in a field what it got; that reaches the client of a HEAD as well."""
    fields = {
        key[5:].lower().replace("_", "-"): value
        for key, value in environ.items()
        if key.startswith("HTTP_") and key != "HTTP_HOST"
    }
    seen = {
        "method": environ["REQUEST_METHOD"],
        "target": environ["RAW_URI"],
        "body": environ["wsgi.input"].read(-1).decode("latin-1"),
        "host": environ.get("HTTP_HOST", ""),
        "fields": {name: value for name, value in fields.items() if name not in FRAMING},
    }
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Seen", json.dumps(seen))])
    return [b""]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    options = {f"limits_{name}": value for name, value in LIMITS.items()}
    engine = start_engine(reporter, **options)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tasks() -> Iterator[Engine]:
    options = {f"limits_{name}": value for name, value in LIMITS.items()}
    engine = start_engine(as_asgi(reporter), app_interface="asgi", **options)
    yield engine
    engine.close()


def test_the_corpus_is_whole() -> None:
    assert len(CASES) >= 600
    refused = {case.refusal for case in CASES.values() if case.refusal}
    assert len(refused) >= 30


@pytest.mark.parametrize("name", CASES)
def test_parser(name: str) -> None:
    case = CASES[name]
    for split in SPLITS:
        data = case.sent
        if split == "bytes" and len(data) > 4000:
            continue  # quadratic here: the head is parsed from its first byte; test_wire has it
        outcome = sansio.read(data, cuts(data, split), **LIMITS)
        assert outcome.end == ("idle" if case.end == "idle" else expected_end(case)), split
        assert len(outcome.requests) == len(case.expected), split
        for expected, request in zip(case.expected, outcome.requests, strict=True):
            assert expected.matches(seen(request)), (split, request)


def expected_end(case: Case) -> str:
    # Nothing was begun where nothing was sent.
    return "idle" if case.end == "more" and not case.wire else case.end


def seen(request: sansio.Request) -> Seen:
    fields: dict[str, str] = {}
    for key, value in request.fields:
        name, text = key.decode().lower(), value.decode("latin-1")
        if name not in FRAMING:
            joint = "; " if name == "cookie" else ","
            fields[name] = fields[name] + joint + text if name in fields else text
    texts = (request.method, request.target, request.body, request.host)
    method, target, body, host = (text.decode("latin-1") for text in texts)
    return Seen(method, target, body, host, fields)


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD:wsgiref.validate.WSGIWarning")
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", CASES)
def test_wire(engine: Engine, name: str, split: str) -> None:
    check_wire(engine, name, split)


@pytest.mark.parametrize("name", CASES)
def test_wire_to_tasks(tasks: Engine, name: str) -> None:
    """ASGI's scope has no target but its parts, and its applications are called before a body that
    turns out bad."""
    check_wire(tasks, name, "bytes", early=True)


def check_wire(engine: Engine, name: str, split: str, *, early: bool = False) -> None:
    case = CASES[name]
    engine.reports.clear()
    requests, refused = engine.slot["requests"], engine.slot["refused"]
    answer = exchange(engine, case, split)
    found, refusals = parse_answers(answer)
    assert len(found) == len(case.expected)
    for expected, got in zip(case.expected, found, strict=True):
        if early:
            path = re.sub(r"^(?i:https?)://[^/?]*/?", "/", expected.target).removesuffix("?")
            expected = replace(expected, target=path)
        assert expected.matches(got), got
    assert refusals == ([case.refusal] if case.refusal else [])
    reports = [text for text, _ in engine.reports if "refused with" in text]
    assert len(reports) == len(refusals)
    begun = engine.slot["requests"] - requests
    assert begun == len(found) or (early and begun == len(found) + 1)
    assert engine.slot["refused"] - refused == len(refusals)
    assert engine.slot["exceptions"] == 0
    assert engine.talk(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def exchange(engine: Engine, case: Case, split: str) -> bytes:
    """Everything that comes back for a case, until the engine closes."""
    answer = b""
    with engine.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces(case.sent, split):
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            assert case.end == "close"
        try:
            while piece := client.recv(65536):
                answer += piece
        except ConnectionResetError:
            assert case.end == "close"
    return answer


def parse_answers(answer: bytes) -> tuple[list[Seen], list[str]]:
    """What the application saw, and the refusals, which have to be last and to close."""
    found, refusals = [], []
    while answer:
        head, _, answer = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode("ascii").split("\r\n")
        assert not refusals, "something was served after a refusal"
        if status == "HTTP/1.1 100 Continue":
            continue
        fields = dict(line.split(": ", 1) for line in lines)
        size = int(fields.get("Content-Length", 0))  # a HEAD's may have none
        body, answer = answer[:size], answer[size:]
        if "X-Seen" in fields:
            found.append(Seen(**json.loads(fields["X-Seen"])))
        else:
            assert fields["Connection"] == "close"
            refusals.append(f"{status.split()[1]} {body.decode().rstrip()}")
    return found, refusals
