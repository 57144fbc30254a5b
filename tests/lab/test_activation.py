"""The shop, socket-activated behind nginx: systemd.socket(5), sd_listen_fds(3)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.service import Service, wait_until

SHOP = ("curl", "--silent", "--show-error", "--max-time", "30", "--header", "Host: shop.example")


@pytest.fixture
def asleep(shop: Service) -> Iterator[Service]:
    """Listening, and not started."""
    shop.systemctl("stop")
    yield shop
    shop.systemctl("start", "socket")


def test_first_request_starts_the_service(asleep: Service) -> None:
    shop = asleep
    assert shop.property("ActiveState") == "inactive"
    page = shop.machine.out(*SHOP, "--include", "http://localhost/")
    assert page.startswith("HTTP/1.1 200")
    assert "Coffee" in page
    assert shop.property("ActiveState") == "active"


def test_systemctl_and_the_journal_tell_what_happened(asleep: Service) -> None:
    shop = asleep
    shop.machine.out(*SHOP, "http://localhost/")
    status = shop.machine.out("systemctl", "status", "--no-pager", "shop.service")
    (line,) = re.findall(r"^ *Status: \"(.*)\"$", status, re.MULTILINE)
    assert re.search(r"\bgeneration 1\b", line), "READY and what is ready are told at once"
    invocation = shop.property("InvocationID")
    expected = {
        "starting shop on /run/shop.sock (sockd 0.1.0)",
        "generation 1: ready",
        "worker 1.1: ready",
        "worker 1.2: ready",
    }

    def missing() -> set[str]:
        journal = shop.machine.journal(f"_SYSTEMD_INVOCATION_ID={invocation}")
        return {line for line in expected if line not in journal}

    wait_until(lambda: not missing(), "the lines of a start in the journal")
    fields = shop.machine.journal(
        f"_SYSTEMD_INVOCATION_ID={invocation}", "SOCKD_NAME=shop", "-o", "json"
    )
    assert '"SOCKD_WORKER":"1.1"' in fields
    assert '"SOCKD_GENERATION":"1"' in fields


def test_stopped_leaves_no_process_and_no_file(asleep: Service) -> None:
    shop = asleep
    shop.systemctl("stop", "socket")
    machine = shop.machine
    before = _files(machine)
    shop.systemctl("start", "socket")
    machine.out(*SHOP, "--fail", "http://localhost/")
    shop.systemctl("stop", "socket")
    shop.systemctl("stop")
    assert shop.property("ActiveState") == "inactive"
    processes = machine.out("ps", "-eo", "pid,args")
    assert not re.search(r"sockd|shop", processes), processes
    left = {name for name in _files(machine) - before if not name.startswith("/var/lib/private")}
    assert left == set()


def _files(machine: Machine) -> set[str]:
    """All files where a service could leave some; /run/systemd is the manager's own."""
    places = "/etc /opt /root /run /srv /tmp /usr/lib/python3 /var"
    return set(
        machine.sh(
            f"find {places} -path /run/systemd -prune -o -path '/var/log/journal*' -prune"
            " -o -path '/run/log*' -prune -o -print"
        ).splitlines()
    )


def test_pages_through_nginx(shop: Service) -> None:
    machine = shop.machine
    get = [*SHOP, "--fail"]
    assert "text-align" in machine.out(*get, "http://localhost/static/admin/css/base.css")
    assert "Django administration" in machine.out(*get, "-L", "http://localhost/admin/")
    export = machine.out(*get, "http://localhost/export.csv").splitlines()
    assert len(export) == 1 + 3 * 10_000
    assert machine.out(*get, "http://localhost/sleep?seconds=0.2") == "slept 0.2 s"


def test_upload_through_nginx_arrives_whole(shop: Service) -> None:
    machine = shop.machine
    machine.sh("head -c 5000000 /dev/urandom > /root/picture")
    digest = machine.out("sha256sum", "/root/picture").split()[0]
    answer = machine.out(*SHOP, "--form", "file=@/root/picture", "http://localhost/picture")
    assert f'"size": 5000000, "sha256": "{digest}"' in answer
    chunked = ("--header", "Transfer-Encoding: chunked")
    answer = machine.out(
        *SHOP, *chunked, "--form", "file=@/root/picture", "http://localhost/picture"
    )
    assert digest in answer


def test_exception_is_a_plain_500_and_one_journal_entry(service: Service) -> None:
    service.configure("def app(environ, start_response):\n    raise KeyError('lost')\n")
    service.systemctl("start", "socket")
    status = ("--output", "/dev/null", "--write-out", "%{http_code}")
    assert service.machine.out("curl", "--silent", *status, service.url) == "500"
    answer = service.get(check=False)
    assert "lost" not in answer
    assert "Traceback" not in answer

    def entry() -> str:
        return service.machine.journal("-u", service.name, "-o", "json", "PRIORITY=3")

    wait_until(lambda: "KeyError" in entry(), "the traceback in the journal")
    fields = json.loads(next(line for line in entry().splitlines() if "KeyError" in line))
    assert "Traceback (most recent call last)" in fields["MESSAGE"]
    assert fields["SOCKD_NAME"] == service.name
    assert fields["HTTP_METHOD"] == "GET"
    assert fields["HTTP_PATH"] == "/"
