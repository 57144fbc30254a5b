"""Generations and workers under systemd, in a hardened unit."""

from __future__ import annotations

import pytest

from tests.lab.service import ANSWERS_ITS_VERSION, Service, wait_until

APP = ANSWERS_ITS_VERSION.format(version="here")
GROWS = "held = []\n" + APP.replace(
    "    return", '    held.append(bytearray(b"x") * (1 << 20))\n    return'
)


def test_an_idle_service_ends_and_the_next_client_starts_it(service: Service) -> None:
    service.configure(APP, 'timeouts.idle_exit = "2s"\n')
    service.systemctl("start")
    for _ in range(3):
        assert service.get(service.direct) == "here"
        wait_until(lambda: service.property("ActiveState") == "inactive", "its end", 60)
        assert service.property("Result") == "success"
        assert service.property("ActiveState", "socket") == "active"
    assert "no connection for 2 s" in service.journal()


def test_clients_of_an_idle_service_are_all_answered(service: Service) -> None:
    service.configure(APP, 'timeouts.idle_exit = "50ms"\n')
    service.systemctl("start")
    ends = lambda: service.journal().count("no connection for 0.05 s")  # noqa: E731
    with service.load(service.direct, clients=2, think=0.1) as load:
        wait_until(lambda: ends() >= 5, "five of its ends", 120)
    load.assert_nothing_failed(least=5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ('[recycle]\nmax_memory = "40MiB"\n', "recycle.max_memory"),
        ("[recycle]\nmax_requests = 100\n", "recycle.max_requests"),
    ],
)
def test_workers_are_recycled_under_load(service: Service, settings: str, reason: str) -> None:
    service.configure(GROWS, settings)
    service.systemctl("start")
    with service.load(service.url) as load:
        wait_until(lambda: service.journal().count(f"({reason})") >= 8, "eight of them", 120)
    load.assert_nothing_failed()
    assert service.status()["respawns"] == 0


def test_a_reload_that_fails_in_the_warm_up(service: Service) -> None:
    service.configure(APP, 'app.warmup = ["/"]\n')
    service.systemctl("start")
    service.write("def app(environ, start_response):\n    raise OSError('no database')\n")
    with service.load(service.url) as load:
        assert service.systemctl("reload", check=False).returncode == 1
        done = service.machine.run("sockd", "reload", service.name, check=False)
    assert done.returncode == 1
    assert "warm-up GET /: the application raised OSError: no database" in done.stderr
    assert "in app" in done.stderr
    load.assert_nothing_failed()
    assert service.property("ActiveState") == "active"


def test_more_and_fewer_workers(service: Service) -> None:
    service.configure(APP)
    service.systemctl("start")
    service.machine.run("sockd", "workers", service.name, "+2")
    assert service.status()["wanted"] == 4
    service.machine.run("sockd", "workers", service.name, "-3")
    assert service.status()["wanted"] == 1
