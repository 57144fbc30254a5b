"""The package's own tests (debian/tests), run by autopkgtest(1) as Debian would."""

from __future__ import annotations

import re

from tests.lab.machine import Machine
from tests.lab.package import deb


def test_autopkgtest_passes(machine: Machine) -> None:
    machine.run("apt-get", "install", "--yes", "--no-install-recommends", "autopkgtest")
    machine.push(deb(machine.suite).parent, "/root/built")
    # The machine is what isolates, which the null runner does not know.
    done = machine.run(
        *("autopkgtest", "--no-built-binaries", "--ignore-restrictions=isolation-machine"),
        *machine.sh("ls /root/built/*.dsc /root/built/sockd_*.deb").split(),
        *("--", "null"),
        check=False,
        timeout=300,
    )
    verdicts = re.findall(r"(?m)^(\w+) +(PASS|FAIL.*|SKIP.*)$", done.stdout)
    assert dict(verdicts) == {"smoke": "PASS", "instance": "PASS"}, done.stdout + done.stderr
    assert done.returncode == 0
