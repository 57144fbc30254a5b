"""The rendered site in a real nginx, before a real server on a Unix socket."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockd.errors import ConfigError
from tests.front import Front, fronted, site, verdict

FORMS = {
    "defaults": "",
    "tcp": 'bind = [":8000"]',
    "ipv6": 'bind = ["[::]:8000"]',
    "odd paths": """bind = ['/run/a b"c;{}#$x.sock']
[nginx]
static = { "/a b{};#/" = '/srv/a b/"x";{}#\\y/', "/$s/" = "/srv/100%/" }
""",
    "names": '[nginx]\nserver_name = ["a.example", "*.b.example", "~^(www\\\\.)?c\\\\.example$"]',
    "listen": '[nginx]\nlisten = ["8080 default_server", "[::]:8080"]',
    "limits": '[limits]\nbody = "1500KiB"\nhead = "100KiB"\nheader_field = 10000',
    "status": '[nginx]\nstatus = "/sockd"\nallow = ["10.0.0.0/8"]\nstatic = { "/s/" = "/srv/" }',
    "times": '[timeouts]\nheader = "1500ms"\nboot = "1ms"\nwrite = "1h"',
}


@pytest.mark.parametrize("form", FORMS)
def test_nginx_finds_nothing_to_say(form: str, tmp_path: Path) -> None:
    assert verdict(tmp_path, site(tmp_path, FORMS[form])) == ""


def test_nginx_has_something_to_say_of_a_mistake(tmp_path: Path) -> None:
    text = site(tmp_path, "").replace("proxy_redirect", "proxy_redirekt")
    assert 'unknown directive "proxy_redirekt"' in verdict(tmp_path, text)


def test_sites_stand_side_by_side(tmp_path: Path) -> None:
    names = ("a-b", "a_b", "a.b")  # one and the same name of a variable
    sites = [
        site(tmp_path, f'[nginx]\nserver_name = ["{index}.example"]', name)
        for index, name in enumerate(names)
    ]
    assert verdict(tmp_path, *sites) == ""


@pytest.mark.parametrize(
    ("setting", "directive"),
    [
        ('[limits]\nbody = "64KiB"', "client_max_body_size 64k;"),
        ("[limits]\nbody = 1000", "client_max_body_size 1000;"),
        ('[limits]\nhead = "20KiB"', "large_client_header_buffers 3 8k;"),
        ('[timeouts]\nheader = "7s"', "client_header_timeout 7s;"),
        ('[timeouts]\nbody = "7s"', "client_body_timeout 7s;"),
        ('[timeouts]\nwrite = "7s"', "send_timeout 7s;"),
        ('[timeouts]\nboot = "7s"', "proxy_read_timeout 82s;"),
        ('[timeouts]\nrequest = "10min"', "proxy_read_timeout 675s;"),
        ("[timeouts]\nrequest = 0", "proxy_read_timeout 86475s;"),
        ('[nginx]\nserver_name = ["a", "b"]', "server_name a b;"),
        ('[nginx]\nlisten = ["8080"]', "listen 8080;"),
        ("", "server unix:/run/sockd-shop.sock;"),
        ('bind = [":8000", "/run/x.sock"]', "server unix:/run/x.sock;"),
        ('bind = ["0.0.0.0:8000"]', "server 127.0.0.1:8000;"),
        ('bind = ["192.0.2.1:8000"]', "server 192.0.2.1:8000;"),
        ('bind = ["[::]:8000"]', "server [::1]:8000;"),
    ],
)
def test_a_setting_reaches_its_directive(setting: str, directive: str, tmp_path: Path) -> None:
    lines = [line.strip() for line in site(tmp_path, setting).splitlines()]
    assert lines.count(directive) == 1
    lines.remove("server {")
    assert sum(line.split(" ")[0] == directive.split(" ")[0] for line in lines) == 1


def test_the_status_page_is_for_those_who_are_allowed(tmp_path: Path) -> None:
    text = site(tmp_path, FORMS["status"])
    location = text.partition("location ^~ /sockd/ {")[2].partition("}")[0]
    assert location.split(";")[:2] == ["\n        allow 10.0.0.0/8", "\n        deny all"]
    assert "proxy_pass http://unix:/run/sockd-shop-status.sock:/;" in location
    with pytest.raises(ConfigError, match=r"nginx\.status: .* is another location already"):
        site(tmp_path, '[nginx]\nstatus = "/s"\nstatic = { "/s/" = "/srv/" }')


@pytest.mark.parametrize(
    "static",
    ['{ "/" = "/srv/x/" }', '{ "static/" = "/srv/x/" }', '{ "/s/" = "x" }', '{ "/s/" = "/$x" }'],
)
def test_what_nginx_cannot_serve_is_refused(static: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        site(tmp_path, f"[nginx]\nstatic = {static}\n")


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    files = tmp_path / "static files"
    static = f"static = {{ '/static' = '{files}' }}"
    with fronted(tmp_path, static, "[limits]\nbody = 1000") as front:
        yield front


def test_what_a_client_claims_about_itself_is_replaced(front: Front) -> None:
    spoofed = {
        "X-Forwarded-For": "192.0.2.66",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "666",
        "X-Real-IP": "192.0.2.66",
        "X-Request-ID": "mine",
        "X-Request-Start": "t=0",
        "Forwarded": "for=192.0.2.66",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Protocol": "ssl",
        "X-Forwarded-Server": "evil",
        "X-Forwarded-Ssl": "on",
        "Proxy": "http://evil.example",
    }
    assert front.request("/", spoofed)[0] == 200
    seen = front.backend.headers()
    for name in (
        "forwarded",
        "proxy",
        "x-forwarded-prefix",
        "x-forwarded-protocol",
        "x-forwarded-server",
        "x-forwarded-ssl",
    ):
        assert name not in seen
    assert seen["x-forwarded-for"] == ["127.0.0.1"]
    assert seen["x-real-ip"] == ["127.0.0.1"]
    assert seen["x-forwarded-proto"] == ["http"]
    assert seen["x-forwarded-host"] == ["shop.example:8443"]
    assert seen["x-forwarded-port"] == [str(front.port)]
    assert re.fullmatch(r"[0-9a-f]{32}", seen["x-request-id"][0])
    assert re.fullmatch(r"t=\d{10}\.\d{3}", seen["x-request-start"][0])
    assert not any(b"evil" in head or b"192.0.2.66" in head for head in front.backend.seen)


@pytest.mark.parametrize(
    ("target", "host", "passed"),
    [
        ("/", "shop.example", "shop.example"),
        ("/", "shop.example:8443", "shop.example:8443"),
        ("/", "[2001:db8::1]", "[2001:db8::1]"),
        ("/", "[2001:db8::1]:8443", "[2001:db8::1]:8443"),
        ("http://shop.example/", "evil.example", "shop.example"),
    ],
)
def test_the_host_is_that_of_the_request(
    target: str, host: str, passed: str, front: Front
) -> None:
    assert front.request(target, {"Host": host})[0] == 200
    assert front.backend.headers()["host"] == [passed]


def test_each_request_has_a_connection_of_its_own(front: Front) -> None:
    assert front.request("/") == (200, b"ok")
    assert front.backend.headers()["connection"] == ["close"]
    assert front.backend.seen[0].startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("protocol", ["h2c", "websocket, h2c", "h2c, websocket", "TLS/1.0"])
def test_nothing_but_a_websocket_is_upgraded(protocol: str, front: Front) -> None:
    upgrade = {"Upgrade": protocol, "Connection": "Upgrade, HTTP2-Settings"}
    assert front.request("/", upgrade)[0] == 200
    assert "upgrade" not in front.backend.headers()
    assert front.backend.headers()["connection"] == ["close"]


def test_a_body_above_the_limit_is_refused_before_the_application(front: Front) -> None:
    assert front.request("/", method="POST", body=b"x" * 1001)[0] == 413
    assert front.backend.seen == []
    assert front.request("/", method="POST", body=b"x" * 1000)[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_is_sent_once(method: str, front: Front) -> None:
    front.backend.answer = b""
    assert front.request("/", method=method)[0] == (503 if method == "GET" else 502)
    assert len(front.backend.seen) == 1


def test_large_headers_of_a_response_pass(front: Front) -> None:
    front.backend.answer = (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: " + b"x" * 12000 + b"\r\nContent-Length: 0\r\n\r\n"
    )
    assert front.request("/")[0] == 200


def test_static_files_come_from_nginx(front: Front) -> None:
    (front.files / "a b.css").write_text("body {}")
    assert front.request("/static/a%20b.css") == (200, b"body {}")
    assert front.request("/static/none.css")[0] == 404
    assert front.request("/static/a%20b.css", method="POST", body=b"")[0] == 403
    assert front.backend.seen == []


@pytest.mark.parametrize("target", ["/static/.env", "/static/x/.git/config", "/.env", "/a/.git/x"])
def test_hidden_files_are_nobodys_business(target: str, front: Front) -> None:
    for hidden in (".env", "x/.git/config"):
        path = front.files / hidden
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    assert front.request(target)[0] == 404
    assert front.backend.seen == []


@pytest.mark.parametrize("target", ["/static../app.sock", "/static/../app.sock", "/staticfiles"])
def test_nothing_beside_the_static_files_is_served(target: str, front: Front) -> None:
    (front.files.parent / "static filesx").write_text("secret")
    assert front.request(target) == (200, b"ok")  # it is the application's


def test_well_known_is_the_applications(front: Front) -> None:
    assert front.request("/.well-known/security.txt") == (200, b"ok")
