"""What the service manager hears."""

from __future__ import annotations

import os
import socket

import pytest

from sockd.notify import Notifier


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(0.05)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def heard(sock):
    messages = []
    try:
        while True:
            messages.append(sock.recv(4096).decode())
    except TimeoutError:
        return messages


def close(notifier):
    if notifier._manager:
        notifier._manager.socket.close()


def test_lifecycle(manager):
    notifier = Notifier()
    assert notifier.supervised
    notifier.ready("4 workers", 1.0)
    notifier.reloading()
    notifier.stopping()
    notifier.extend(1.5)
    messages = heard(manager)
    close(notifier)
    assert messages[0] == "READY=1\nSTATUS=4 workers"
    first, second = messages[1].split("\n")
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    assert int(second.partition("=")[2]) > 0
    assert messages[2:] == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=1500000"]


def test_the_variables_are_gone(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("MAINPID", "1")
    notifier = Notifier()
    close(notifier)
    assert notifier.watchdog == 30.0
    gone = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "MAINPID"}
    assert gone.isdisjoint(os.environ)


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("1000000", "", 1.0), ("1000000", "1", 0.0), ("x", "", 0.0), ("", "", 0.0), ("-5", "", 0.0)],
)
def test_whose_watchdog_it_is(monkeypatch, usec, pid, seconds):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid or str(os.getpid()))
    assert Notifier().watchdog == seconds


def test_status_is_sent_when_changed_and_once_a_second(manager):
    notifier = Notifier()
    notifier.status("a")
    assert notifier.turn(100.0) is None
    notifier.status("b")
    assert notifier.turn(100.2) == 101.0
    notifier.status("c → ü")
    assert notifier.turn(100.4) == 101.0
    assert notifier.turn(101.0) is None
    assert notifier.turn(150.0) is None
    messages = heard(manager)
    close(notifier)
    assert messages == ["STATUS=a", "STATUS=c → ü"]


def test_the_watchdog_hears_nothing_while_a_restart_would_help(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    notifier = Notifier()
    assert notifier.turn(100.0) == 101.0
    assert notifier.turn(101.0, well=False) == 102.0
    assert notifier.turn(102.0) == 103.0
    assert heard(manager) == ["WATCHDOG=1", "WATCHDOG=1"]
    close(notifier)


def test_watchdog_twice_an_interval(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    notifier = Notifier()
    assert notifier.turn(100.0) == 101.0
    assert notifier.turn(100.5) == 101.0
    assert notifier.turn(101.0) == 102.0
    messages = heard(manager)
    close(notifier)
    assert messages == ["WATCHDOG=1"] * 2


def test_nobody_listens(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("a", 1.0)
    notifier.status("a")
    assert not notifier.supervised
    assert notifier.turn(1.0) is None


def test_a_manager_that_does_not_read_blocks_for_a_moment_only(manager):
    notifier = Notifier()
    notifier._manager.socket.settimeout(0.001)
    for _ in range(1000):
        notifier.stopping()
    close(notifier)
