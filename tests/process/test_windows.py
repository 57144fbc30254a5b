"""Listeners through which others may look: `metrics`, and `status` with its page."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from fcntl import F_DUPFD, fcntl
from pathlib import Path

import pytest

from tests.browser import browser
from tests.test_metrics import parsed

from .conftest import PATIENCE, Service, alive, eventually

Windows = tuple[Service, int, int]

WAITS = """
import os, time

def app(environ, start_response):
    while environ["PATH_INFO"] == "/wait" and not os.path.exists({gate!r}):
        time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x"]
"""


@pytest.fixture
def windows(service: Service) -> Iterator[Windows]:
    """The service and its ports for status and metrics, passed as systemd does."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [listener.getsockname()[1] for listener in listeners]
    # Numbers that are free until they are put where systemd has them.
    fds = [fcntl(listener, F_DUPFD, 200) for listener in listeners]
    moves = " ".join(f"{3 + i}<&{fd} {fd}<&-" for i, fd in enumerate(fds))
    passes = (
        f"exec {moves}; export LISTEN_FDS=3 LISTEN_PID=$$ LISTEN_FDNAMES=http:status:metrics; "
        'exec "$@"'
    )
    service.inherit = tuple(fds)
    service.write(WAITS.format(gate=str(service.directory / "gate")))
    service.start(["bash", "-c", passes, "bash"])
    for opened in listeners:
        opened.close()
    for fd in fds:
        os.close(fd)
    service.ready()
    service.bind = f"127.0.0.1:{ports[0]}"
    yield service, ports[1], ports[2]


def ask(port: int, target: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, target)
    response = connection.getresponse()
    found = response.status, response.read().decode()
    connection.close()
    return found


def test_what_each_listener_shows(windows: Windows):
    service, status, metrics = windows
    assert [one["name"] for one in service.status()["listeners"]] == ["http"]
    assert json.loads(ask(status, "/status")[1])["pid"] == service.pid
    name = service.status()["name"]
    for port in (status, metrics):
        code, text = ask(port, "/metrics")
        assert code == 200
        assert parsed(text)["sockd_workers_wanted", (("service", name),)] == 2
        assert ask(port, "/healthz") == (200, "ok\n")
        for target in ("/reload", "/stop", "/workers", "/stacks", "/nothing"):
            assert ask(port, target, "POST")[0] == 404
    assert ask(metrics, "/status")[0] == 404
    assert ask(metrics, "/")[0] == 404
    assert ask(status, "/", "POST")[0] == 405
    code, page = ask(status, "/")
    assert code == 200
    assert "</html>" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_who_looks_cannot_disturb(windows: Windows):
    """More clients than there is room for, silent or slow: the control socket has its own room."""
    service, status, _ = windows
    silent = [socket.create_connection(("127.0.0.1", status)) for _ in range(60)]
    for number, client in enumerate(silent):
        if number % 3:
            client.sendall(b"GET /status HTTP/1.1\r\nHost: x" if number % 2 else os.urandom(100))
    assert service.status()["state"] == "serving"
    assert service.ask("POST", "/reload")[1]["ok"]
    for client in silent:
        client.close()
    eventually(lambda: ask(status, "/healthz")[0] == 200)
    assert service.stop() == 0


def test_the_page_in_a_browser(windows: Windows, tmp_path: Path):
    service, status, _ = windows
    host, port = service.bind.split(":")

    def get(target: str) -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        connection.request("GET", target)
        connection.getresponse().read()
        connection.close()

    hostile = "/wait?%3Cimg%20src=x%20onerror=document.title='stolen'%3E<b>"
    held = threading.Thread(target=get, args=(hostile.replace("<b>", ""),))
    held.start()
    try:
        with browser(tmp_path, f"http://127.0.0.1:{status}/") as page:
            page.wait_for("document.getElementById('state').textContent === 'serving'")
            get("/")
            page.wait_for("document.querySelectorAll('#workers tbody tr').length === 2")
            page.wait_for("document.getElementById('workers').textContent.includes('GET /wait')")
            lines = "[...document.querySelectorAll('path.one')].map(p => p.getAttribute('d'))"
            page.wait_for(f"{lines}.filter(d => d.includes('L')).length >= 4")
            page.wait_for("document.getElementById('facts').textContent.includes('0 4xx, 0 5xx')")
            assert "stolen" not in page.value("document.title")
            colours = set()
            for dark in (False, True):
                for width in (1200, 390):
                    page.look(width=width, height=900, dark=dark)
                    page.picture(tmp_path / f"{width}-{dark}.png")
                    wide = page.value("document.documentElement.scrollWidth")
                    assert wide <= width, "the page scrolls sideways"
                colours.add(page.value("getComputedStyle(document.body).backgroundColor"))
            assert len(colours) == 2
            (service.directory / "gate").touch()
            assert service.stop() == 0
            page.wait_for("document.getElementById('state').textContent === 'no answer'")
            # Its own scripts and styles are all there is: nothing was blocked, nothing failed.
            ours = [text for text in page.complaints if "net::ERR" not in text]
            assert ours == []
    finally:
        (service.directory / "gate").touch()
        held.join()
    assert not alive(service.pid)
