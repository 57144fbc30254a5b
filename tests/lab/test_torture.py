"""Everything at once, for a while; `make torture` goes on for as long as it is told to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.service import TORTURE, Service
from tests.lab.torture import Torture
from tests.seed import FACTOR, SEED

SECONDS = {"trixie": 40 * FACTOR, "bookworm": 20 * FACTOR}


@pytest.fixture
def torture(service: Service) -> Iterator[Torture]:
    made = Torture(service)
    made.deploy()
    yield made
    made.remove()


def test_the_client_sees_what_is_lost(machine: Machine) -> None:
    """There, with that Python: one reset and one double execution."""
    machine.run(*TORTURE, "--self-test")


def test_nothing_is_lost(torture: Torture) -> None:
    load = torture.run(SECONDS[torture.service.machine.suite], SEED)
    print(torture.made, load.__dict__)
    load.assert_nothing_failed()
