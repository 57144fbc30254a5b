"""The Debian package, as apt and lintian see it."""

import re
import subprocess

from tests.lab.machine import Machine
from tests.lab.other_python import sockd_of
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


def test_everything_compiled_is_hardened(machine: Machine) -> None:
    modules = sorted(sockd_of(machine.suite).rglob("*.so"))
    assert modules
    for module in modules:
        shown = subprocess.check_output(["readelf", "-Wdl", module], text=True)
        assert "BIND_NOW" in shown, module
        assert "GNU_RELRO" in shown, module
        assert re.search(r"GNU_STACK .* RW ", shown), module
    log = (deb(machine.suite).parent / "log").read_text()
    compiled = re.findall(r"(?m)^.*-gcc .* -c build/cython/.*$", log)
    assert len(compiled) == len(modules)
    for line in compiled:
        for flag in ("-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-fcf-protection"):
            assert (flag in line) or (flag == "-fcf-protection" and machine.suite == "bookworm")


def test_manual_pages_render_without_a_warning(machine: Machine) -> None:
    machine.run("apt-get", "install", "--yes", "--no-install-recommends", "man-db")
    for section, page, line in (
        ("8", "sockd", "generate-units"),
        ("5", "sockd.toml", "timeouts.drain (duration)"),
        ("7", "sockd-units", "systemctl enable --now sockd@NAME.socket"),
    ):
        path = f"/usr/share/man/man{section}/{page}.{section}.gz"
        shown = machine.run("env", "MANWIDTH=100", "man", "--warnings=w", "--local-file", path)
        assert shown.stderr == ""
        assert line in " ".join(shown.stdout.split())
