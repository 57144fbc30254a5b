"""`sockd top`: its frames, its keys, and a terminal that is left as it was found."""

from __future__ import annotations

import copy
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from sockd import top
from sockd.top import View
from tests.documents import DOCUMENT, REQUEST, WORKER
from tests.test_client import environment, http, peer  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[1]


def later(document: dict[str, Any], seconds: int = 2, **totals: Any) -> dict[str, Any]:
    made = copy.deepcopy(document)
    made["now_usec"] += seconds * 1_000_000
    for name, more in totals.items():
        made["totals"][name] += more
    return made


def seen(*documents: dict[str, Any], **changes: Any) -> View:
    view = View(**changes)
    for document in documents:
        view.add(document)
    return view


def test_a_frame():
    second = later(DOCUMENT, requests=50, responses_5xx=4, bytes_out=2048, cpu_usec=3_000_000)
    second["totals"]["duration"]["buckets"] = [[2176, 2], [8704, 1], [10240, 10], [786_432, 1]]
    second["workers"][0]["requests"] += 30
    lines = top.frame(seen(DOCUMENT, second), 80, 24)
    text = "\n".join(lines)
    assert lines[0].startswith("shop  serving  generation 3  up 2h 14min")
    for words in (
        "2 ready of 2, 1 busy",
        "listen queue 3 (highest 12)",
        "25.0/s",
        "5xx 2.0/s",
        "p50 10ms   p99 10ms",
        "1.0 KiB/s out",
        "CPU 150 %",
        "9.3s GET /slow?",
    ):
        assert words in text
    assert re.search(r"^3\.1 +ready .* 15\.0 ", text, re.MULTILINE)
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 5, 12, 50])
def test_it_fits(width: int, height: int):
    many = [WORKER | {"id": f"3.{i}", "worker": i, "in_hand": [REQUEST] * 3} for i in range(40)]
    document = DOCUMENT | {"workers": many}
    lines = top.frame(seen(document, later(document, requests=9)), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_colours_are_around_words_only():
    lines = top.frame(seen(DOCUMENT, later(DOCUMENT)), 80, 24, colour=True)
    plain = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
    assert plain == top.frame(seen(DOCUMENT, later(DOCUMENT)), 80, 24)


def ids(view: View) -> list[str]:
    return re.findall(r"^(\d\.\d)", "\n".join(top.frame(view, 100, 30)), re.MULTILINE)


def test_order_and_filter():
    workers = [
        WORKER | {"id": "3.1", "worker": 1, "memory": 5, "in_hand": [], "active": 0},
        WORKER | {"id": "3.2", "worker": 2, "memory": 9, "cpu_usec": 1},
        WORKER | {"id": "2.7", "worker": 7, "generation": 2, "state": "draining", "memory": None},
    ]
    document = DOCUMENT | {"workers": workers}
    view = seen(document)
    assert ids(view) == ["2.7", "3.1", "3.2"]
    view.press("r")
    assert ids(view) == ["3.2", "3.1", "2.7"]
    view.press("r")
    view.sort = "memory"
    assert ids(view) == ["3.2", "3.1", "2.7"]
    view.sort = "request"
    assert ids(view)[-1] == "3.1"
    view.press("f")
    assert ids(view) == ["2.7", "3.2"]
    view.press("f")
    assert ids(view) == ["2.7"]
    for name in top.SORTS:
        view.press("s")
        assert ids(seen(document, later(document), sort=name))


def test_keys():
    view = View()
    assert all(view.press(key) for key in "sfr xé")
    assert view.paused
    assert not any(View().press(key) for key in ("q", "\x03", "\x1b"))


def test_another_master_starts_anew():
    view = seen(DOCUMENT, DOCUMENT | {"pid": 9})
    assert len(view.documents) == 1
    assert top.frame(View(note="shop is not running"), 80, 24) == ["shop is not running"]
    view.note = "shop is not running"
    assert "shop is not running" in top.frame(view, 80, 24)[-1]


def test_sparkline():
    assert top.sparkline([], 5) == ""
    assert top.sparkline([0, 0], 5) == "▁▁"
    assert top.sparkline([1, 2, 4, 8], 3) == "▃▅█"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self.ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=ROOT
        )
        self.shown = ""

    def read_until(self, words: str, patience: float = 30) -> None:
        until = time.monotonic() + patience
        while words not in self.shown:
            assert time.monotonic() < until, self.shown
            poll = select.poll()  # select(2) does not know descriptors from 1024 on
            poll.register(self.ours, select.POLLIN)
            if poll.poll(100):
                self.shown += os.read(self.ours, 65536).decode()

    def close(self) -> int:
        code = self.process.wait(30)
        assert termios.tcgetattr(self.theirs) == self.before
        os.close(self.theirs)
        os.close(self.ours)
        return code


@pytest.fixture
def terminal(tmp_path: Path, peer: Any):  # noqa: F811
    peer(http(DOCUMENT))
    made = Terminal(
        [sys.executable, "-m", "sockd", "top", "--interval", "0.2"],
        environment(tmp_path, TERM="xterm", NO_COLOR="1"),
    )
    yield made
    made.process.kill()
    made.process.wait()


def test_a_session(terminal: Terminal):
    terminal.read_until("sort worker")
    os.write(terminal.ours, b"s")
    terminal.read_until("sort request")
    os.write(terminal.ours, b"\x1b[A")  # an arrow is no key of its own
    ioctl(terminal.theirs, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    os.kill(terminal.process.pid, signal.SIGWINCH)
    os.write(terminal.ours, b"f")
    terminal.read_until("show busy")
    os.write(terminal.ours, b"q")
    terminal.read_until("\x1b[?1049l")
    assert terminal.close() == 0


def test_a_signal_leaves_the_terminal_well(terminal: Terminal):
    terminal.read_until("sort worker")
    terminal.process.terminate()
    terminal.read_until("\x1b[?1049l")
    assert terminal.close() == 130


def test_without_a_terminal(tmp_path: Path, peer: Any):  # noqa: F811
    peer(http(DOCUMENT))
    done = subprocess.run(
        [sys.executable, "-m", "sockd", "top"],
        cwd=ROOT,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
