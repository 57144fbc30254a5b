"""The README's commands, as they stand there, lead from an empty Debian to Django behind TLS."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator

import pytest

from tests.lab.image import ROOT, SUITES
from tests.lab.machine import Machine
from tests.lab.package import deb

MOST = 10


def commands() -> list[str]:
    """The indented lines of the section, those that end with a backslash put together."""
    section = (ROOT / "README.md").read_text().partition("\n## On a server\n")[2]
    block = section.partition("as root:\n\n")[2].partition("\n\n")[0]
    lines = [line.removeprefix("    ") for line in block.splitlines()]
    return re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()


@pytest.fixture(params=SUITES)
def empty(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine of its own: that of the other tests has sockd already."""
    package = deb(request.param)
    with Machine("readme", request.param) as machine:
        assert machine.run("which", "sockd", "django-admin", check=False).stdout == ""
        machine.push(package, f"/root/{package.name}")
        yield machine


def test_from_an_empty_debian_to_django_behind_tls(
    empty: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = commands()
    assert len(lines) <= MOST
    assert lines[0].startswith("apt install ")
    assert lines[-1].startswith("curl ")
    took = {}
    for line in lines:
        begun = time.monotonic()
        # `y` is what apt asks for.
        done = empty.run("bash", "-c", f"cd /root; {line}", input="y\n", check=False, timeout=300)
        took[line] = time.monotonic() - begun
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert "<title>The shop</title>" in done.stdout

    host, certificate = (
        found[1]
        for option in (r"--resolve (\S+?):443:", r"--cacert (\S+)")
        if (found := re.search(option, lines[-1]))
    )
    trust = ["--cacert", certificate, "--resolve", f"{host}:443:127.0.0.1"]

    def get(url: str, *more: str) -> str:
        return empty.out("curl", "--silent", "--show-error", "--include", *trust, *more, url)

    assert " 200" in get(f"https://{host}/admin/login/").splitlines()[0]
    style = get(f"https://{host}/static/catalogue/shop.css")
    assert " 200" in style.splitlines()[0]
    redirect = get(f"http://{host}/", "--resolve", f"{host}:80:127.0.0.1")
    assert " 308" in redirect.splitlines()[0]
    assert f"\nlocation: https://{host}/" in redirect.lower()
    assert empty.out("systemctl", "is-enabled", "shop.socket") == "enabled"
    assert empty.out("systemctl", "is-active", "shop.service") == "active"
    assert empty.out("systemctl", "--failed", "--no-legend") == ""

    own = sum(seconds for line, seconds in took.items() if not line.startswith("apt "))
    with capsys.disabled():
        print(f"\nREADME on {empty.suite}: {len(lines)} commands, {own:.1f} s without apt:")
        for line, seconds in took.items():
            print(f"  {seconds:5.1f} s  {shlex.join(shlex.split(line)[:4])} ...")
