"""The control socket's client and its commands, against a peer that does what a master may do to
them at worst: refuse, talk nonsense, hang, die. (A real master's good manners are shown where the
master is tested.)"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sockd import client
from sockd.errors import AppError, NotRunning, SockdError, UsageError
from tests.conftest import open_to_all
from tests.documents import DOCUMENT
from tests.process.conftest import as_nobody

ROOT = Path(__file__).parents[1]

PEER = """
import os, signal, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
answer = sys.argv[2].encode()
while True:
    connection, _ = listener.accept()
    request = b""
    while b"\\r\\n\\r\\n" not in request and (data := connection.recv(65536)):
        request += data
    if not request:
        continue
    match sys.argv[3]:
        case "hang":
            open(sys.argv[1] + ".asked", "w").close()
            time.sleep(3600)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die while another holds the connection":
            if os.fork() == 0:
                listener.close()
                time.sleep(2)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    connection.sendall(answer)
    connection.close()
    if sys.argv[3] == "answer and end later":
        time.sleep(0.5)
        open(sys.argv[1] + ".end", "w").close()
        sys.exit()
"""


def http(body: object, code: str = "200 OK") -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    return f"HTTP/1.1 {code}\r\nContent-Length: {len(text)}\r\n\r\n{text}"


Peer = Callable[..., tuple[Path, int]]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    running = []

    def start(answer: str, then: str = "", name: str = "shop") -> tuple[Path, int]:
        path = tmp_path / "sockd" / name / "control.sock"
        path.parent.mkdir(parents=True)
        process = subprocess.Popen(
            [sys.executable, "-c", PEER, str(path), answer, then], stdout=subprocess.PIPE
        )
        running.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"listening\n"
        return path, process.pid

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RUNTIME_DIRECTORY", "MAINPID", "NO_COLOR")
        and not name.startswith("SOCKD_")
    }
    return {**kept, "XDG_RUNTIME_DIR": str(tmp_path), **more}


def sockd(tmp_path: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sockd", *words],
        cwd=ROOT,
        env=environment(tmp_path, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_locate(tmp_path: Path, peer: Peer) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with pytest.raises(NotRunning, match="no service of sockd is running"):
        client.locate(None, env)
    shop, pid = peer("")
    assert client.locate(None, env) == shop
    assert client.locate("shop", env) == shop
    with pytest.raises(NotRunning, match="blog is not running"):
        client.locate("blog", env)
    blog, _ = peer("", name="blog")
    with pytest.raises(UsageError, match="name one of them: blog, shop"):
        client.locate(None, env)
    assert client.locate(None, env | {"RUNTIME_DIRECTORY": f"/nowhere:{blog.parent}"}) == blog
    assert client.locate("shop", env | {"RUNTIME_DIRECTORY": str(blog.parent)}) == shop
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while client._answers(shop):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert shop.exists()  # left over, as by a master that was killed
    assert client.locate(None, env) == blog
    with pytest.raises(NotRunning):
        client.locate("shop", env)
    with pytest.raises(NotRunning, match="nobody listens on"):
        client.status(shop)


def test_reload_returns_the_generation(peer: Peer) -> None:
    path, pid = peer(http({"ok": True, "generation": 3}))
    assert client.reload(path) == (3, [])
    assert client.reload(path, watch_pid=pid) == (3, [])


def test_reload_that_failed_has_reason_and_traceback(peer: Peer) -> None:
    path, _ = peer(
        http({"ok": False, "generation": 3, "error": "no module", "detail": "Traceback\n  File"})
    )
    with pytest.raises(AppError, match="the old code serves on: no module") as caught:
        client.reload(path)
    assert caught.value.detail == "Traceback\n  File"


def test_reload_of_a_service_that_stops(peer: Peer) -> None:
    path, _ = peer(http({"ok": False, "generation": None, "error": "the service is stopping"}))
    with pytest.raises(AppError) as failed:
        client.reload(path)
    assert str(failed.value) == "reload failed: the service is stopping"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_what_another_user_sees(tmp_path: Path, peer: Peer) -> None:
    open_to_all(tmp_path)
    path, pid = peer("")
    path.chmod(0o600)
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}

    def located() -> str:
        return str(client.locate(None, env))

    assert as_nobody(located) == str(path)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert path.exists()
    assert "no service of sockd is running" in as_nobody(located)


@pytest.mark.parametrize("death", ["die", "die while another holds the connection"])
def test_a_master_that_dies_ends_the_wait(peer: Peer, death: str) -> None:
    path, pid = peer("", death)
    begun = time.monotonic()
    with pytest.raises(client.MasterDied, match=rf"pid {pid}\) died before it answered"):
        client.reload(path)
    if death != "die":
        assert time.monotonic() - begun < 2  # before the end of the connection could tell it


def test_a_process_that_is_gone_is_not_waited_for(peer: Peer) -> None:
    path, _ = peer("", "hang")
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(NotRunning, match="its master ended"):
        client.reload(path, watch_pid=gone.pid)


@pytest.mark.parametrize(
    "answer",
    [
        http("<html>"),
        http("[1]"),
        http("7"),
        "SSH-2.0-OpenSSH_9.2\r\n",
        http("{}").replace("{}", "{"),
        "",
        http({"error": "no such thing"}, "404 Not Found"),
    ],
)
def test_nonsense_is_named(peer: Peer, answer: str) -> None:
    path, _ = peer(answer)
    with pytest.raises(SockdError) as caught:
        client.status(path)
    assert caught.value.exit_code == 1


def test_a_hung_master_is_not_waited_for_when_it_has_the_answer_at_hand(peer: Peer) -> None:
    path, _ = peer("", "hang")
    with pytest.raises(client.NoAnswer, match="does not answer") as caught:
        client.request(path, "GET", "/status", timeout=0.2)
    assert caught.value.exit_code == 75


def test_status_command(tmp_path: Path, peer: Peer) -> None:
    peer(http(DOCUMENT))
    done = sockd(tmp_path, "status", "--json")
    assert json.loads(done.stdout) == DOCUMENT
    done = sockd(tmp_path, "status")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "● shop: serving, generation 3, up 2h 14min"
    assert "ImportError: no" in done.stdout
    assert ["3.1", "4713", "ready"] in [line.split()[:3] for line in lines]


def test_reload_command(tmp_path: Path, peer: Peer) -> None:
    path, pid = peer(http({"ok": True, "generation": 4}))
    done = subprocess.run(  # as systemd runs ExecReload=: no PATH, and its own variables
        [sys.executable, "-m", "sockd", "reload"],
        cwd=ROOT,
        env={"RUNTIME_DIRECTORY": str(path.parent), "MAINPID": str(pid)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "sockd: reloaded: generation 4 serves\n")


def test_reload_command_that_fails(tmp_path: Path, peer: Peer) -> None:
    failed = {"ok": False, "generation": 3, "error": "no module named shop"}
    peer(http(failed | {"detail": "Traceback\n  x\n"}))
    done = sockd(tmp_path, "reload", "shop")
    assert done.returncode == 1
    assert done.stderr == (
        "sockd: reload failed, the old code serves on: no module named shop\nTraceback\n  x\n"
    )


def test_nothing_runs(tmp_path: Path) -> None:
    for command in ("status", "reload", "stop"):
        done = sockd(tmp_path, command, "shop")
        assert (done.returncode, done.stdout) == (69, "")
        assert done.stderr == "sockd: shop is not running\n"


def test_stop_waits_for_the_end(tmp_path: Path, peer: Peer) -> None:
    path, _ = peer(http({"ok": True}, "202 Accepted"), "answer and end later")
    done = sockd(tmp_path, "stop")
    assert (done.returncode, done.stderr) == (0, "sockd: stopped shop\n")
    assert path.with_name("control.sock.end").exists()


def test_interrupt_is_quiet(tmp_path: Path, peer: Peer) -> None:
    path, _ = peer("", "hang")
    process = subprocess.Popen(
        [sys.executable, "-m", "sockd", "reload"],
        cwd=ROOT,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not path.with_name("control.sock.asked").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 130


def test_a_socket_that_is_not_for_this_user(tmp_path: Path, peer: Peer) -> None:
    peer(http({"error": "not you"}, "403 Forbidden"))
    done = sockd(tmp_path, "status")
    assert done.returncode == 77
    assert "only root and the service's own user" in done.stderr


def test_closed_output_is_quiet(tmp_path: Path, peer: Peer) -> None:
    peer(http(DOCUMENT))
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        done = subprocess.run(
            [sys.executable, "-m", "sockd", "status"],
            cwd=ROOT,
            env=environment(tmp_path),
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
    assert done.stderr == b""
    assert done.returncode == 1
