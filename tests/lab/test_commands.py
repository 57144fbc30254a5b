"""sockd's own commands where systemd runs the service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.service import ANSWERS_ITS_VERSION, Service


@pytest.fixture
def listening(service: Service) -> Iterator[Service]:
    """Its socket is up, the service not yet started."""
    service.configure(ANSWERS_ITS_VERSION.format(version="one"))
    service.systemctl("start", "socket")
    yield service


def states(service: Service) -> tuple[str, str]:
    return service.property("ActiveState", "socket"), service.property("ActiveState")


def test_stop_takes_along_the_socket_that_would_revive_the_service(listening: Service) -> None:
    service = listening
    assert service.get(service.direct) == "one"
    done = service.machine.run("sockd", "stop", service.name)
    assert done.stderr == f"sockd: stopped {service.name}.socket and {service.name}.service\n"
    assert states(service) == ("inactive", "inactive")
    assert service.machine.run("sockd", "stop", service.name, check=False).returncode == 69


def test_stop_of_a_service_that_waits_for_its_first_client(listening: Service) -> None:
    service = listening
    done = service.machine.run("sockd", "stop", service.name)
    assert done.stderr == f"sockd: stopped {service.name}.socket\n"
    assert states(service) == ("inactive", "inactive")


def test_check_leaves_addresses_to_systemd(listening: Service) -> None:
    service = listening
    done = service.machine.run("sockd", "check", service.name)
    assert f"ok      systemd listens for it: {service.name}.socket\n" in done.stdout
    assert service.property("ActiveState") == "inactive"


def test_reload_says_what_came_of_it(listening: Service) -> None:
    service = listening
    service.get(service.direct)
    service.write(ANSWERS_ITS_VERSION.format(version="two"))
    done = service.machine.run("sockd", "reload", service.name)
    assert done.stderr == "sockd: reloaded: generation 2 serves\n"
    assert service.get(service.direct) == "two"
    service.write("1 / 0\n")
    done = service.machine.run("sockd", "reload", service.name, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert service.get(service.direct) == "two"


def test_a_stranger_may_not_ask(listening: Service) -> None:
    service = listening
    service.get(service.direct)
    done = service.machine.run(
        "runuser", "-u", "nobody", "--", "sockd", "stop", service.name, check=False
    )
    assert done.returncode == 77
    assert "only root and the service's own user may ask" in done.stderr
    assert service.get(service.direct) == "one"
    service.machine.sh(f"sed -i 's/^workers.*/workers = 1/' /etc/sockd/{service.name}.toml")
    service.machine.sh(f"echo 'limits.backlog = 77' >> /etc/sockd/{service.name}.toml")
    for words in (["--install"], ["--uninstall"]):
        done = service.machine.run(
            *("runuser", "-u", "nobody", "--", "sockd", "generate-units", service.name, *words),
            check=False,
        )
        assert done.returncode == 77
        assert "run this as root" in done.stderr
    assert service.get(service.direct) == "one"
