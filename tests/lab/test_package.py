"""The Debian package, as apt and lintian see it."""

from tests.lab.machine import Machine
from tests.lab.package import deb

PYTHON = {"trixie": "313", "bookworm": "311"}


def test_apt_brings_what_sockd_depends_on(machine: Machine) -> None:
    brought = machine.out("apt-mark", "showauto").split()
    assert {"python3-systemd", "python3-sdnotify", "python3-jinja2"} <= set(brought)
    assert machine.out("sockd", "--version") == "sockd 0.1.0"


def test_package_holds_what_runs_and_nothing_else(machine: Machine) -> None:
    files = machine.out("dpkg", "--listfiles", "sockd").splitlines()
    modules = "/usr/lib/python3/dist-packages/sockd/"
    assert modules + f"http/loop.cpython-{PYTHON[machine.suite]}-x86_64-linux-gnu.so" in files
    assert modules + "templates/service.j2" in files
    ends = (".c", ".pyx", ".o")
    assert [name for name in files if name.endswith(ends)] == []


# Argued in debian/control: an override would be one too many for the other suite's lintian.
ARGUED = {"I: sockd source: out-of-date-standards-version 4.6.2"}


def test_lintian_finds_nothing_that_is_not_argued(machine: Machine) -> None:
    tags = (deb(machine.suite).parent / "lintian").read_text().splitlines()
    assert [tag for tag in tags if tag.startswith("O: ")], "it has looked, and at all it knows"
    found = {tag.partition(" (")[0] for tag in tags if tag[:1] in "EWIPXC" and tag[1:3] == ": "}
    assert found - ARGUED == set()
