"""Upgrade in place: a real master becomes another version of itself, or says why it does not."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sockd
from sockd.master import upgrade

from .conftest import APP, ROOT, Load, Manager, Service, alive, children, descriptors, eventually
from .test_torture import loaded

OLD, NEW = sockd.__version__, "9.9.9"
VERSION_APP = APP.replace("import os,", "import sockd, os,").replace(
    'f"{VERSION} {os.getpid()}"', 'f"{sockd.__version__} {os.getpid()}"'
)


def _copy(source: str, target: str) -> None:
    if source.endswith(".so"):
        Path(target).symlink_to(source)
    else:
        shutil.copy2(source, target)


class Installation:
    """`current` leads to a copy of sockd in another version or in the same."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.current = directory / "current"
        self.old = self.copy(OLD)
        self.use(self.old)

    def copy(self, version: str) -> Path:
        tree = self.directory / version
        sources = shutil.ignore_patterns("__pycache__", "*.c", "*.pyx", "*.pxd")
        shutil.copytree(ROOT / "sockd", tree / "sockd", ignore=sources, copy_function=_copy)
        file = tree / "sockd" / "__init__.py"
        file.write_text(file.read_text().replace(f'"{OLD}"', f'"{version}"'))
        return tree

    def use(self, tree: Path) -> None:
        link = self.directory / "next"
        link.symlink_to(tree)
        link.rename(self.current)


@pytest.fixture
def installation(tmp_path: Path, service: Service) -> Installation:
    (tmp_path / "sockd").mkdir()
    made = Installation(tmp_path / "sockd")
    service.environ["PYTHONPATH"] = str(made.current)
    service.write(VERSION_APP)
    return made


RUN_MASTER = str(Path(__file__).parent / "run_master.py")
SCRIPT = f"""#!{sys.executable}
import os, sys
{{}}
exec(compile(open({RUN_MASTER!r}).read(), {RUN_MASTER!r}, "exec"))
"""
PROVED = f'if "{upgrade.FLAG}" in sys.argv: '
INHERITED = f'if "{upgrade.VARIABLE}" in os.environ: '


@pytest.fixture
def script(tmp_path: Path, service: Service) -> Iterator[Callable[[str], Path]]:
    """The service's program is a script, to which these lines are added."""
    path = tmp_path / "program"

    def write(lines: str = "") -> Path:
        made = path.with_suffix(".new")
        made.write_text(SCRIPT.format(lines))
        made.chmod(0o755)
        return made.rename(path)

    write()
    service.program = [str(path)]
    return write


def asked(service: Service, path: str) -> tuple[threading.Thread, list[Any]]:
    """Ask the control socket, in a thread; its answer."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(service.ask("POST", path)[1])
        except (OSError, http.client.HTTPException) as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def proving(service: Service) -> int:
    """The pid of the process that tries the other program, once it runs."""

    def find() -> int:
        for pid in children(service.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if upgrade.FLAG.encode() in words:
                    return pid
        return 0

    found: int = eventually(find)
    return found


def test_another_version_goes_on_in_the_same_process(
    service: Service, installation: Installation, manager: Manager
):
    service.environ["WATCHDOG_USEC"] = "30000000"
    service.start().ready()
    fds, family = descriptors(service.pid), len(children(service.pid))
    began = service.status()
    slow: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: slow.append(service.get("/sleep/3")))
    thread.start()
    eventually(lambda: any(w["active"] for w in service.status()["workers"]))
    installation.use(installation.copy(NEW))
    said = len(manager.read())
    with loaded(service):
        answer = service.ask("POST", "/upgrade")[1]
    assert answer == {
        "ok": True, "generation": 2, "from": OLD, "sockd": NEW, "notes": [], "workers": 2
    }  # fmt: skip
    status = service.status()
    assert (status["sockd"], status["pid"]) == (NEW, service.pid)
    assert status["uptime_usec"] > began["uptime_usec"]
    assert status["reloads"] == {"ok": 1, "failed": 0, "last_error": None}
    assert service.get()[1].split()[0] == NEW
    thread.join()
    assert slow[0][0] == 200
    assert slow[0][1].split()[0] == OLD
    manager.expect_after(said, "READY=1")
    manager.expect_after(said, "WATCHDOG=1")
    lines = manager.read()[said:]
    assert lines.index("RELOADING=1") < lines.index("READY=1")
    assert not [line for line in lines if line.startswith(("STOPPING", "MAINPID"))]
    # Everything about it goes on as well: reload, number of workers, replacing one, the stop.
    assert service.ask("POST", "/reload")[1]["ok"]
    os.kill(next(iter(service.workers().values())), signal.SIGKILL)
    eventually(lambda: service.status()["respawns"] == 1)
    eventually(lambda: len(service.workers()) == 2)
    eventually(lambda: len(children(service.pid)) == family)
    eventually(lambda: descriptors(service.pid) <= fds)
    assert service.stop() == 0
    assert not Path(service.bind).exists()
    assert not (service.runtime / "control.sock").exists()


def test_by_signal_and_back_to_the_version_before(service: Service, installation: Installation):
    service.start().ready()
    versions = [installation.copy(NEW), installation.old]
    for generation, tree in enumerate(versions, 2):
        installation.use(tree)
        service.send(signal.SIGUSR2)
        eventually(lambda: service.status()["generation"] == generation)  # noqa: B023
        assert service.status()["sockd"] == tree.name
        service.get()
        # Counts of masters and workers that are gone are kept, and none is counted twice.
        eventually(lambda: service.status()["totals"]["requests"] == generation - 1)  # noqa: B023
        assert service.status()["totals"]["reloads"]["ok"] == generation - 1
    assert f"upgraded from sockd {NEW} to {OLD} in place" in service.log()
    assert service.stop() == 0


def refused(service: Service, expected: str) -> dict[str, Any]:
    """An upgrade that fails, and changes nothing."""
    before, fds = service.workers(), descriptors(service.pid)
    with Load(service, clients=2) as load:
        answer = service.ask("POST", "/upgrade")[1]
    assert load.failures == []
    assert answer["ok"] is False
    assert answer["generation"] == 1
    assert expected in answer["error"]
    assert expected in service.log()
    assert service.workers() == before
    assert service.status()["state"] == "serving"
    eventually(lambda: descriptors(service.pid) <= fds)
    return answer


BROKEN = {
    "does not start": ("sockd/master/loop.py", r"\Z", "import nothing_such\n", "nothing_such"),
    "reads other states": (
        "sockd/master/inheritance.py", r"\nVERSION = 1\n", "\nVERSION = 3\n", "has version 1",
    ),
    "speaks otherwise": (
        "sockd/worker/messages.py", r"\nPROTOCOL = 1\n", "\nPROTOCOL = 3\n", "speak version 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_a_version_that_cannot_go_on_is_not_let_to(
    service: Service, installation: Installation, how: str
):
    name, pattern, text, expected = BROKEN[how]
    service.start().ready()
    tree = installation.copy(NEW)
    good = (tree / name).read_text()
    (tree / name).write_text(re.sub(pattern, text, good, count=1))
    installation.use(tree)
    answer = refused(service, expected)
    assert "Traceback" in answer["detail"]
    mended = installation.directory / "mended"
    tree.rename(mended)
    shutil.rmtree(mended / "sockd" / "__pycache__", ignore_errors=True)
    (mended / name).write_text(good)
    installation.use(mended)
    assert service.ask("POST", "/upgrade")[1]["ok"]
    assert service.status()["sockd"] == NEW
    assert service.stop() == 0


def test_a_configuration_that_cannot_be_read_stops_it_beforehand(service: Service, tmp_path: Path):
    service.config = tmp_path / "shop.toml"
    service.config.write_text("")
    service.start().ready()
    service.config.write_text("worker = 3\n")
    refused(service, "unknown key worker")
    service.config.write_text("")
    assert service.ask("POST", "/upgrade")[1]["ok"]


def test_a_reload_that_fails_afterwards_leaves_the_old_workers_serving(
    service: Service, installation: Installation
):
    service.start().ready()
    before = service.workers()
    service.write("1/0")
    installation.use(installation.copy(NEW))
    with loaded(service):
        answer = service.ask("POST", "/upgrade")[1]
    assert (answer["ok"], answer["generation"]) == (False, 1)
    assert (answer["from"], answer["sockd"]) == (OLD, NEW)
    assert "ZeroDivisionError" in answer["detail"]
    assert service.workers() == before
    # They are still what this master can lead: drain, replace, stop.
    os.kill(before["1.1"], signal.SIGKILL)
    eventually(lambda: set(service.workers()) == {"1.2", "1.3"})
    service.write(VERSION_APP)
    assert service.ask("POST", "/reload")[1]["ok"]
    assert service.get()[1].split()[0] == NEW
    eventually(lambda: len(children(service.pid)) == 3)
    assert service.stop() == 0


@pytest.mark.parametrize("left", ["nothing", "no program"])
def test_a_program_that_is_gone_when_it_is_to_be_executed(
    service: Service, script: Callable[[str], Path], left: str
):
    service.start().ready()
    words = {
        "nothing": ("os.unlink(sys.argv[0])", "No such file"),
        "no program": ("open(sys.argv[0], 'w').close()", "Exec format error"),
    }
    then, expected = words[left]
    script(PROVED + then)
    refused(service, f"{service.program[0]}: {expected}")
    service.send(signal.SIGHUP)  # signals are heard
    eventually(lambda: service.status()["generation"] == 2)
    script("")
    assert service.ask("POST", "/upgrade")[1]["ok"]
    assert service.stop() == 0


def test_a_program_that_dies_once_it_has_taken_over(
    service: Service, script: Callable[[str], Path]
):
    service.settings["timeouts.drain"] = "5s"
    service.start().ready()
    workers = service.workers()
    script(INHERITED + "sys.exit(9)")
    thread, outcome = asked(service, "/upgrade")
    assert service.wait() == 9
    thread.join()  # it does not wait for an answer that cannot come
    assert isinstance(outcome[0], (OSError, http.client.HTTPException))
    eventually(lambda: not any(map(alive, workers.values())))
    script("")
    service.start().ready()
    assert service.get()[0] == 200
    assert service.stop() == 0


def test_a_program_that_hangs_is_ended_by_a_stop(service: Service, script: Callable[[str], Path]):
    service.start().ready()
    script(PROVED + "import time; time.sleep(1000)")
    thread, outcome = asked(service, "/upgrade")
    child = proving(service)
    assert service.status()["state"] == "upgrading"
    assert service.stop() == 0
    thread.join()
    assert outcome[0]["error"] == "the service is stopping"
    assert not alive(child)


def test_a_program_that_hangs_is_killed_in_time(
    service: Service, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    impatient = "from sockd.master import upgrade\nupgrade.PATIENCE = 1.0\n"
    script(impatient)
    service.start().ready()
    script(impatient + PROVED + "import time; print('still here', flush=True); time.sleep(1000)")
    answer = refused(service, "did not answer within 1 s")
    assert answer["detail"] == ""
    assert service.stop() == 0


WHILE_HELD = "import os, time\nwhile os.path.exists({!r}): time.sleep(0.01)\n"


def test_reload_and_upgrade_wait_for_each_other(
    service: Service, script: Callable[[str], Path], tmp_path: Path
):
    hold = tmp_path / "hold"
    service.start().ready()
    hold.touch()
    script(f"import time\n{PROVED}\n    while os.path.exists({str(hold)!r}): time.sleep(0.01)")
    first, one = asked(service, "/upgrade")
    eventually(lambda: service.status()["state"] == "upgrading")
    second, two = asked(service, "/reload")
    assert service.get()[0] == 200
    hold.unlink()
    first.join()
    second.join()
    # The reload was asked of the old one, maybe, and is one with that of the new one, maybe.
    assert (one[0]["ok"], one[0]["from"], one[0]["generation"]) == (True, OLD, 2)
    assert two[0]["ok"]
    assert two[0]["generation"] in (2, 3)
    now = service.status()["generation"]
    service.write(WHILE_HELD.format(str(hold)) + APP)
    hold.touch()
    third, three = asked(service, "/reload")
    eventually(lambda: service.status()["state"] == "reloading")
    fourth, four = asked(service, "/upgrade")
    assert service.get()[0] == 200
    hold.unlink()
    third.join()
    fourth.join()
    assert (three[0]["ok"], three[0]["generation"]) == (True, now + 1)
    assert (four[0]["ok"], four[0]["generation"]) == (True, now + 2)
    assert service.stop() == 0


HELD_APP = """
import os, subprocess, time
subprocess.Popen(["sleep", "1000"])

def app(environ, start_response):
    while environ["PATH_INFO"] == "/held" and os.path.exists("hold"):
        time.sleep(0.01)
    start_response("200 OK", [])
    return [b"done"]
"""


def test_what_drains_and_what_was_left_running_is_taken_along(
    service: Service, installation: Installation
):
    service.write(HELD_APP)
    service.settings |= {"preload": "off", "timeouts.drain": "2min"}
    service.start().ready()
    (service.app / "hold").touch()
    slow: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: slow.append(service.get("/held")))
    thread.start()
    eventually(lambda: any(w["active"] for w in service.status()["workers"]))
    assert service.ask("POST", "/reload")[1]["ok"]
    installation.use(installation.copy(NEW))
    assert service.ask("POST", "/upgrade")[1]["ok"]
    first = [w["state"] for w in service.status()["workers"] if w["generation"] == 1]
    assert first == ["draining"]
    (service.app / "hold").unlink()
    thread.join()
    assert slow[0] == (200, "done")
    eventually(lambda: "generation 1 is gone: ending what it left: sleep" in service.log())
    # A fork server, two workers, and what each of those has started.
    eventually(lambda: len(children(service.pid)) <= 5)
    assert service.stop() == 0


def test_a_reload_by_a_master_that_is_outdated_is_refused(
    service: Service, installation: Installation
):
    service.start().ready()
    installation.use(installation.copy(NEW))
    answer = service.ask("POST", "/reload")[1]
    assert answer["ok"] is False
    assert answer["error"].endswith(
        f"has sockd {NEW}, but the master is sockd {OLD}; `sockd upgrade` has the master follow"
    )
    installation.use(installation.old)
    assert service.ask("POST", "/upgrade")[1]["ok"]
    assert service.ask("POST", "/reload")[1]["ok"]
    assert service.stop() == 0


def test_an_activated_service_keeps_its_sockets(service: Service, tmp_path: Path):
    service.bind = str(tmp_path / "activated.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(service.bind)
        listener.listen(64)
        service.inherit = (listener.fileno(),)
        passes = (
            f"exec 3<&{listener.fileno()} 4<&{listener.fileno()};"
            ' LISTEN_FDS=2 LISTEN_FDNAMES=web:api LISTEN_PID=$$ exec "$@"'
        )
        service.start(["bash", "-c", passes, "bash"]).ready()
        before = service.status()["listeners"]
        assert [one["name"] for one in before] == ["web", "api"]
        for _ in range(2):
            assert service.ask("POST", "/upgrade")[1]["ok"]
            assert service.status()["listeners"] == before
        assert service.get()[0] == 200
        assert service.stop() == 0
    assert Path(service.bind).exists()


class TestWithdrawal:
    def test_workers_drain_and_come_back(self, service: Service):
        service.start().ready()
        pids = service.workers().values()
        slow: list[tuple[int, str]] = []
        thread = threading.Thread(target=lambda: slow.append(service.get("/sleep/2")))
        thread.start()
        eventually(lambda: any(w["active"] for w in service.status()["workers"]))
        service.send(signal.SIGWINCH)
        thread.join()
        assert slow[0][0] == 200
        eventually(lambda: not service.status()["workers"])
        assert not any(map(alive, pids))
        waiting: list[tuple[int, str]] = []
        thread = threading.Thread(target=lambda: waiting.append(service.get()))
        thread.start()
        service.send(signal.SIGTTIN)
        thread.join()  # it waited in the kernel
        assert waiting[0][0] == 200
        service.ready()
        service.send(signal.SIGWINCH)
        eventually(lambda: not service.status()["workers"])
        service.send(signal.SIGHUP)
        service.ready()
        assert service.stop() == 0

    def test_a_terminal_that_changes_its_size_is_no_order(self, service: Service):
        ours, theirs = os.openpty()
        service.stdin = theirs
        service.start(["setsid", "--ctty"]).ready()
        before = service.workers()
        service.send(signal.SIGWINCH)
        service.send(signal.SIGTTIN)  # one more: both have been heard
        eventually(lambda: len(service.workers()) == 3)
        assert before.items() <= service.workers().items()
        os.close(theirs)
        os.close(ours)
        assert service.wait() == 0


def test_a_log_file_that_was_renamed_is_opened_anew(service: Service, tmp_path: Path):
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    service.settings |= {"log.access": "all", "log.access_file": str(log)}
    service.start().ready()
    assert service.get("/first")[0] == 200
    log.rename(old)
    service.send(signal.SIGUSR1)

    def opened(pid: int) -> bool:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if fd.readlink() == log:
                    return True
        return False

    eventually(lambda: all(map(opened, service.workers().values())))
    assert service.get("/second")[0] == 200
    assert "/first" in old.read_text()
    assert "/second" not in old.read_text()
    eventually(lambda: "/second" in log.read_text())
    assert service.stop() == 0


def test_without_log_files_there_is_nothing_to_open(service: Service):
    service.start().ready()
    before = service.workers()
    with loaded(service):
        for _ in range(5):
            service.send(signal.SIGUSR1)
            service.send(signal.SIGUSR1)
            assert service.get()[0] == 200
    assert service.workers() == before
    assert service.ask("POST", "/reload")[1]["ok"]
    assert service.stop() == 0


def test_the_command(service: Service, installation: Installation, capfd: Any):
    service.start().ready()
    run = ["-m", "sockd", "upgrade"]
    environ = {**os.environ, "RUNTIME_DIRECTORY": str(service.runtime)}

    def command() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *run], env=environ, capture_output=True, text=True, cwd=ROOT
        )

    installation.use(installation.copy(NEW))
    done = command()
    told = f"sockd: upgraded from sockd {OLD} to {NEW}: generation 2 serves\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", told)
    service.write("1/0")
    done = command()
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"sockd: the master is upgraded from sockd {NEW} to {NEW}, but its reload failed, "
        "the old code serves on: "
    )
    assert "ZeroDivisionError" in done.stderr
    broken = installation.copy("9.9.10")
    (broken / "sockd" / "master" / "loop.py").write_text("import nothing_such")
    installation.use(broken)
    done = command()
    assert done.returncode == 1
    assert done.stderr.startswith("sockd: upgrade failed, the old code serves on: ")


def test_files_are_watched_on(service: Service):
    service.watch = True
    service.start().ready()
    family = len(children(service.pid))
    assert service.ask("POST", "/upgrade")[1]["ok"]
    eventually(lambda: service.log().count("for changes") == 2)
    eventually(lambda: len(children(service.pid)) == family)
    service.write(APP.replace('VERSION = "1"', 'VERSION = "2"'))
    eventually(lambda: service.get()[1].split()[0] == "2")
    assert service.stop() == 0


def test_a_replacement_that_boots_meanwhile_comes_up(service: Service, tmp_path: Path):
    """A worker of the old generation that is not ready, maybe not even forked, at the exec."""
    hold = tmp_path / "hold"
    hook = f"\ndef after_fork():\n    while os.path.exists({str(hold)!r}): time.sleep(0.01)\n"
    service.settings |= {"preload": "on", "app.after_fork": "application:after_fork"}
    service.write(APP + hook)
    service.start().ready()
    hold.touch()
    os.kill(service.workers()["1.1"], signal.SIGKILL)
    service.write("1/0")  # the reload that follows fails, and the old generation goes on
    answer = service.ask("POST", "/upgrade")[1]
    assert (answer["ok"], answer["generation"]) == (False, 1)
    hold.unlink()
    eventually(lambda: set(service.workers()) == {"1.2", "1.3"})
    assert service.get()[0] == 200
    eventually(lambda: len(children(service.pid)) == 3)
    assert service.stop() == 0
