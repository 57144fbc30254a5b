"""A plain WSGI application (PEP 3333): what a server must get right, one path each."""

import os
import time
from pathlib import Path

PAGE = b"""<!doctype html>
<title>hello</title>
<h1>Hello from sockd</h1>
<ul>
<li><a href="/environ">/environ</a> what the application is told
<li><a href="/stream">/stream</a> ten chunks, one every 0.1 s
<li><a href="/sleep?0.5">/sleep?SECONDS</a> answers late
<li><a href="/file">/file</a> its own source, by wsgi.file_wrapper
<li>POST /echo the body, back
<li><a href="/raise">/raise</a> an exception: a plain 500 here, the traceback in the journal
</ul>
"""


def index(environ):
    return "200 OK", "text/html", [PAGE]


def show_environ(environ):
    lines = [f"{name} = {environ[name]!r}\n" for name in sorted(environ)]
    lines.append(f"process = {os.getpid()}\n")
    return "200 OK", "text/plain", ["".join(lines).encode()]


def stream(environ):
    def chunks():
        for number in range(10):
            yield b"chunk %d\n" % number
            time.sleep(0.1)

    return "200 OK", "text/plain", chunks()


def sleep(environ):
    seconds = float(environ["QUERY_STRING"] or 1)
    time.sleep(seconds)
    return "200 OK", "text/plain", [b"slept %.1f s\n" % seconds]


def file(environ):
    source = Path(__file__).open("rb")  # noqa: SIM115 (the server closes it)
    return "200 OK", "text/plain", environ["wsgi.file_wrapper"](source)


def echo(environ):
    return "200 OK", "application/octet-stream", [environ["wsgi.input"].read()]


def fail(environ):
    raise RuntimeError("raised on purpose")


ROUTES = {
    "/": index,
    "/environ": show_environ,
    "/stream": stream,
    "/sleep": sleep,
    "/file": file,
    "/echo": echo,
    "/raise": fail,
}


def app(environ, start_response):
    view = ROUTES.get(environ["PATH_INFO"])
    if view is None:
        status, kind, body = "404 Not Found", "text/plain", [b"no such page\n"]
    else:
        status, kind, body = view(environ)
    start_response(status, [("Content-Type", f"{kind}; charset=utf-8")])
    return body
