"""A service under test: an application of the test's own, deployed as an operator would."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.lab.image import ROOT
from tests.lab.machine import Machine

TORTURE = ("env", "PYTHONPATH=/root", "python3", "-B", "-m", "torture")
"""What `push_torture` has put into a machine."""

ANSWERS_ITS_VERSION = """
VERSION = "{version}"

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [VERSION.encode()]
"""


@dataclass
class Service:
    """NAME.socket and NAME.service on `machine`; nginx listens for it at `port`, and the socket
    unit itself at `port` + 1 and /run/NAME.sock. `port` + 2 is free."""

    machine: Machine
    name: str
    port: int

    @property
    def url(self) -> str:
        """Through nginx."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def direct(self) -> str:
        """Without nginx."""
        return f"http://127.0.0.1:{self.port + 1}/"

    def configure(self, app: str, tables: str = "") -> None:
        """Write the application and its configuration, and generate the units."""
        self.write(app)
        self.machine.write(
            f"/etc/sockd/{self.name}.toml",
            f'bind = ["/run/{self.name}.sock", "127.0.0.1:{self.port + 1}"]\n'
            "workers = 2\n"
            f'app.target = "site_app:app"\napp.directory = "/srv/{self.name}"\n'
            f'nginx.listen = ["127.0.0.1:{self.port}"]\n{tables}',
        )
        self.machine.run("sockd", "generate-units", self.name, "--install")

    def write(self, app: str) -> None:
        """The application's code, a module named site_app."""
        self.machine.write(f"/srv/{self.name}/site_app.py", app)

    def systemctl(
        self, verb: str, kind: str = "service", check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        unit = f"{self.name}.{kind}"
        return self.machine.run("systemctl", verb, unit, check=check, timeout=timeout)

    def property(self, name: str, kind: str = "service") -> str:
        return self.machine.out("systemctl", "show", "-P", name, f"{self.name}.{kind}")

    def status(self) -> dict[str, Any]:
        """What `sockd status --json` prints."""
        document = json.loads(self.machine.out("sockd", "status", self.name, "--json"))
        assert isinstance(document, dict)
        return document

    def journal(self) -> str:
        """The messages of the unit, and systemd's about it, one after the other."""
        return self.machine.journal("-u", self.name, "-o", "cat")

    def starts(self) -> int:
        """How often systemd has begun to start the service."""
        return len(re.findall(rf"^Starting {self.name}\.service", self.journal(), re.MULTILINE))

    def get(self, url: str = "", check: bool = True) -> str:
        """What the application answers; `check`: fail unless it is 200."""
        fail = ["--fail-with-body"] if check else []
        return self.machine.out(
            *("curl", "--silent", "--show-error", "--max-time", "30", *fail, url or self.url),
            check=check,
        )

    def load(
        self, url: str, clients: int = 4, kind: str = "close", think: float = 0.0
    ) -> contextlib.AbstractContextManager[Load]:
        """Clients that ask any application for as long as the block lasts, `think` seconds after
        each answer on the average."""
        return self.torture([(kind, clients, url)], "--plain", f"--think={think}", "--may-close")

    @contextlib.contextmanager
    def torture(self, clients: list[tuple[str, int, str]], *options: str) -> Iterator[Load]:
        """Clients (kind, how many, URL) for as long as the block lasts; then what they saw is
        there."""
        asked = [f"{kind}:{count}@{url}" for kind, count, url in clients]
        pipe = subprocess.PIPE
        with self.machine.spawn(
            *TORTURE, *options, *asked, stdin=pipe, stdout=pipe, stderr=pipe
        ) as process:
            load = Load()
            try:
                time.sleep(0.5)
                assert process.poll() is None, process.communicate()
                yield load
                time.sleep(0.5)
                out, err = process.communicate(timeout=120)
            except BaseException:
                process.kill()
                raise
        assert process.returncode == 0, err
        load.__dict__.update(json.loads(out))

    def remove(self) -> None:
        """Everything that `configure` and running it made."""
        self.machine.sh(
            f"systemctl disable --quiet --now {self.name}.socket {self.name}.service || true;"
            f"rm -rf /etc/sockd/{self.name}.toml /etc/systemd/system/{self.name}.*"
            f" /etc/nginx/sites-*/{self.name}.conf /srv/{self.name} /var/lib/{self.name}"
            f" /var/lib/private/{self.name};"
            f"systemctl daemon-reload; systemctl reset-failed; systemctl reload nginx"
        )


class Load:
    """The report of the torture client, as attributes, once its block has ended."""

    answered: int
    wrong: list[str]
    answers: dict[str, int]
    last: str

    def assert_nothing_failed(self, least: int = 100) -> None:
        assert self.wrong == []
        assert self.answered >= least, "too few requests to show anything"


def push_torture(machine: Machine) -> None:
    machine.push(ROOT / "tests" / "torture", "/root/torture")


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """The first true value of `condition`; fail loudly when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)
