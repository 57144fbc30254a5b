"""The life of the installed package: upgrade, upgrades that fail, removal, purge."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.package import deb
from tests.lab.service import Service, push_torture, wait_until

APP = """
import sockd

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [sockd.__version__.encode()]
"""
MODULES = "usr/lib/python3/dist-packages/sockd"


class Apt:
    """A machine of its own, on which sockd comes and goes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.before = self.files()

    def files(self) -> set[str]:
        """All that could be left: what apt, dpkg and the system write for themselves apart. agetty
        makes its file when a console's getty starts again, whenever that is."""
        apart = (
            "/dev|/proc|/sys|/root|/tmp|/srv"
            "|/run/(systemd|log|udev|utmp|dbus|user|private|needrestart|agetty.reload)"
            "|/var/(cache|log|tmp|backups)|/var/lib/(apt|systemd|private|nginx)"
            "|/var/lib/dpkg/(status|available|lock|triggers|diversions|statoverride)"
            "|/var/lib/dpkg/info/format|/etc/(mtab|ld.so.cache)"
        )
        found = self.machine.sh(
            "find / /run -xdev -regextype posix-extended"
            f" -regex '({apart})(-old|/.*)?' -prune -o -print"
        )
        return set(found.splitlines())

    def repack(self, version: str, edit: str = "true") -> str:
        """The path, in the machine, of the package as a later version, changed by `edit`."""
        name = deb(self.machine.suite).name
        target = f"/root/sockd_{version}.deb"
        self.machine.sh(
            f"rm -rf /root/tree; dpkg-deb -R /root/{name} /root/tree; cd /root/tree;"
            f"sed -i 's/^Version: .*/Version: {version}/' DEBIAN/control;"
            f"sed -i 's/^__version__ = .*/__version__ = \"{version}\"/' {MODULES}/__init__.py;"
            f"{edit}; dpkg-deb --root-owner-group -b /root/tree {target}"
        )
        return target

    def install(self, path: str, check: bool = True) -> tuple[int, str]:
        done = self.machine.run(
            *("apt-get", "install", "--yes", "--allow-downgrades", path), check=check, timeout=300
        )
        return done.returncode, done.stdout + done.stderr

    def installed(self) -> str:
        shown = "${db:Status-Abbrev}${Version}"
        return self.machine.out("dpkg-query", "--show", f"--showformat={shown}", "sockd")


@pytest.fixture(scope="module")
def apt(machine: Machine) -> Iterator[Apt]:
    with Machine("package", machine.suite) as own:
        own.run("apt-get", "install", "--yes", "--no-install-recommends", "needrestart")
        made = Apt(own)
        package = deb(machine.suite)
        own.push(package, f"/root/{package.name}")
        push_torture(own)
        yield made


@pytest.fixture
def installed(apt: Apt) -> Iterator[Apt]:
    """Version 0.1.0 with two running instances, `blue` of the packaged template and `green` of
    generated units, and `grey`, which listens only."""
    apt.install(f"/root/{deb(apt.machine.suite).name}")
    for name in ("blue", "green", "grey"):
        apt.machine.write(f"/srv/{name}/site_app.py", APP)
        apt.machine.write(
            f"/etc/sockd/{name}.toml",
            f'workers = 2\napp.target = "site_app:app"\napp.directory = "/srv/{name}"\n'
            + (
                'bind = ["127.0.0.1:8100"]\nnginx.listen = ["127.0.0.1:8101"]\n'
                * (name == "green")
            ),
        )
    apt.machine.sh(
        "sockd generate-units --install green;"
        "systemctl enable --now sockd@blue.socket green.socket sockd@grey.socket;"
        "systemctl start sockd@blue.service green.service"
    )
    yield apt
    apt.machine.sh(
        "systemctl disable --now sockd@blue.socket green.socket sockd@grey.socket"
        " sockd@blue.service green.service sockd@grey.service || true"
    )


def answer(machine: Machine, name: str) -> str:
    """The version of sockd that serves."""
    where = ["http://127.0.0.1:8100/"]
    if name != "green":
        where = ["--unix-socket", f"/run/sockd-{name}.sock", "http://localhost/"]
    return machine.out("curl", "--silent", "--show-error", "--fail", "--max-time", "60", *where)


def state(machine: Machine, unit: str) -> str:
    return machine.out("systemctl", "show", "-P", "ActiveState", unit)


def main_pid(machine: Machine, unit: str) -> str:
    return machine.out("systemctl", "show", "-P", "MainPID", unit)


def masters_version(machine: Machine, name: str) -> str:
    found = json.loads(machine.out("sockd", "status", name, "--json"))["sockd"]
    assert isinstance(found, str)
    return found


def test_upgrade_makes_what_runs_the_new_version(installed: Apt) -> None:
    machine = installed.machine
    path = installed.repack("0.1.1")
    masters = [main_pid(machine, unit) for unit in ("sockd@blue", "green")]
    green = Service(machine, "green", 8099)
    with green.load(green.direct) as load:
        _, output = installed.install(path)
    load.assert_nothing_failed()
    assert load.last == "0.1.1"
    assert set(load.answers) == {"0.1.0", "0.1.1"}
    assert answer(machine, "blue") == "0.1.1"
    for unit in ("sockd@blue", "green"):
        assert f"Upgrading {unit}.service\n" in output
        assert machine.out("systemctl", "show", "-P", "NRestarts", unit) == "0"
        assert masters_version(machine, unit.removeprefix("sockd@")) == "0.1.1"
        machine.run("systemctl", "reload", unit)
    assert output.count("upgraded from sockd 0.1.0 to 0.1.1: generation 2 serves") == 2
    assert [main_pid(machine, unit) for unit in ("sockd@blue", "green")] == masters
    assert state(machine, "sockd@grey.service") == "inactive"
    assert answer(machine, "grey") == "0.1.1"


def test_upgrade_to_code_that_does_not_boot_leaves_the_old_serving(installed: Apt) -> None:
    machine = installed.machine
    path = installed.repack("0.1.2", f"echo 1 / 0 >> {MODULES}/worker/process.py")
    green = Service(machine, "green", 8099)
    with green.load(green.direct) as load:
        code, output = installed.install(path, check=False)
    load.assert_nothing_failed()
    assert code == 0, output
    assert set(load.answers) == {"0.1.0"}
    assert installed.installed() == "ii 0.1.2"
    said = "could not be upgraded to version 0.1.2; what served before serves on"
    assert f"sockd: sockd@blue.service {said}" in output
    assert f"sockd: green.service {said}" in output
    assert "ZeroDivisionError" in output
    assert answer(machine, "blue") == masters_version(machine, "blue") == "0.1.0"
    # Nor does a master of the old version begin a generation of the new one.
    assert machine.run("systemctl", "reload", "green", check=False).returncode == 1
    assert "`sockd upgrade` has the master follow" in machine.journal("-u", "green", "-o", "cat")
    assert answer(machine, "green") == "0.1.0"
    assert state(machine, "sockd@blue.service") == "active"

    _, output = installed.install(installed.repack("0.1.3"))
    assert said not in output
    assert answer(machine, "blue") == masters_version(machine, "blue") == "0.1.3"


@pytest.mark.parametrize("script", ["preinst", "postinst"])
def test_upgrade_that_dpkg_gives_up_leaves_the_old_serving(installed: Apt, script: str) -> None:
    machine = installed.machine
    fail = f"printf '#!/bin/sh\\nexit 1\\n' > DEBIAN/{script}; chmod 755 DEBIAN/{script}"
    green = Service(machine, "green", 8099)
    with green.load(green.direct) as load:
        code, output = installed.install(installed.repack("0.1.4", fail), check=False)
    assert code != 0, output
    load.assert_nothing_failed()
    assert set(load.answers) == {"0.1.0"}
    assert answer(machine, "blue") == "0.1.0"
    expected = {"preinst": "ii 0.1.0", "postinst": "iF 0.1.4"}
    assert installed.installed() == expected[script]


def test_needrestart_asks_for_no_restart_after_an_upgrade(installed: Apt) -> None:
    machine = installed.machine
    installed.install(installed.repack("0.1.5"))
    told = "/etc/needrestart/conf.d/sockd.conf"
    services = {"NEEDRESTART-SVC: green.service", "NEEDRESTART-SVC: sockd@blue.service"}

    def asked() -> set[str]:
        """-b -r l: list, and do nothing."""
        return services & set(machine.out("needrestart", "-b", "-r", "l").splitlines())

    assert asked() == set()
    # An upgrade in place leaves no process with files that are gone; this does.
    machine.sh(
        f"for file in $(find {MODULES} -name '*.so'); do cp $file $file.n; mv $file.n $file; done"
    )
    assert asked() == set()
    machine.run("mv", told, "/root/told")
    untold = asked()
    machine.run("mv", "/root/told", told)
    assert untold == services, "without being told it would: else this shows nothing"


def test_removal_stops_every_instance(installed: Apt) -> None:
    machine = installed.machine
    assert answer(machine, "grey") == "0.1.0"
    machine.run("apt-get", "remove", "--yes", "sockd")
    for unit in ("sockd@blue", "sockd@grey", "green"):
        assert state(machine, f"{unit}.service") in ("inactive", "failed"), unit
        assert state(machine, f"{unit}.socket") == "inactive", unit
    wait_until(lambda: "sockd" not in machine.out("ps", "-eo", "args"), "the end of processes")
    # As at the next boot: a unit of its own is left, and nobody waits at it.
    machine.run("systemctl", "start", "green.socket")
    assert state(machine, "green.socket") == "inactive"
    assert machine.out("systemctl", "show", "-P", "ConditionResult", "green.socket") == "no"
    assert machine.sh("ls /run/sockd* 2>/dev/null || true") == ""
    assert machine.sh("ls /etc/sockd") == "blue.toml\ngreen.toml\ngrey.toml"

    installed.install(f"/root/{deb(machine.suite).name}")
    machine.run("systemctl", "start", "sockd@blue.socket", "green.socket")
    assert answer(machine, "blue") == "0.1.0"
    assert answer(machine, "green") == "0.1.0"


def test_purge_leaves_nothing_of_sockd_and_all_of_the_application(installed: Apt) -> None:
    machine = installed.machine
    machine.sh(
        "echo kept > /var/lib/private/blue/kept;"
        "mkdir -p /etc/systemd/system/sockd@blue.service.d;"
        "printf '[Service]\\nNice=0\\n' > /etc/systemd/system/sockd@blue.service.d/override.conf;"
        "mkdir -p /etc/systemd/system/sockd-unrelated.service.d /etc/nginx/sites-available;"
        "echo '# Generated by hand' > /etc/nginx/sites-available/other"
    )
    machine.run("apt-get", "purge", "--yes", "--auto-remove", "sockd")
    assert machine.read("/var/lib/private/blue/kept") == "kept\n"
    machine.sh(
        "cd /var/lib; rm -rf private/blue private/green private/grey blue green grey"
        " /etc/nginx/sites-available/other; rmdir /etc/systemd/system/sockd-unrelated.service.d"
    )
    assert installed.files() - installed.before == set()
