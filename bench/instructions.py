"""Instructions of a worker per request, counted by callgrind: the same on a busy machine.

One client asks, over one connection or over one for each request; a run with twice the requests
less a run with as many as asked for leaves nothing of the start. `python -m bench.instructions`
prints the costliest functions."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench import HERE, ROOT, Failure
from bench.load import BROWSER

HEAD = "GET / HTTP/1.1\r\nHost: bench\r\n"
PLAIN = (HEAD + "\r\n").encode()
# Modules that write into a slot of the board themselves.
WRITERS = ("ends", "overdue", "answers", "intake", "reception", "loop", "wsgi")
CLOSING = (HEAD + "Connection: close\r\n\r\n").encode()
FROM_BROWSER = (
    HEAD + "".join(f"{name}: {value}\r\n" for name, value in BROWSER.items()) + "\r\n"
).encode()


@dataclass(frozen=True)
class Count:
    """Instructions per request: in all, by function with and without what it calls, and what the
    board takes of them."""

    total: float
    own: Counter[str]
    inclusive: Counter[str]
    board: float


def count(requests: int, request: bytes = PLAIN, app: str = "plain:hello") -> Count:
    once = _run(requests, request, app)
    twice = _run(2 * requests, request, app)
    lines, own, inclusive = (
        Counter({key: (b[key] - a[key]) / requests for key in b})
        for a, b in zip(once, twice, strict=True)
    )
    board = sum(inclusive[name] for name in inclusive if "board_note_" in name)
    return Count(own.total(), own, inclusive, board + sum(_on_the_board(lines)))


def _on_the_board(lines: Counter[tuple[str, int]]) -> list[float]:
    """Costs of the lines of C that write into a slot, outside of the board's own functions."""
    sources = {}
    found = []
    for (file, line), cost in lines.items():
        if Path(file).stem not in WRITERS or cost == 0:
            continue
        if file not in sources:
            sources[file] = (ROOT / file).read_text().splitlines()
        text = sources[file][line - 1]
        if "slot->" in text and "note_re" not in text:
            found.append(cost)
    return found


def _run(requests: int, request: bytes, app: str) -> tuple[Counter, Counter, Counter]:
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as end:
        out = Path(directory) / "out"
        fd = end.fileno()
        worker = subprocess.Popen(
            ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}",
             "--compress-strings=no", "--compress-pos=no", sys.executable, "-B",
             HERE / "counted.py", str(fd), app],
            cwd=HERE / "apps",
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            pass_fds=[fd],
        )  # fmt: skip
        try:
            turns = (requests, 1) if request is CLOSING else (1, requests)
            for _ in range(turns[0]):
                with socket.create_connection(end.getsockname(), timeout=60) as client:
                    for _ in range(turns[1]):
                        client.sendall(request)
                        if not client.recv(65536).startswith(b"HTTP/1.1 200"):
                            raise Failure("the counted worker does not answer")
            worker.communicate(timeout=60)
        finally:
            worker.kill()
            worker.wait()
        return _read(out)


def _read(path: Path) -> tuple[Counter, Counter, Counter]:
    """Cost by line, by function, and by function called (callgrind's profile format)."""
    lines: Counter[tuple[str, int]] = Counter()
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    file = function = called = ""
    calls = False
    for row in path.read_text(errors="replace").splitlines():
        word, _, rest = row.partition("=")
        if word in ("fl", "fi", "fe"):
            file = rest
        elif word == "fn":
            function = rest
        elif word == "cfn":
            called = rest
        elif word == "calls":
            calls = True
        elif row[:1].isdigit():
            line, cost = map(int, row.split())
            if calls:
                if called != function:
                    inclusive[called] += cost
                calls = False
            else:
                lines[file, line] += cost
                own[function] += cost
    return lines, own, inclusive


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions")
    parser.add_argument("--requests", type=int, default=5000)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--browser",
        action="store_const",
        dest="request",
        const=FROM_BROWSER,
        help="with a browser's headers",
    )
    kind.add_argument(
        "--closing",
        action="store_const",
        dest="request",
        const=CLOSING,
        help="a connection for each request",
    )
    parser.add_argument("--app", default="plain:hello")
    parser.add_argument("--rows", type=int, default=40)
    options = parser.parse_args()
    found = count(options.requests, options.request or PLAIN, options.app)
    print(f"{found.total:.0f} instructions per request, {found.board:.0f} of them for the board")
    for name, cost in found.own.most_common(options.rows):
        print(f"{cost:8.1f} own {found.inclusive[name]:8.1f} with calls  {name}")


if __name__ == "__main__":
    main()
