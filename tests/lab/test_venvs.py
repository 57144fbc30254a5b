"""Applications in virtual environments, served by the packaged sockd: whose modules they get."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest

from tests.lab import other_python
from tests.lab.service import Service

APP = """
import importlib, json, sys

def app(environ, start_response):
    found = {}
    for name in ("jinja2", "markupsafe", "sdnotify", "systemd", "systemd.journal", "sockd"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            found[name] = None
        else:
            found[name] = [getattr(module, "__version__", ""), module.__file__]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({
        "python": "%d.%d" % sys.version_info[:2],
        "prefix": sys.prefix,
        "path": sys.path,
        "found": found,
        "foreign": sorted(
            name for name, module in sys.modules.items()
            if "dist-packages" in (getattr(module, "__file__", "") or "")
            and "/dist-packages/sockd/" not in module.__file__
        ),
    }).encode()]
"""
OURS = ("jinja2", "markupsafe", "sdnotify", "systemd")
"""All that sockd needs beside the standard library, and what that needs."""

DIST_PACKAGES = "/usr/lib/python3/dist-packages"


class Venv:
    def __init__(self, service: Service, python: str) -> None:
        """Made by `python`; the service runs in it."""
        self.service = service
        self.machine = service.machine
        self.path = f"/srv/{service.name}/venv"
        self.machine.run(python, "-m", "venv", "--without-pip", self.path)
        service.configure(APP, f'app.venv = "{self.path}"\n')
        (self.packages,) = self.machine.sh(f"ls -d {self.path}/lib/python3*/site-packages").split()

    def put(self, name: str, version: str) -> None:
        self.machine.write(f"{self.packages}/{name}/__init__.py", f"__version__ = {version!r}\n")

    def put_sockd(self, suite: str, version: str = "") -> None:
        """That of the package for `suite`, which is for that suite's Python."""
        self.machine.push(other_python.sockd_of(suite), f"{self.packages}/sockd")
        if version:
            self.machine.sh(
                f"sed -i 's/^__version__ = .*/__version__ = \"{version}\"/'"
                f" {shlex.quote(self.packages)}/sockd/__init__.py"
            )

    def told(self) -> dict[str, Any]:
        """What the application sees."""
        document = json.loads(self.service.get(self.service.direct))
        assert isinstance(document, dict)
        return document

    def refusal(self) -> str:
        """What a start that fails leaves in the journal; `sockd check` says the same."""
        started = self.service.systemctl("start", check=False)
        self.service.systemctl("stop")
        assert started.returncode != 0
        checked = self.machine.run("sockd", "check", self.service.name, check=False)
        assert checked.returncode != 0
        # With the place of the setting in front.
        (problem,) = re.findall(r"(?m)^problem \S+:\d+: \S+: (.*)$", checked.stdout)
        assert isinstance(problem, str)
        assert problem in self.service.journal()
        return problem


@pytest.fixture
def venv(service: Service) -> Venv:
    """Of Debian's own Python."""
    return Venv(service, "/usr/bin/python3")


@pytest.fixture(scope="module")
def another(machine: Any) -> str:
    """A Python of another X.Y than Debian's."""
    return other_python.install(machine)


def test_application_sees_the_versions_of_its_venv(venv: Venv) -> None:
    for name in OURS:
        venv.put(name, "0.venv")
    venv.service.systemctl("start")
    for _ in range(2):
        told = venv.told()
        for name in OURS:
            assert told["found"][name] == ["0.venv", f"{venv.packages}/{name}/__init__.py"]
        # Of the package systemd in the venv, not of Debian's.
        assert told["found"]["systemd.journal"] is None
        assert told["found"]["sockd"][1] == f"{DIST_PACKAGES}/sockd/__init__.py"
        assert told["foreign"] == []
        assert told["prefix"] == venv.path
        assert not [path for path in told["path"] if "dist-packages" in path]
        venv.service.systemctl("reload")


def test_application_sees_nothing_that_its_venv_lacks(venv: Venv) -> None:
    venv.service.systemctl("start")
    found = venv.told()["found"]
    assert [name for name in found if found[name]] == ["sockd"]


def test_venv_with_the_same_sockd_uses_its_own(venv: Venv) -> None:
    venv.put_sockd(venv.machine.suite)
    venv.service.systemctl("start")
    told = venv.told()
    assert told["found"]["sockd"][1] == f"{venv.packages}/sockd/__init__.py"
    assert told["foreign"] == []


def test_venv_with_another_version_of_sockd_is_refused(venv: Venv) -> None:
    venv.put_sockd(venv.machine.suite, "9.9.9")
    assert venv.refusal() == (
        f"{venv.path}/bin/python (Python {other_python.PYTHON[venv.machine.suite]}) "
        "has sockd 9.9.9, but the master is sockd 0.1.0; "
        "install the same sockd there, or that one for the master and run `sockd upgrade`"
    )


def test_reload_into_a_venv_that_is_refused_leaves_the_old_serving(venv: Venv) -> None:
    venv.service.systemctl("start")
    venv.put_sockd(venv.machine.suite, "9.9.9")
    reload = venv.machine.run("sockd", "reload", venv.service.name, check=False)
    assert reload.returncode == 1
    assert "has sockd 9.9.9, but the master is sockd 0.1.0" in reload.stderr
    assert venv.told()["found"]["sockd"][0] == "0.1.0"


def test_another_python_with_the_same_sockd_serves(service: Service, another: str) -> None:
    suite = other_python.other(service.machine.suite)
    venv = Venv(service, another)
    venv.put_sockd(suite)
    service.systemctl("start")
    for _ in range(2):
        told = venv.told()
        assert told["python"] == other_python.PYTHON[suite]
        assert told["found"]["sockd"][1] == f"{venv.packages}/sockd/__init__.py"
        assert told["foreign"] == []
        service.systemctl("reload")


def test_another_python_without_sockd_is_refused(service: Service, another: str) -> None:
    venv = Venv(service, another)
    version = other_python.PYTHON[other_python.other(service.machine.suite)]
    assert venv.refusal() == (
        f"{venv.path}/bin/python (Python {version}) has no sockd, and that of the master is "
        "compiled for another Python; install the same sockd there"
    )


def test_venv_whose_python_is_gone_is_refused(venv: Venv) -> None:
    venv.machine.run("ln", "-sfn", "/usr/bin/python3.9", f"{venv.path}/bin/python3")
    assert "/bin/python is not there or cannot be executed" in venv.refusal()
