"""Every lab test on each suite: one machine for all of them, booted once; a service of its own for
each test that asks.

A failing test reports the end of the machine's journal, and the machine's directory is kept.
Without root they fail: a lab test that is not run has shown nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.image import SUITES
from tests.lab.machine import CommandFailed, Machine
from tests.lab.package import deb
from tests.lab.service import Service, push_torture
from tests.lab.site import deploy, install_sockd

HERE = Path(__file__).parent
FAILED = pytest.StashKey[bool]()
MACHINE = pytest.StashKey[Machine]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("lab")


@pytest.fixture(scope="session", params=SUITES)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Booted, with sockd installed from its package by apt."""
    if os.geteuid() != 0:
        pytest.fail("lab tests boot a machine and need root: make test asks sudo for it")
    config = request.config
    deb(request.param)  # by a machine of its own, and first: what fails there fails alone
    machine = config.stash[MACHINE] = Machine("tests", request.param)
    try:
        machine.boot()
        install_sockd(machine)
        push_torture(machine)
        yield machine
    except BaseException:
        config.stash[FAILED] = True
        raise
    finally:
        machine.poweroff(keep=config.stash.get(FAILED, False))


ports = itertools.count(8100, 3)


@pytest.fixture
def service(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A name, ports and what a test does with them; removed after it."""
    port = next(ports)
    service = Service(machine, f"app{port}", port)
    yield service
    service.remove()


@pytest.fixture(scope="session")
def shop(machine: Machine) -> Service:
    """The Django example, its socket enabled and listening. It is asked as shop.example."""
    deploy(machine, "shop")
    return Service(machine, "shop", 80)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    machine = item.config.stash.get(MACHINE, None)
    if report.failed and machine is not None and HERE in item.path.parents:
        item.config.stash[FAILED] = True
        report.sections.append((f"journal of the machine, kept in {machine.home}", tail(machine)))
    return report


def tail(machine: Machine) -> str:
    """The end of its journal, also of a machine that is off."""
    try:
        if machine.leader:
            return machine.journal("--lines=120")
        return "".join((machine.home / "journal").read_text().splitlines(keepends=True)[-120:])
    except (OSError, CommandFailed) as error:
        return f"not to be had: {error}"
