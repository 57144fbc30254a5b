"""`make run`: the first command that a person tries."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def make_run(*variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """make, in a session of its own as a terminal gives one, and the URL that it prints."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", "run", f"LISTEN=127.0.0.1:{free_port()}"]
    with subprocess.Popen(
        [*command, *variables],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("http://")), None)
            assert line is not None, "make ended without an address"
            yield process, line.split()[0]
        finally:
            for pid in session(process.pid):
                os.kill(pid, signal.SIGKILL)


def session(leader: int) -> list[int]:
    """The processes of a session, proc_pid_stat(5)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


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


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C: the terminal signals every process of the foreground group."""
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)


def test_serves_the_example_and_leaves_nothing_running() -> None:
    with make_run() as (process, url):
        assert "Hello from sockd" in get(url)
        assert len(session(process.pid)) >= 3, "make, a master, a worker at least"
        interrupt(process)
        assert session(process.pid) == []


def test_interrupted_before_the_first_request_leaves_nothing_running() -> None:
    with make_run() as (process, _):
        interrupt(process)
        assert session(process.pid) == []


def test_serves_an_application_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import os\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [os.environ['OWN'].encode()]\n"
    )
    os.environ["OWN"] = "passed on"
    try:
        with make_run("APP=own:app", f"DIR={tmp_path}") as (process, url):
            assert get(url) == "passed on"
            interrupt(process)
    finally:
        del os.environ["OWN"]
