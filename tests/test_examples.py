"""The examples on the frameworks from PyPI, asked by real clients over TCP and a Unix socket."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

EXAMPLES = Path(__file__).parents[1] / "examples"
SOCKD = Path(sys.executable).with_name("sockd")


class UnixConnection(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self.path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Server:
    """`sockd serve` of an example, with both kinds of address and a state directory."""

    def __init__(self, example: str, target: str, place: Path) -> None:
        self.directory = EXAMPLES / example
        self.target = target
        self.socket = place / "http.sock"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self.environ = {**os.environ, "STATE_DIRECTORY": str(place)}
        self.log = place / "log"
        self.runtime = place

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.log.open("w") as log:
            process = subprocess.Popen(
                [
                    *(SOCKD, "serve", self.target, "--dir", self.directory, "--workers", "2"),
                    *("--bind", f"127.0.0.1:{self.port}", "--bind", self.socket),
                    *("--runtime-dir", self.runtime),
                ],
                env=self.environ,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait(process)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert code == 0, self.log.read_text()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server("hello", "hello:app", tmp_path_factory.mktemp("hello"))
    with server.running():
        yield server


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server("notes", "notes:create_app()", tmp_path_factory.mktemp("notes"))
    with server.running():
        yield server


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server("shop", "shop.wsgi:application", tmp_path_factory.mktemp("shop"))
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, cwd=server.directory, env=server.environ, check=True)
    with server.running():
        yield server


def test_plain_wsgi_answers_on_tcp_and_unix_sockets_alike(hello: Server) -> None:
    over_tcp = requests.get(hello.url, timeout=60)
    connection = UnixConnection(hello.socket)
    connection.request("GET", "/")
    over_unix = connection.getresponse()
    assert over_tcp.status_code == over_unix.status == 200
    assert over_tcp.content == over_unix.read()
    connection.close()


def test_plain_wsgi_streams_and_echoes_and_sends_files(hello: Server) -> None:
    with requests.Session() as session:
        assert session.get(f"{hello.url}/stream", timeout=60).text.count("chunk") == 10
        body = os.urandom(3_000_000)
        assert session.post(f"{hello.url}/echo", data=body, timeout=60).content == body
        chunked = io.BytesIO(body)
        parts = iter(lambda: chunked.read(70_000), b"")
        assert session.post(f"{hello.url}/echo", data=parts, timeout=60).content == body
        source = (EXAMPLES / "hello" / "hello.py").read_bytes()
        assert session.get(f"{hello.url}/file", timeout=60).content == source
        head = session.head(f"{hello.url}/file", timeout=60)
        assert head.status_code == 200
        assert head.content == b""


def test_exception_is_a_plain_500_and_the_log_has_the_traceback(hello: Server) -> None:
    answer = requests.get(f"{hello.url}/raise", timeout=60)
    assert answer.status_code == 500
    assert "purpose" not in answer.text
    deadline = time.monotonic() + 30
    while "RuntimeError: raised on purpose" not in hello.log.read_text():
        assert time.monotonic() < deadline, hello.log.read_text()
        time.sleep(0.05)


def test_flask_takes_forms_and_answers_json(notes: Server) -> None:
    with requests.Session() as session:
        page = session.post(notes.url, data={"text": "ünï <b>"}, timeout=60)
        assert page.status_code == 200
        assert "ünï &lt;b&gt;" in page.text
        assert session.get(f"{notes.url}/notes.json", timeout=60).json()[-1]["text"] == "ünï <b>"
        assert session.post(notes.url, data={"text": ""}, timeout=60).status_code == 400


def test_django_admin_logs_in(shop: Server) -> None:
    environ = {**shop.environ, "DJANGO_SUPERUSER_PASSWORD": "tea and cocoa"}
    create = [
        "manage.py",
        "createsuperuser",
        "--no-input",
        "--username=a",
        "--email=a@example.org",
    ]
    subprocess.run([sys.executable, *create], cwd=shop.directory, env=environ, check=True)
    with requests.Session() as session:
        page = session.get(f"{shop.url}/admin/login/", timeout=60)
        token = page.text.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
        form = {"username": "a", "password": "tea and cocoa", "csrfmiddlewaretoken": token}
        page = session.post(f"{shop.url}/admin/login/?next=/admin/", data=form, timeout=60)
        assert page.status_code == 200
        assert "Site administration" in page.text
        assert "Articles" in page.text


def test_django_streams_and_takes_uploads(shop: Server) -> None:
    assert "Coffee" in requests.get(shop.url, timeout=60).text
    export = requests.get(f"{shop.url}/export.csv", timeout=60)
    assert len(export.text.splitlines()) == 1 + 3 * 10_000
    picture = os.urandom(4_000_000)
    files = {"file": ("picture", io.BytesIO(picture))}
    answer = requests.post(f"{shop.url}/picture", files=files, timeout=60).json()
    assert answer["sha256"] == hashlib.sha256(picture).hexdigest()
    assert requests.get(f"{shop.url}/raise", timeout=60).status_code == 500


def test_curl_speaks_to_the_unix_socket(shop: Server) -> None:
    curl = ["curl", "--silent", "--fail", "--unix-socket", str(shop.socket), "http://localhost/"]
    assert b"Cocoa" in subprocess.run(curl, check=True, stdout=subprocess.PIPE).stdout
