"""Putting sockd, and applications under it, on a booted machine, as an operator would."""

from __future__ import annotations

from tests.lab.image import ROOT
from tests.lab.machine import Machine
from tests.lab.package import deb

EXAMPLES = ROOT / "examples"


def install_sockd(machine: Machine) -> None:
    """By apt, which resolves the dependencies."""
    package = deb(machine.suite)
    machine.push(package, f"/root/{package.name}")
    machine.run("apt-get", "install", "--yes", f"/root/{package.name}", timeout=300)


def deploy(machine: Machine, name: str) -> None:
    """The example `name`, socket-activated behind nginx, enabled and listening."""
    machine.push(EXAMPLES / name, f"/srv/{name}")
    machine.run("mv", f"/srv/{name}/{name}.toml", f"/etc/sockd/{name}.toml")
    machine.run("sockd", "generate-units", name, "--install")
    if name == "shop":
        prepare_shop(machine)
    machine.run("systemctl", "enable", "--now", f"{name}.socket")


def prepare_shop(machine: Machine) -> None:
    """Django's own steps: the tables, as the service's user, and the static files, as root."""
    machine.run("apt-get", "install", "--yes", "python3-django", timeout=300)
    manage = ("sockd", "exec", "shop", "--", "python3", "manage.py")
    machine.run(*manage, "migrate")
    machine.run("sockd", "exec", "--here", *manage[2:], "collectstatic", "--no-input")
