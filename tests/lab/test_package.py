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


def test_lintian_has_no_error(machine: Machine) -> None:
    log = (deb(machine.suite).parent / "log").read_text()
    assert "dpkg-buildpackage: info: binary" in log or "dpkg-genchanges" in log
    assert [line for line in log.splitlines() if line.startswith("E: ")] == []
