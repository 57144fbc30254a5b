"""Nothing is dropped: restarts and reloads under load, from clients that never retry."""

from __future__ import annotations

import pytest

from tests.lab.service import ANSWERS_ITS_VERSION, Service, wait_until


def version(number: int) -> str:
    return ANSWERS_ITS_VERSION.format(version=f"version {number}")


@pytest.fixture
def running(service: Service) -> Service:
    service.configure(version(0), 'unit.watchdog = "3s"\n')
    service.systemctl("start")
    assert service.get() == "version 0"
    return service


@pytest.mark.parametrize("way", ["url", "direct"], ids=["nginx", "direct"])
def test_restarts_under_load(running: Service, way: str) -> None:
    with running.load(getattr(running, way), clients=6) as load:
        for _ in range(10):
            running.systemctl("restart")
    load.assert_nothing_failed()


@pytest.mark.parametrize("way", ["url", "direct"], ids=["nginx", "direct"])
def test_reloads_under_load(running: Service, way: str) -> None:
    master = running.property("MainPID")
    with running.load(getattr(running, way), clients=6) as load:
        for number in range(1, 6):
            running.write(version(number))
            running.systemctl("reload")
            assert running.get() == f"version {number}"
    load.assert_nothing_failed()
    assert load.last == "version 5"
    assert set(load.answers) == {f"version {number}" for number in range(6)}
    assert running.property("MainPID") == master


def test_reloads_of_broken_code_under_load(running: Service) -> None:
    with running.load(running.direct, clients=6) as load:
        running.write("def app(environ, start_response:\n")
        for _ in range(5):
            reload = running.systemctl("reload", check=False)
            assert reload.returncode == 1
            assert running.property("ActiveState") == "active"
            assert running.property("ReloadResult") == "exit-code"
            assert running.get() == "version 0"
    load.assert_nothing_failed()
    assert set(load.answers) == {"version 0"}
    assert "SyntaxError" in running.journal()

    running.write(version(1))
    running.systemctl("reload")
    assert running.get() == "version 1"


def test_upgrades_in_place_under_load(running: Service) -> None:
    """systemd sees reloads of one main process that never misses its watchdog; a program that is
    not there any more leaves the old one serving."""
    machine, name = running.machine, running.name
    master = running.property("MainPID")
    with running.load(running.direct, clients=6) as load:
        for number in range(1, 4):
            running.write(version(number))
            machine.run("sockd", "upgrade", name)
            assert running.get() == f"version {number}"
            assert running.property("ActiveState") == "active"
        machine.run("systemctl", "kill", "--signal=USR2", "--kill-whom=main", f"{name}.service")
        wait_until(lambda: running.status()["generation"] == 5, "the upgrade by signal")
        machine.run("mv", "/usr/bin/sockd", "/usr/bin/sockd.away")
        done = machine.run(*("python3", "-m", "sockd", "upgrade", name), check=False)
        machine.run("mv", "/usr/bin/sockd.away", "/usr/bin/sockd")
        assert done.returncode == 1
        assert "cannot execute /usr/bin/sockd: No such file or directory" in done.stderr
        assert running.status()["generation"] == 5
        running.systemctl("reload")
    load.assert_nothing_failed()
    assert load.last == "version 3"
    assert running.property("MainPID") == master
    assert running.property("NRestarts") == "0"
    assert running.property("Result") == "success"


def test_reloads_keep_connections_open(running: Service) -> None:
    """Idle keep-alive connections of a retired worker end with an answer, never with a reset."""
    with running.load(running.direct, clients=6, kind="keep") as load:
        for number in range(1, 4):
            running.write(version(number))
            running.systemctl("reload")
    load.assert_nothing_failed()
    assert load.last == "version 3"
