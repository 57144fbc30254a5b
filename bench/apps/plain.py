"""WSGI applications that do next to nothing: what is measured is the server."""

import time

PAGE = b"Hello, World!"
LARGE = b"x" * (256 << 10)
NAP = 0.01  # seconds
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(PAGE)))]
LARGE_HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(LARGE)))]


def hello(environ, start_response):
    start_response("200 OK", HEADERS)
    return [PAGE]


def post(environ, start_response):
    length = int(environ["CONTENT_LENGTH"])
    whole = len(environ["wsgi.input"].read(length)) == length
    start_response("200 OK" if whole else "500 Short Body", HEADERS)
    return [PAGE]


def large(environ, start_response):
    start_response("200 OK", LARGE_HEADERS)
    return [LARGE]


def sleep(environ, start_response):
    time.sleep(NAP)
    start_response("200 OK", HEADERS)
    return [PAGE]
