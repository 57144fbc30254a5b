"""Who a request is from: proxies that are trusted are believed, others are not heard."""

from __future__ import annotations

import pytest
from test_wire import CLOSE, get, hello
from werkzeug.wrappers import Request

PRIVATE = ("unix", "127.0.0.1", "10.0.0.0/8", "fd00::/8")


def environ_of(serve, fields: bytes, *, trusted=PRIVATE, unix=False) -> dict:
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        return hello(environ, start_response)

    answer = serve(app, unix=unix, server_trusted=trusted).talk(get("/x", fields + CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 ")
    return seen


@pytest.mark.parametrize(
    ("value", "client"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"198.51.100.7, 192.0.2.1", "192.0.2.1"),  # the first may be made up
        (b"192.0.2.1, 10.1.2.3, 10.0.0.1", "192.0.2.1"),
        (b"10.1.1.1,10.1.2.3", "10.1.1.1"),
        (b"192.0.2.1:4711", "192.0.2.1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"[2001:DB8::1]:4711, fd00::2", "2001:db8::1"),
        (b"192.0.2.1, unknown, 10.0.0.1", "10.0.0.1"),
        (b"unknown", "127.0.0.1"),
        (b"<script>", "127.0.0.1"),
        (b"", "127.0.0.1"),
    ],
)
@pytest.mark.tasks
def test_client_of_a_chain(serve, value, client) -> None:
    environ = environ_of(serve, b"X-Forwarded-For: " + value + b"\r\n")
    assert environ["REMOTE_ADDR"] == client


@pytest.mark.parametrize(
    ("value", "client", "scheme", "host"),
    [
        (b"for=192.0.2.1;proto=https;host=shop.example", "192.0.2.1", "https", "shop.example"),
        (b'For="[2001:db8::1]:80"; Proto=HTTP', "2001:db8::1", "http", "a"),
        (b"for=1.2.3.4, for=192.0.2.1;host=b, for=10.0.0.1;host=c", "192.0.2.1", "http", "c"),
        (b"for=_hidden", "127.0.0.1", "http", "a"),
        (b'for="192.0.2.1', "127.0.0.1", "http", "a"),
        (b"for=192.0.2.1 proto=https", "127.0.0.1", "http", "a"),
        (b'for=192.0.2.1;host="x/y"', "192.0.2.1", "http", "a"),
        (b",", "127.0.0.1", "http", "a"),
    ],
)
@pytest.mark.tasks
def test_forwarded(serve, value, client, scheme, host) -> None:
    environ = environ_of(serve, b"X-Forwarded-For: 192.0.2.9\r\nForwarded: " + value + b"\r\n")
    assert environ["REMOTE_ADDR"] == client
    assert environ["wsgi.url_scheme"] == scheme
    assert environ["HTTP_HOST"] == host


SPOOFED = (
    b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"
    b"X-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /evil\r\nX-Real-IP: 192.0.2.1\r\n"
    b"Forwarded: for=192.0.2.1\r\n"
)


@pytest.mark.tasks
def test_others_are_not_heard(serve) -> None:
    environ = environ_of(serve, SPOOFED, trusted=("unix", "10.0.0.0/8"))
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == "a"
    assert not [key for key in environ if "FORWARDED" in key or key == "HTTP_X_REAL_IP"]


@pytest.mark.tasks
def test_unix_peers_are_trusted_by_default_and_need_not_be(serve) -> None:
    environ = environ_of(serve, b"X-Forwarded-For: 192.0.2.1\r\n", trusted=("unix",), unix=True)
    assert environ["REMOTE_ADDR"] == "192.0.2.1"
    environ = environ_of(serve, b"X-Forwarded-For: 192.0.2.1\r\n", trusted=(), unix=True)
    assert environ["REMOTE_ADDR"] == ""
    assert "HTTP_X_FORWARDED_FOR" not in environ


@pytest.mark.parametrize(
    ("fields", "url", "server"),
    [
        (b"", "http://a/x", ("a", "80")),
        (b"X-Forwarded-Proto: https\r\n", "https://a/x", ("a", "443")),
        (b"X-Forwarded-Proto: https\r\nX-Forwarded-Port: 8443\r\n", "https://a/x", ("a", "8443")),
        (
            b"X-Forwarded-Host: shop.example:81\r\n",
            "http://shop.example:81/x",
            ("shop.example", "81"),
        ),
        (b"X-Forwarded-Proto: gopher\r\nX-Forwarded-Port: x\r\n", "http://a/x", ("a", "80")),
        (b"X-Forwarded-Host: a b\r\n", "http://a/x", ("a", "80")),
        (b"X-Forwarded-Host: [::1]\r\n", "http://[::1]/x", ("[::1]", "80")),
    ],
)
def test_what_frameworks_make_of_it(serve, fields, url, server) -> None:
    environ = environ_of(serve, fields, unix=True)
    request = Request(environ)
    assert request.url == url
    assert request.is_secure == url.startswith("https")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == server
