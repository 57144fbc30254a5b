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
    """Django's own steps: the tables, as the service's user, and the static files."""
    machine.run("apt-get", "install", "--yes", "python3-django", timeout=300)
    user = machine.out("systemctl", "show", "--property=User", "--value", "shop.service")
    machine.run(
        *("systemd-run", "--quiet", "--wait", "--pipe", "--property=DynamicUser=yes"),
        *(f"--property=User={user}", "--property=StateDirectory=shop"),
        *("--property=WorkingDirectory=/srv/shop", "python3", "manage.py", "migrate"),
    )
    machine.sh(
        "cd /srv/shop; STATE_DIRECTORY=$(mktemp -d) python3 manage.py collectstatic --no-input"
    )
