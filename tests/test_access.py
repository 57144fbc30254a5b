"""The access log: what is logged, its fields, its lines."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from sockd import journal
from sockd.errors import AppError
from sockd.settings import DEFAULT_FORMAT, FORMAT, PATHS, Log
from sockd.worker import access
from sockd.worker.access import Access, AccessLog

ENVIRON = {
    "REQUEST_METHOD": "GET", "RAW_URI": "/a%20b?c=d", "PATH_INFO": "/a b", "QUERY_STRING": "c=d",
    "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "203.0.113.5", "HTTP_HOST": "shop.example",
    "HTTP_REFERER": "https://x/", "HTTP_USER_AGENT": 'Fire"fox\n', "CONTENT_TYPE": "a/b",
    "HTTP_AUTHORIZATION": "Basic amFuZTpzZWNyZXQ=",
}  # fmt: skip


def made(**changes: Any) -> Access:
    values = {
        "environ": ENVIRON, "status": 200, "duration": 12_345, "queued": 67, "sent": 321,
        "body": 100, "id": "f00", "peer": "", "headers": [("X-Cache", "HIT")], "why": "",
    }  # fmt: skip
    return Access(**(values | changes))


def wants(settings: Log, target: str = "/", status: int = 200, ms: int = 1, why: str = "") -> bool:
    return AccessLog(settings).wants({"RAW_URI": target}, status, ms * 1000, why)


@pytest.mark.parametrize(
    ("kind", "ok", "slow", "missing", "failed", "cut"),
    [
        ("errors", False, False, False, True, True),
        ("slow", False, True, False, True, True),
        ("all", True, True, True, True, True),
    ],
)
def test_what_is_logged(kind: str, ok: bool, slow: bool, missing: bool, failed: bool, cut: bool):
    settings = Log(access=kind, slow=0.5)
    assert wants(settings) is ok
    assert wants(settings, ms=501) is slow
    assert wants(settings, status=404) is missing
    assert wants(settings, status=500) is failed
    assert wants(settings, why="the client went away") is cut


def test_paths_that_are_left_out():
    settings = Log(access="all", access_except=("/healthz", "/static/*"))
    assert not wants(settings, "/healthz")
    assert not wants(settings, "/healthz?deep=1")
    assert not wants(settings, "/static/app.css")
    assert wants(settings, "/healthz/more")
    assert wants(settings, "/static")
    assert wants(settings, "/healthz", status=503)


def test_fields_of_the_journal():
    found = {k: v for k, v in access.fields(made()).items() if v is not None}
    assert found == {
        "HTTP_METHOD": "GET", "HTTP_PATH": "/a%20b", "HTTP_QUERY": "c=d",
        "HTTP_PROTOCOL": "HTTP/1.1", "HTTP_STATUS": 200, "HTTP_HOST": "shop.example",
        "HTTP_REFERER": "https://x/", "HTTP_USER_AGENT": 'Fire"fox\n', "CLIENT": "203.0.113.5",
        "BYTES_SENT": 321, "DURATION_USEC": 12345, "QUEUE_USEC": 67, "SOCKD_REQUEST_ID": "f00",
        "SOCKD_ACCESS": 1,
    }  # fmt: skip
    assert access.message(made()) == '203.0.113.5 "GET /a%20b?c=d HTTP/1.1" 200 321 12.3ms'
    cut = access.message(made(status=0, why="the client went away"))
    assert cut.endswith(" - 321 12.3ms, the client went away")
    assert access.message(made(environ={}, status=400, peer="::1")).startswith('::1 "- - -" 400 ')


@pytest.mark.parametrize(
    ("notation", "line"),
    [
        ('%(h)s %(l)s %(u)s "%(r)s" %(s)s', '203.0.113.5 - jane "GET /a%20b?c=d HTTP/1.1" 200'),
        ("%(m)s %(U)s %(q)s %(H)s", "GET /a b c=d HTTP/1.1"),
        ("%(b)s %(B)s %(T)s %(M)s %(D)s %(L)s", "100 100 0 12 12345 0.012345"),
        ('"%(f)s" "%(a)s"', '"https://x/" "Fire\\x22fox\\x0a"'),
        ("%({referer}i)s %({content-type}i)s %({nothing}i)s", "https://x/ a/b -"),
        ("%({x-cache}o)s %({REMOTE_ADDR}e)s %%", "HIT 203.0.113.5 %"),
        ("%(p)s", f"<{os.getpid()}>"),
    ],
)
def test_lines_in_gunicorns_notation(notation: str, line: str):
    assert FORMAT.parse(notation) == notation
    assert access.line(notation, made()) == line


def test_a_line_without_a_body():
    assert access.line("%(b)s %(B)s %(s)s", made(body=0, status=0)) == "- 0 -"
    nobody = ENVIRON | {"HTTP_AUTHORIZATION": "Basic !"}
    assert access.line("%(u)s", made(environ=nobody)) == "-"


def test_the_usual_line():
    line = access.line(DEFAULT_FORMAT, made())
    assert line.startswith("203.0.113.5 - jane [")
    assert line.endswith(
        ']"GET /a%20b?c=d HTTP/1.1" 200 100 "https://x/" "Fire\\x22fox\\x0a"'.replace("]", "] ")
    )


@pytest.mark.parametrize("wrong", ["%(z)s", "%h", "%(h)d", "100%", "%({x}q)s", "%(h"])
def test_notation_that_is_refused(wrong: str):
    with pytest.raises(ValueError, match="expected fields"):
        FORMAT.parse(wrong)


@pytest.mark.parametrize("wrong", [["healthz"], ["/a*b"], ["/a b"], 7])
def test_paths_that_are_refused(wrong: Any):
    with pytest.raises(ValueError, match="expected"):
        PATHS.parse(wrong)


def test_a_file_that_is_rotated(tmp_path: Path):
    path = tmp_path / "access.log"
    settings = Log(access="all", access_file=str(path), access_format="%(s)s %(U)s")
    log = AccessLog(settings)
    values = list(made().__dict__.values())
    assert log.note(*values)
    path.rename(tmp_path / "access.log.1")
    assert log.note(*values)
    log.reopen()
    assert log.note(*values)
    assert (tmp_path / "access.log.1").read_text() == "200 /a b\n200 /a b\n"
    assert path.read_text() == "200 /a b\n"
    path.unlink()
    path.mkdir()
    log.reopen()  # journals that it cannot, and goes on
    assert log.note(*values)


def test_a_file_that_cannot_be_opened(tmp_path: Path):
    with pytest.raises(AppError, match=r"log\.access_file: cannot open"):
        AccessLog(Log(access="all", access_file=str(tmp_path / "no" / "such")))
    AccessLog(Log(access="off", access_file=str(tmp_path / "no" / "such")))


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(path)
        reader.settimeout(10)
        monkeypatch.setattr(journal, "SOCKET", path)
        monkeypatch.setattr(journal, "is_journal", lambda: True)
        monkeypatch.setattr(access, "PATIENCE", 0.05)
        yield reader


def test_entries_reach_the_journal_and_a_stuck_one_costs_one_wait(journald: socket.socket):
    log = AccessLog(Log(access="all"))
    values = list(made().__dict__.values())
    assert log.note(*values)
    entry = journald.recv(65536)
    assert b"HTTP_STATUS=200\n" in entry
    assert b"PRIORITY=6\n" in entry
    sent = 0
    while log.note(*values):
        sent += 1
    for _ in range(1000):
        assert not log.note(*values)  # lost, without waiting
    for _ in range(sent):
        journald.recv(65536)
    assert log.note(*values)
    long = ENVIRON | {"HTTP_REFERER": "x" * 500_000}
    log._journal.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    assert log.note(*list(made(environ=long).__dict__.values()))


def test_json_lines(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal._context, "json", True)
    monkeypatch.setattr(journal, "is_journal", lambda: False)
    AccessLog(Log(access="all")).note(*made().__dict__.values())
    journal.log(journal.WARNING, "two\nlines", sockd_worker="7.2")
    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert (first["http_status"], first["priority"], first["http_path"]) == ("200", 6, "/a%20b")
    assert (second["message"], second["sockd_worker"]) == ("two\nlines", "7.2")
    assert second["time"].endswith("Z")
