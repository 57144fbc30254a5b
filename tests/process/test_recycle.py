"""Workers that are replaced while they serve."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from .conftest import APP, Load, Service, children, descriptors, eventually

GROWS = APP.replace('VERSION = "1"', 'VERSION = "1"\nheld = []').replace(
    "    path = environ", '    held.append(bytearray(b"x") * (1 << 20))\n    path = environ', 1
)


class Watch:
    """How few workers were ever ready, seen from the control socket, and which there were."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.fewest = 1000
        self.most = 0
        self.ids: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            workers: list[dict[str, Any]] = self.service.status()["workers"]
            ready = [worker["id"] for worker in workers if worker["state"] == "ready"]
            self.ids |= set(ready)
            self.fewest = min(self.fewest, len(ready))
            self.most = max(self.most, len(workers))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()


@pytest.mark.parametrize(
    ("limit", "code", "reason"),
    [
        ({"recycle.max_requests": 50}, APP, "requests (recycle.max_requests)"),
        ({"recycle.max_memory": "60MiB"}, GROWS, "MiB of its own (recycle.max_memory)"),
        ({"recycle.max_age": "1s"}, APP, "1 s (recycle.max_age)"),
    ],
    ids=["requests", "memory", "age"],
)
def test_under_load_nothing_is_lost_and_nobody_is_missing(
    service: Service, limit: dict[str, Any], code: str, reason: str
):
    service.settings |= {"workers": 4, **limit}
    service.write(code)
    service.start().ready()
    before = set(service.workers())
    fds = descriptors(service.pid)
    with Load(service) as load, Watch(service) as watch:
        eventually(lambda: len(watch.ids) >= len(before) + 8)
    assert not load.failures
    assert load.answers
    assert watch.fewest >= 4
    assert watch.most <= 6  # one that comes, one that goes
    assert {worker.partition(".")[0] for worker in watch.ids} == {"1"}
    assert reason in service.log()
    assert service.status()["respawns"] == 0
    assert "died" not in service.log()
    eventually(lambda: len(children(service.pid)) <= 7)
    assert descriptors(service.pid) <= fds + 4
    assert service.stop() == 0


def test_the_replacement_is_of_the_same_generation_and_code(service: Service):
    service.settings |= {"workers": 1, "recycle.max_requests": 1}
    service.start().ready()
    service.write("half deployed(")
    assert service.get()[1].split()[0] == "1"
    eventually(lambda: set(service.workers()) == {"1.2"})
    assert service.get()[1].split()[0] == "1"
    assert service.stop() == 0
