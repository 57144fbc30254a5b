"""The application that counts: one line with the request's id for each call, in `executed`.

GET /SIZE is answered with as many bytes, POST with the body's length and sum, so both ends know
that nothing was mixed up. /sleep/SECONDS and /child/SECONDS take their time, in Python and in a
child process.
"""

import os
import subprocess
import time
from pathlib import Path

from wire import filling, receipt

VERSION = "0"
PLACE = Path(os.environ.get("STATE_DIRECTORY") or Path(__file__).parent)
# One write(2) with O_APPEND a line: no line is lost or torn, however many processes write.
EXECUTED = os.open(PLACE / "executed", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
time.sleep(float(os.environ.get("BOOT", "0")))


def app(environ, start_response):
    ident = environ.get("HTTP_X_ID", "")
    if ident:
        os.write(EXECUTED, f"{ident}\n".encode())
    body = b""
    while piece := environ["wsgi.input"].read(65536):
        body += piece
    path, _, number = environ["PATH_INFO"].rpartition("/")
    if path == "/sleep":
        time.sleep(float(number))
    elif path == "/child":
        subprocess.run(["sleep", number], check=True)
    if environ["REQUEST_METHOD"] == "POST":
        answer = receipt(ident, body)
    else:
        answer = filling(ident, int(number)) if number and not path else VERSION.encode()
    start_response(
        "200 OK",
        [("Content-Length", str(len(answer))), ("X-Id", ident), ("X-Version", VERSION)],
    )
    return [answer]
