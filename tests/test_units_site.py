"""What the site does beyond passing requests on: TLS, files, closed paths, streams, machines."""

import gzip
import json
import os
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sockd.errors import ConfigError
from tests.front import (
    DEADLINE,
    Backend,
    Front,
    free_port,
    fronted,
    prefix,
    running,
    site,
    verdict,
)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with cert.pem and key.pem, for shop.example."""
    place = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example"),
            *("-keyout", place / "key.pem", "-out", place / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return place


def tls(certificate: Path) -> str:
    return f"certificate = '{certificate}/cert.pem'\ncertificate_key = '{certificate}/key.pem'\n"


FORMS = {
    "tls": "hsts = '365d'\nacme = '/var/www/html'\n",
    "tls beside plain": "redirect = false\nhttp2 = false\n",
    "everything": """
acme = "/srv/a b"
static = { "/static/" = "/srv/static" }
media = { "/media/" = "/srv/media", "/m{2}/" = "/srv/m 2" }
unbuffered = ["/events/", "/a b"]
private = ["/metrics", "/a.b (c)/"]
allow = ["192.0.2.0/24", "2001:db8::/32"]
servers = ["local weight=3", "192.0.2.1:8000 max_fails=2 fail_timeout=5s", "[::1]:80 backup"]
access_log = "/dev/null"
hsts = "1h"
gzip = false
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_nginx_finds_nothing_to_say(form: str, certificate: Path, tmp_path: Path) -> None:
    assert verdict(tmp_path, site(tmp_path, f"[nginx]\n{tls(certificate)}{FORMS[form]}")) == ""


def test_sites_with_everything_stand_side_by_side(certificate: Path, tmp_path: Path) -> None:
    names = ("a-b", "a_b", "a.b", "ab")
    sites = [
        site(
            tmp_path,
            f"[nginx]\nserver_name = ['{index}.example']\n{tls(certificate)}{FORMS['everything']}",
            name,
        )
        for index, name in enumerate(names)
    ]
    assert verdict(tmp_path, *sites) == ""


@pytest.mark.parametrize(
    ("version", "lines"),
    [
        ("1.22", ["listen 443 ssl http2;"]),
        ("1.25.0", ["listen 443 ssl http2;"]),
        ("1.25.1", ["listen 443 ssl;", "http2 on;"]),
        ("1.26.3", ["listen 443 ssl;", "http2 on;"]),
        ("2.0", ["listen 443 ssl;", "http2 on;"]),
    ],
)
def test_http2_is_said_as_this_nginx_has_it(
    version: str, lines: list[str], certificate: Path, tmp_path: Path
) -> None:
    text = site(tmp_path, f"[nginx]\n{tls(certificate)}", version=version)
    found = [line.strip() for line in text.splitlines()]
    assert [line for line in found if re.match(r"listen 443|http2", line)] == lines


@pytest.mark.parametrize(
    "wrong",
    [
        "certificate = '/x.pem'",
        "certificate = 'x.pem'\ncertificate_key = 'x.key'",
        "certificate = '/x.pem'\ncertificate_key = '/x.key'\ntls_listen = []",
        "listen = []",
        "listen = ['']",
        "acme = 'www'",
        "access_log = 'log'",
        "media = { '/media/' = 'media' }",
        "unbuffered = ['events']",
        "unbuffered = ['/']",
        "unbuffered = ['/metrics/live']",
        "static = { '/status/' = '/srv/x' }",
        "private = ['/']",
        "allow = ['localhost']",
        "allow = ['10.0.0.1/8']",
        "servers = ['10.0.0.2:80 wieght=2']",
        "servers = ['http://10.0.0.2']",
        "servers = ['10.0.0.2:80;']",
    ],
)
def test_what_nginx_would_not_take_or_would_take_otherwise_is_refused(
    wrong: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^nginx\."):
        site(tmp_path, f"[nginx]\n{wrong}\n")


@pytest.fixture
def secure(certificate: Path, tmp_path: Path) -> Iterator[Front]:
    """A front that speaks TLS at `port`, and plain HTTP at the port that its backend's answer
    does not know of: `plain`."""
    port = free_port()
    acme = tmp_path / "acme"
    (acme / ".well-known/acme-challenge").mkdir(parents=True)
    (acme / ".well-known/acme-challenge/token").write_text("proof")
    toml = f"tls_listen = ['127.0.0.1:{port}']\nhsts = '1h'\nacme = '{acme}'\n{tls(certificate)}"
    with fronted(tmp_path, toml) as plain:
        context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        context.check_hostname = False  # asked as 127.0.0.1
        yield replace(plain, port=port, context=context, plain=plain)


def test_tls_reaches_the_application_and_says_so(secure: Front) -> None:
    answer = secure.ask("/")
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["Strict-Transport-Security"] == "max-age=3600"
    seen = secure.backend.headers()
    assert seen["x-forwarded-proto"] == ["https"]
    assert seen["x-forwarded-port"] == [str(secure.port)]


def test_plain_http_is_sent_to_tls_but_for_the_proof_of_the_name(secure: Front) -> None:
    assert secure.plain
    answer = secure.plain.ask("/a?b=%20c", method="POST", body=b"x")
    assert answer.status == 308
    assert answer.headers["Location"] == f"https://shop.example:{secure.port}/a?b=%20c"
    assert "Strict-Transport-Security" not in answer.headers
    for front in (secure, secure.plain):
        assert front.request("/.well-known/acme-challenge/token") == (200, b"proof")
    assert secure.backend.seen == []


@pytest.mark.parametrize(
    ("least", "most", "protocol"),
    [
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
)
def test_tls_is_of_today(
    least: ssl.TLSVersion, most: ssl.TLSVersion, protocol: str, secure: Front
) -> None:
    assert secure.context
    secure.context.minimum_version, secure.context.maximum_version = least, most
    with closing(secure.connection()) as connection:
        connection.connect()
        assert connection.sock.version() == protocol
        assert connection.sock.cipher()[0].startswith(("ECDHE-", "TLS_"))


@pytest.mark.parametrize(
    "old", [["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], ["-tls1_2", "-cipher", "AES128-SHA"]]
)
def test_old_tls_is_refused(old: list[str], secure: Front) -> None:
    client = ["openssl", "s_client", "-connect", f"127.0.0.1:{secure.port}", *old]
    done = subprocess.run(client, input="", capture_output=True, text=True, timeout=DEADLINE)
    assert "alert" in done.stderr
    assert "Cipher is (NONE)" in done.stdout


def test_http2(secure: Front) -> None:
    url = f"https://127.0.0.1:{secure.port}/"
    write_out = ("--output", "/dev/null", "--write-out", "%{http_version} %{http_code}")
    curl = ["curl", "--silent", "--insecure", "--max-time", "30", "--http2", *write_out, url]
    assert subprocess.run(curl, capture_output=True, text=True).stdout == "2 200"


def test_files_say_how_long_they_may_be_kept(tmp_path: Path) -> None:
    files = tmp_path / "static files"
    toml = (
        f"static = {{ '/static/' = '{files}' }}\nstatic_age = '10min'\n"
        f"media = {{ '/media/' = '{files}' }}\nmedia_age = 0\n"
    )
    with fronted(tmp_path, toml) as front:
        for name in ("a.css", "a.0123456789ab.css", "hostile.html", ".env"):
            (front.files / name).write_text("x" * 2000)
        for path, age in (
            ("/static/a.css", "600"),
            ("/static/a.0123456789ab.css", "31536000"),
            ("/media/hostile.html", "0"),
        ):
            answer = front.ask(path)
            assert answer.status == 200
            assert re.search(rf"max-age={age}\b|no-cache", answer.headers["Cache-Control"]), path
        assert front.ask("/media/hostile.html").headers["X-Content-Type-Options"] == "nosniff"
        assert front.ask("/media/.env").status == 404
        assert front.ask("/media/a.css", method="POST", body=b"").status == 403
        packed = front.ask("/static/a.css", {"Accept-Encoding": "gzip"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Vary"] == "Accept-Encoding"
        assert gzip.decompress(packed.body) == b"x" * 2000
        assert front.backend.seen == []


@pytest.mark.parametrize(("on", "encoding"), [("true", "gzip"), ("false", None)])
def test_text_of_the_application_is_compressed(
    on: str, encoding: str | None, tmp_path: Path
) -> None:
    with fronted(tmp_path, f"gzip = {on}") as front:
        front.backend.answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2000\r\n\r\n"
            + b"1" * 2000
        )
        answer = front.ask("/", {"Accept-Encoding": "gzip"})
        assert answer.headers.get("Content-Encoding") == encoding


@pytest.mark.parametrize(
    "target", ["/metrics", "/metrics/", "/metrics/x", "/status", "/%6detrics"]
)
@pytest.mark.parametrize(("allow", "status"), [("127.0.0.1", 200), ("192.0.2.1", 403)])
def test_private_paths_are_closed(target: str, allow: str, status: int, tmp_path: Path) -> None:
    with fronted(tmp_path, f"allow = ['{allow}']") as front:
        assert front.request(target)[0] == status
        assert len(front.backend.seen) == (status == 200)


@pytest.mark.parametrize("target", ["/metricsx", "/x/metrics", "/statuses"])
def test_what_only_looks_like_a_private_path_is_open(target: str, tmp_path: Path) -> None:
    with fronted(tmp_path, "allow = ['192.0.2.1']") as front:
        assert front.request(target)[0] == 200


def test_a_websocket_passes(tmp_path: Path) -> None:
    def echo(connection: object) -> None:
        connection.sendall(connection.recv(100).upper())  # type: ignore[attr-defined]

    with fronted(tmp_path, "") as front:
        front.backend.answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"
            b"Upgrade: websocket\r\n\r\n"
        )
        front.backend.then = echo
        with closing(front.connection()) as connection:
            connection.connect()
            connection.sock.sendall(
                b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n"
            )
            assert connection.sock.recv(1000).startswith(b"HTTP/1.1 101")
            connection.sock.sendall(b"frame")
            assert connection.sock.recv(100) == b"FRAME"
        seen = front.backend.headers()
        assert (seen["upgrade"], seen["connection"]) == (["websocket"], ["upgrade"])


@pytest.mark.parametrize(
    ("path", "header"), [("/events/a", b""), ("/", b"X-Accel-Buffering: no\r\n")]
)
def test_a_stream_comes_as_it_is_made(path: str, header: bytes, tmp_path: Path) -> None:
    """The second part is sent only once the client has the first."""
    arrived = threading.Event()

    def second(connection: object) -> None:
        assert arrived.wait(DEADLINE)
        connection.sendall(b"5\r\nworld\r\n0\r\n\r\n")  # type: ignore[attr-defined]

    with fronted(tmp_path, "unbuffered = ['/events/']") as front:
        front.backend.answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            + header
            + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        )
        front.backend.then = second
        with closing(front.connection()) as connection:
            connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
            response = connection.getresponse()
            assert response.read1(5) == b"hello"
            arrived.set()
            assert response.read() == b"world"


def test_a_page_while_nobody_answers(tmp_path: Path) -> None:
    with fronted(tmp_path, "") as front:
        front.backend.close()
        (tmp_path / "app.sock").unlink()
        page = front.ask("/")
        assert page.status == 503
        assert page.headers["Retry-After"] == "5"
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Content-Type"] == "text/html"
        assert b'http-equiv="refresh"' in page.body
        assert front.ask("/", method="HEAD").status == 503
        assert front.ask("/", method="POST", body=b"x").status == 502


def test_a_page_when_the_answer_is_late(tmp_path: Path) -> None:
    done = threading.Event()
    text = site(tmp_path, f"bind = ['{tmp_path}/app.sock']\n[nginx]\nlisten = ['127.0.0.1:PORT']")
    port = free_port()
    text = text.replace("PORT", str(port)).replace(
        "proxy_read_timeout 135s", "proxy_read_timeout 1s"
    )
    backend = Backend(tmp_path / "app.sock")
    backend.answer, backend.then = b"", lambda connection: done.wait(DEADLINE) and None
    try:
        with running(prefix(tmp_path / "nginx", text, root=os.geteuid() == 0), port):
            answer = Front(port, backend, tmp_path).ask("/")
            assert answer.status == 504
            assert b"takes too long to answer" in answer.body
    finally:
        done.set()
        backend.close()


@pytest.mark.parametrize("status", [b"502 Bad Gateway", b"503 Busy", b"504 Gateway Timeout"])
def test_the_applications_own_errors_pass(status: bytes, tmp_path: Path) -> None:
    with fronted(tmp_path, "") as front:
        front.backend.answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nmine"
        assert front.request("/") == (int(status[:3]), b"mine")


def test_another_machine_answers_when_one_is_gone(tmp_path: Path) -> None:
    other = Backend(tmp_path / "other.sock")
    toml = f"servers = ['local', 'unix:{tmp_path}/other.sock']"
    try:
        with fronted(tmp_path, toml) as front:
            assert {front.request("/") for _ in range(6)} == {(200, b"ok")}
            assert len(other.seen) == len(front.backend.seen) == 3
            front.backend.close()
            (tmp_path / "app.sock").unlink()
            for method in ("GET", "POST") * 3:
                assert front.request("/", method=method)[0] == 200
            assert len(other.seen) == 9
    finally:
        other.close()


def test_a_request_with_effects_is_sent_once_to_one_machine(tmp_path: Path) -> None:
    other = Backend(tmp_path / "other.sock")
    other.answer = b""
    try:
        with fronted(tmp_path, f"servers = ['local', 'unix:{tmp_path}/other.sock']") as front:
            front.backend.answer = b""
            assert front.request("/", method="POST", body=b"pay")[0] == 502
            assert len(other.seen) + len(front.backend.seen) == 1
    finally:
        other.close()


def test_access_log_in_json(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with fronted(tmp_path, f"access_log = '{log}'") as front:
        front.request('/a"b?c=%22', {"User-Agent": 'x"\\\x01y'})
        request_id = front.backend.headers()["x-request-id"][0]
        front.request("/metricsx", method="POST", body=b"x")
    first, second = map(json.loads, log.read_text().splitlines())
    assert first["uri"] == '/a"b?c=%22'
    assert first["user_agent"] == 'x"\\\x01y'
    assert first["request_id"] == request_id
    assert (first["status"], first["upstream_status"]) == (200, "200")
    assert first["request_time"] >= 0
    assert second["method"] == "POST"


@pytest.mark.parametrize(("path", "status", "lines"), [("/up", 200, 0), ("/status", 403, 1)])
def test_health_checks_are_passed_on_and_not_logged(
    path: str, status: int, lines: int, tmp_path: Path
) -> None:
    """Unless they are closed."""
    log = tmp_path / "access.log"
    toml = f"access_log = '{log}'\nallow = ['192.0.2.1']"
    with fronted(tmp_path, toml, f"[server]\nhealth = '{path}'") as front:
        assert front.request(path)[0] == status
    assert len(log.read_text().splitlines()) == lines
