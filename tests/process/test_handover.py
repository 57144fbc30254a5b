"""Connections that outlive the worker that accepted them."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.keepalive import NOTES, Conversation, Talks

from .conftest import Service, eventually


@pytest.fixture
def notes(service: Service, tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    service.write(NOTES.format(path=str(path)))
    return path


def version(service: Service, number: int) -> None:
    text = (service.app / "application.py").read_text()
    service.write(text.replace(text.split('"')[1], str(number), 1))


def reload(service: Service) -> None:
    code, answer = service.ask("POST", "/reload")
    assert (code, answer["ok"]) == (200, True), answer


@pytest.mark.parametrize("threads", [1, 4])
def test_whatever_replaces_workers_no_connection_ends(
    service: Service, notes: Path, threads: int
) -> None:
    service.settings |= {"workers": 3, "threads": threads, "recycle.max_requests": 300}
    service.start().ready()
    seed = random.randrange(1 << 30)
    with Talks(service.bind, seed=seed) as talks:
        for number in range(2, 8):
            version(service, number)
            reload(service)
            assert {talk.ask() for talk in talks.waiting} == {str(number)}
            talks.count += len(talks.waiting)
            worker = random.choice(list(service.workers().values()))
            os.kill(worker, signal.SIGTERM)
            service.ask("POST", "/workers", {"by": 1})
            service.ask("POST", "/workers", {"by": -1})
    talks.assert_each_ran_once(notes)
    assert "died" not in service.log()
    assert "Traceback" not in service.log()
    assert service.stop() == 0


def test_after_a_reload_old_code_answers_no_connection(service: Service, notes: Path) -> None:
    """Not even those of a worker that is busy all the time, and hears nothing."""
    service.settings |= {"workers": 1}
    service.start().ready()
    talks = [Conversation(service.bind) for _ in range(8)]
    busy, half, *idle = talks
    for talk in talks:
        assert talk.ask() == "1"
    request = half.request()
    half.socket.sendall(request[:10])
    behind = busy.request(3) + busy.request()
    busy.socket.sendall(behind)
    eventually(lambda: len(notes.read_text().split()) == 9)
    version(service, 2)
    reload(service)
    began = time.monotonic()
    assert [talk.ask() for talk in idle] == ["2"] * 6
    half.socket.sendall(request[10:])
    assert half.answer() == "2"
    assert time.monotonic() - began < 2, "they waited for a request that is none of theirs"
    assert [busy.answer(), busy.answer()] == ["1", "2"]
    assert all(talk.is_open() for talk in talks)
    for talk in talks:
        talk.close()
    assert service.stop() == 0
