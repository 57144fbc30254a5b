"""A private nginx with rendered sites, before servers on Unix sockets that note what they get."""

import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from types import MappingProxyType

from sockd.config import Config, load
from sockd.units import render, tools

NGINX = tools.find("nginx") or "nginx"
DEADLINE = 30.0


def site(
    tmp_path: Path,
    toml: str,
    name: str = "shop",
    directory: str = "/etc/sockd",
    version: str | None = None,
) -> str:
    path = tmp_path / f"{name}.toml"
    path.write_text(f'{toml}\n[app]\ntarget = "shop:app"\n')
    loaded = load(path=path, environ={})
    config = Config(name, Path(directory, path.name), loaded.settings, loaded.sources)
    files = render(config, executable="/usr/bin/sockd", nginx_version=version)
    return files[f"nginx/{name}.conf"]


def prefix(tmp_path: Path, *sites: str, root: bool) -> list[str]:
    """nginx's command line for a private configuration with these sites."""
    (tmp_path / "sites").mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(sites):
        (tmp_path / "sites" / f"{number}.conf").write_text(text)
    user = "user root;" if root else ""  # to read the test's own directory
    scratch = "".join(
        f"{kind}_temp_path {kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"{user} pid nginx.pid; daemon off; worker_processes 1; error_log stderr warn;\n"
        "events { worker_connections 64; }\n"
        f"http {{ {scratch} access_log off; include sites/*.conf; }}\n"
    )
    return [NGINX, "-p", f"{tmp_path}/", "-e", "stderr", "-c", "nginx.conf"]


def verdict(tmp_path: Path, *sites: str) -> str:
    # nginx -t binds: in a network namespace every port is free, and there for a plain user too.
    isolated = ["unshare", "--map-root-user", "--net"]
    done = subprocess.run(
        [*isolated, *prefix(tmp_path, *sites, root=True), "-t"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    lines = done.stderr.splitlines()
    passed = [line for line in lines if not re.search(r"syntax is ok|test is successful", line)]
    assert (done.returncode == 0) == (len(lines) - len(passed) == 2), done.stderr
    return "\n".join(passed)


class Backend:
    """A server that notes each connection's bytes and answers `answer`, or nothing and closes."""

    def __init__(self, path: Path) -> None:
        self.seen: list[bytes] = []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.then: Callable[[socket.socket], None] | None = None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(DEADLINE)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                self.seen.append(head)
                connection.sendall(self.answer)
                if self.then:
                    self.then(connection)

    def headers(self) -> dict[str, list[str]]:
        """Those of the only request seen, by name in lower case."""
        (head,) = self.seen
        found: dict[str, list[str]] = {}
        for line in head.decode().split("\r\n\r\n")[0].split("\r\n")[1:]:
            name, _, value = line.partition(": ")
            found.setdefault(name.lower(), []).append(value)
        return found

    def close(self) -> None:
        if self.listener.fileno() < 0:
            return
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()


@dataclass
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Front:
    """nginx at `port`; `backend` is the server behind it, `files` what it may serve."""

    port: int
    backend: Backend
    files: Path
    context: ssl.SSLContext | None = None
    plain: "Front | None" = None

    def request(
        self,
        target: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        method: str = "GET",
        body: bytes | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of the answer."""
        answer = self.ask(target, headers, method, body)
        return answer.status, answer.body

    def ask(
        self,
        target: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        method: str = "GET",
        body: bytes | None = None,
    ) -> Answer:
        with closing(self.connection()) as connection:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            given = {"Host": "shop.example:8443", **headers}
            if body is not None:
                given["Content-Length"] = str(len(body))
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response: HTTPResponse = connection.getresponse()
            return Answer(response.status, response.read(), response.headers)  # type: ignore[arg-type]

    def connection(self) -> HTTPConnection:
        if self.context:
            return HTTPSConnection("127.0.0.1", self.port, timeout=DEADLINE, context=self.context)
        return HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(int(DEADLINE * 20)):
            with socket.socket() as probe:
                probe.settimeout(DEADLINE)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, process.communicate()[1]
            threading.Event().wait(0.05)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def fronted(tmp_path: Path, toml: str, top: str = "") -> Iterator[Front]:
    """A site with these settings of [nginx], and its backend."""
    port = free_port()
    files = tmp_path / "static files"
    files.mkdir()
    socket_path = tmp_path / "app.sock"
    text = site(
        tmp_path,
        f"bind = ['{socket_path}']\n{top}\n[nginx]\nlisten = ['127.0.0.1:{port}']\n{toml}\n",
    )
    backend = Backend(socket_path)
    try:
        with running(prefix(tmp_path / "nginx", text, root=os.geteuid() == 0), port):
            yield Front(port, backend, files)
    finally:
        backend.close()
