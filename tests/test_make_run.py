"""`make run`: the first command that a person tries."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Run:
    """`make run` with a mark in its environment, which all that it starts inherits."""

    process: subprocess.Popen[str]
    url: str
    mark: bytes

    def left(self) -> list[int]:
        """The processes that it has started and that are alive, make included."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self.mark in environ.read_bytes():
                    found.append(int(environ.parent.name))
        return found

    def interrupt(self) -> None:
        """Ctrl-C: the terminal signals every process of the foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.communicate(timeout=60)


@contextmanager
def make_run(*variables: str, **environment: str) -> Iterator[Run]:
    """make, in a session of its own as a terminal gives one, until it prints its address."""
    mark = f"MARK_OF_THIS_TEST={uuid.uuid4()}"
    name, _, value = mark.partition("=")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", "run", f"LISTEN=127.0.0.1:{free_port()}"]
    with subprocess.Popen(
        [*command, *variables],
        cwd=ROOT,
        env={**inherited, **environment, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        run = Run(process, "", mark.encode())
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("http://")), None)
            assert line is not None, "make ended without an address"
            run.url = line.split()[0]
            yield run
        finally:
            for pid in run.left():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def get(url: str) -> str:
    # The socket listens a moment after the address is printed.
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError as error:
            if time.monotonic() > deadline or not isinstance(error.reason, ConnectionRefusedError):
                raise
        time.sleep(0.05)


def test_serves_the_example_and_leaves_nothing_running() -> None:
    with make_run() as run:
        assert "Hello from sockd" in get(run.url)
        assert len(run.left()) >= 4, "make, master, fork server and a worker at least"
        run.interrupt()
        assert run.left() == []


def test_interrupted_before_the_first_request_leaves_nothing_running() -> None:
    with make_run() as run:
        run.interrupt()
        assert run.left() == []


def test_serves_an_application_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import os\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [os.environ['OWN'].encode()]\n"
    )
    with make_run("APP=own:app", f"DIR={tmp_path}", OWN="passed on") as run:
        assert get(run.url) == "passed on"
        run.interrupt()
