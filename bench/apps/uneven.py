"""Most requests take a millisecond; /slow takes half a second."""

import time


def app(environ, start_response):
    time.sleep(0.5 if environ["PATH_INFO"] == "/slow" else 0.001)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
