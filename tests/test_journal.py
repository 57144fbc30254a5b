"""The journal's native protocol against a socket that reads it, and lines on stderr."""

from __future__ import annotations

import array
import fcntl
import os
import pty
import socket
import subprocess
import sys

import pytest

from sockd import journal

SCRIPT = """
import sys
from sockd import journal
journal.SOCKET = sys.argv[1]
journal.PATIENCE = 0.3
journal.configure("info", sockd_name="shop", sockd_generation=7)
exec(sys.argv[2])
"""


def run(code: str, path: str = "/nonexistent", stderr: int | None = None, stream: str = "") -> str:
    """Run `code` in a process whose stderr is `stderr`, or a pipe whose content is returned."""
    read, write = os.pipe()
    target = write if stderr is None else stderr
    if stream == "own":
        found = os.fstat(target)
        stream = f"{found.st_dev}:{found.st_ino}"
    environ = {**os.environ, "JOURNAL_STREAM": stream}
    command = [sys.executable, "-c", SCRIPT, path, code]
    process = subprocess.Popen(command, stderr=target, env=environ)
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    assert process.wait(30) == 0
    return text


@pytest.fixture
def journald(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.settimeout(5)
        yield sock


def entry(sock: socket.socket) -> dict[str, str]:
    data, ancillary, _, _ = sock.recvmsg(1 << 20, 64)
    for _, _, content in ancillary:
        [fd] = array.array("i", content)
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert seals == journal.SEALS
        with os.fdopen(fd, "rb") as file:
            data = os.pread(file.fileno(), 1 << 24, 0)
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields


def test_an_entry_with_its_fields(journald):
    path = journald.getsockname()
    code = "journal.log(journal.ERR, 'two\\nlines', sockd_worker='7.1', HTTP_PATH=None, a=1)"
    assert run(code, path, stream="own") == ""
    fields = entry(journald)
    assert fields.pop("SYSLOG_PID").isdigit()
    assert fields == {
        "MESSAGE": "two\nlines",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "sockd",
        "SOCKD_NAME": "shop",
        "SOCKD_GENERATION": "7",
        "SOCKD_WORKER": "7.1",
        "A": "1",
        "CODE_FILE": "<string>",
        "CODE_LINE": "1",
        "CODE_FUNC": "<module>",
    }


def test_one_too_large_for_a_datagram_travels_in_a_sealed_memfd(journald):
    code = "journal.log(journal.ERR, 'x' * 2_000_000)"
    run(code, journald.getsockname(), stream="own")
    assert entry(journald)["MESSAGE"] == "x" * 2_000_000


def test_what_is_no_text_is_journalled_too(journald):
    run("journal.log(3, 'a\\udcffb')", journald.getsockname(), stream="own")
    assert entry(journald)["MESSAGE"] == "a\\udcffb"


def test_lesser_priorities_are_left_out():
    assert run("journal.log(journal.DEBUG, 'a'); journal.log(journal.INFO, 'b')") == "<6>b\n"


def test_each_line_on_stderr_has_the_prefix():
    assert run("journal.log(journal.ERR, 'two\\nlines')") == "<3>two\n<3>lines\n"


def test_a_stderr_that_is_not_the_journal_is_used(journald):
    text = run("journal.log(4, 'a')", journald.getsockname(), stream="1:2")
    assert text == "<4>a\n"


def test_without_journald_stderr_is_used():
    assert run("journal.log(4, 'a')", "/nonexistent", stream="own") == "<4>a\n"


def test_a_person_at_a_terminal_sees_no_prefix():
    ours, theirs = pty.openpty()
    run("journal.log(4, 'a')", stderr=theirs)
    assert os.read(ours, 100) == b"a\r\n"
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.close(2); journal.log(3, 'a')",
        "import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
        "journal.log(3, 'a')",
        "class Odd:\n    def __str__(self): 1/0\njournal.log(3, 'a', field=Odd())",
    ],
)
def test_it_never_raises(code, journald):
    run(code, journald.getsockname(), stream="own")


def test_a_journald_that_does_not_read_is_waited_for_a_moment_only(journald):
    path = journald.getsockname()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                filler.sendto(b"x", path)
        run("journal.log(3, 'a')", path, stream="own")


def test_a_reader_of_stderr_that_does_not_read_is_waited_for_a_moment_only():
    read, write = os.pipe()
    run("journal.log(3, 'x' * 1_000_000)", stderr=write)
    os.close(read)
    os.close(write)
