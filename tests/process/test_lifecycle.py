"""Start, stop, reload and death, on real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sockd.master.loop import OVERDUE
from sockd.worker import process

from .conftest import (
    APP,
    PATIENCE,
    Load,
    Manager,
    Service,
    alive,
    children,
    descriptors,
    eventually,
)


def busy(service: Service, path: str) -> tuple[threading.Thread, list[object]]:
    """A request that is in a worker's hands when this returns."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(service.get(path))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: any(w["in_hand"] for w in service.status()["workers"]))
    return thread, outcome


class TestStart:
    def test_it_is_ready_when_a_worker_can_answer(self, service: Service, manager: Manager):
        service.write("import time\ntime.sleep(1)\n" + APP)
        service.start()
        time.sleep(0.5)
        assert "READY=1" not in manager.read()
        manager.expect("READY=1")
        assert service.get()[0] == 200
        eventually(lambda: len(service.workers()) == 2)
        manager.expect("STATUS=generation 1: 2 workers, 0 busy")
        assert service.stop() == 0
        manager.expect("STOPPING=1")

    def test_the_master_never_imports_the_application(self, service: Service):
        service.write("import sqlite3, decimal\n" + APP)
        service.start().ready()
        maps = Path(f"/proc/{service.pid}/maps").read_text()
        theirs = [Path(f"/proc/{pid}/maps").read_text() for pid in service.workers().values()]
        assert all("_sqlite3" in text for text in theirs)
        assert "_sqlite3" not in maps
        assert service.stop() == 0
        modules = service.modules.read_text().splitlines()
        assert "sockd.master.fleet" in modules
        assert {"application", "sqlite3", "decimal", "jinja2"}.isdisjoint(modules)

    def test_the_application_sees_its_own_environment(self, service: Service, manager: Manager):
        service.environ |= {"SOCKD_WORKERS": "2", "MAINPID": "1", "KEPT": "yes"}
        env_file = service.directory / "env"
        env_file.write_text("# a comment\nFROM_FILE='a b'\nBOTH=file\n")
        service.settings["app.env_file"] = str(env_file)
        service.settings["app.env"] = {"BOTH": "table"}
        service.write(
            "import os, sys\nseen = dict(os.environ)\nmodules = sorted(sys.modules)\n"
            "here = os.getcwd(), sys.path[0]\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [repr((seen, modules, here, sys.path)).encode()]\n"
        )
        service.start().ready()
        seen, modules, here, path = eval(service.get()[1])
        assert seen["FROM_FILE"] == "a b"
        assert seen["BOTH"] == "table"
        assert seen["KEPT"] == "yes"
        hidden = ("NOTIFY_SOCKET", "WATCHDOG", "LISTEN_", "MAINPID", "SOCKD_")
        assert not [name for name in seen if name.startswith(hidden)]
        assert here == (str(service.app), str(service.app))
        assert not any(entry.endswith("sockd/worker") for entry in path)
        assert {"systemd", "sdnotify", "jinja2", "argparse"}.isdisjoint(modules)

    @pytest.mark.parametrize(
        ("code", "message", "detail"),
        [
            ("def app(:", "module application cannot be imported: SyntaxError", "def app(:"),
            ("import nothing_such", "imports nothing_such, which is not installed", "line 1"),
            ("import sys; sys.exit(4)", "ended the process: sys.exit(4)", "line 1"),
            ("import os; os._exit(5)", "exited with status 5 while importing", ""),
            ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL while importing", ""),
            ("aap = 1", "has no attribute app; did you mean aap?", ""),
            ("app = 1", "application:app is an int, not a callable", ""),
            ("1/0", "ZeroDivisionError", "1/0"),
        ],
    )
    def test_an_application_that_cannot_boot_ends_the_start(
        self, service: Service, manager: Manager, code: str, message: str, detail: str
    ):
        service.write(code)
        assert service.start().wait() == 1
        assert message in service.log()
        assert detail in service.log()
        assert "sockd/loader.py" not in service.log()
        assert "READY=1" not in manager.read()
        assert not Path(service.bind).exists()

    def test_an_import_that_hangs_ends_the_start_and_says_where(self, service: Service):
        service.settings["timeouts.boot"] = "1s"
        service.write(
            "import subprocess, threading\n"
            "child = subprocess.Popen(['sleep', '1000'])\n"
            "open('child', 'w').write(str(child.pid))\n"
            "def deadlock():\n"
            "    threading.Event().wait()\n"
            "deadlock()\n"
        )
        assert service.start().wait() == 1
        assert "did not boot within 1 s" in service.log()
        assert "in deadlock" in service.log()
        assert not alive(int((service.app / "child").read_text()))

    def test_failures_in_a_row_make_the_next_master_wait(self, service: Service, manager: Manager):
        service.write("1/0")
        for _ in range(3):
            assert service.start().wait() == 1
        began = time.monotonic()
        assert service.start().wait() == 1
        assert time.monotonic() - began >= 1.0
        assert "waiting 1 s" in service.log()
        assert (service.runtime / "boot-failures").read_text() == "4\n"
        service.start()
        eventually(lambda: "waiting 2 s" in service.log())
        assert service.stop() == 0
        (service.runtime / "boot-failures").write_text("3\n")
        service.write(APP)
        service.start().ready()
        assert not (service.runtime / "boot-failures").exists()
        assert service.stop() == 0

    def test_a_port_that_is_taken_is_said(self, service: Service, tmp_path: Path):
        service.start().ready()
        (tmp_path / "other").mkdir()
        other = Service(tmp_path / "other")
        other.settings["bind"] = [service.bind]
        assert other.start().wait() == 1
        assert f"cannot listen on {service.bind}: address in use" in other.log()
        assert service.get()[0] == 200
        assert service.stop() == 0

    def test_sockets_come_from_systemd(self, service: Service):
        listen = service.directory / "activated.sock"
        service.bind = str(listen)
        variables = [f"--setenv={name}" for name in ("PYTHONPATH", "RUNTIME_DIRECTORY")]
        activate = ["systemd-socket-activate", "--listen", str(listen), "--fdname=web"]
        service.start([*activate, *variables])
        eventually(listen.exists)
        assert service.get()[0] == 200
        service.ready()
        (listener,) = service.status()["listeners"]
        assert (listener["name"], listener["address"]) == ("web", str(listen))
        assert service.stop() == 0
        assert listen.exists()  # systemd's, so not ours to remove

    def test_what_systemd_passes_must_be_a_listening_socket(
        self, service: Service, manager: Manager
    ):
        passes = 'exec 3</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
        assert service.start(["sh", "-c", passes, "sh"]).wait() == 1
        assert "descriptor 3 (unknown) from systemd is no listening stream" in service.log()
        assert (service.runtime / "boot-failures").read_text() == "1\n"


class TestStop:
    def test_what_is_in_hand_is_finished(self, service: Service):
        service.start().ready()
        thread, outcome = busy(service, "/sleep/1")
        workers = service.workers()
        assert service.stop() == 0
        thread.join()
        assert outcome[0][0] == 200  # type: ignore[index]
        assert not any(alive(pid) for pid in workers.values())
        assert not Path(service.bind).exists()
        assert not (service.runtime / "control.sock").exists()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
    def test_quick(self, service: Service, number: int):
        service.start().ready()
        thread, outcome = busy(service, "/sleep/60")
        assert service.stop(number) == 0
        thread.join()
        assert isinstance(outcome[0], Exception)

    def test_what_is_busy_after_the_drain_time_is_cut(self, service: Service):
        service.settings["timeouts.drain"] = "1s"
        service.start().ready()
        thread, outcome = busy(service, "/sleep/60")
        assert service.stop() == 0
        thread.join()
        assert isinstance(outcome[0], Exception)
        assert "still busy after the drain time of 1 s" in service.log()

    def test_meanwhile_it_says_what_it_is(self, service: Service):
        service.start().ready()
        thread, outcome = busy(service, "/sleep/60")
        service.send(signal.SIGTERM)
        eventually(lambda: service.status()["state"] == "stopping")
        assert service.status()["generation"] == 1
        code, answer = service.ask("POST", "/reload")
        assert (code, answer["ok"], answer["generation"]) == (200, False, None)
        assert answer["error"] == "the service is stopping"
        assert service.stop(signal.SIGINT) == 0
        thread.join()
        assert isinstance(outcome[0], Exception)

    def test_by_the_control_socket(self, service: Service):
        service.start().ready()
        assert service.ask("POST", "/stop", {"quick": False}) == (202, {"ok": True})
        assert service.wait() == 0

    def test_while_the_application_is_imported(self, service: Service):
        service.write("import time; time.sleep(1000)")
        service.start()
        eventually(lambda: service.fork_server())
        assert service.stop() == 0

    def test_queued_connections_are_answered(self, service: Service):
        service.settings["workers"] = 1
        service.start().ready()
        first, one = busy(service, "/sleep/1")
        connection = service.connect()
        connection.request("GET", "/", headers={"Connection": "close"})  # waits in the kernel
        assert service.stop() == 0
        assert connection.getresponse().status == 200
        connection.close()
        first.join()
        assert one[0][0] == 200  # type: ignore[index]


class TestDeath:
    def test_a_killed_worker_is_replaced(self, service: Service):
        service.start().ready()
        before = service.workers()
        victim = before["1.1"]
        os.kill(victim, signal.SIGKILL)
        after = eventually(lambda: (w := service.workers()) and "1.3" in w and w)
        assert after["1.2"] == before["1.2"]
        assert "worker 1.1: died, killed by SIGKILL" in service.log()
        assert service.status()["respawns"] == 1
        assert service.stop() == 0

    def test_a_worker_told_to_end_by_somebody_else_is_replaced(self, service: Service):
        service.start().ready()
        os.kill(service.workers()["1.1"], signal.SIGTERM)
        eventually(lambda: set(service.workers()) == {"1.2", "1.3"})
        assert service.stop() == 0
        assert "worker 1.1: ended, exited with status 0" in service.log()
        assert "worker 1.1: died" not in service.log()

    def test_a_killed_fork_server_leads_to_another_generation(self, service: Service):
        service.start().ready()
        with Load(service) as load:
            os.kill(service.fork_server(1), signal.SIGKILL)
            eventually(lambda: set(service.workers()) == {"2.1", "2.2"})
        assert not load.failures
        assert load.answers
        assert service.stop() == 0

    def test_after_the_masters_death_workers_finish_and_end(self, service: Service):
        service.settings["timeouts.drain"] = "5s"
        service.start().ready()
        thread, outcome = busy(service, "/sleep/1")
        pids = [*service.workers().values(), service.fork_server()]
        assert len(pids) == 3
        service.send(signal.SIGKILL)
        service.wait()
        thread.join()
        assert outcome[0][0] == 200  # type: ignore[index]
        eventually(lambda: not any(alive(pid) for pid in pids))

    def test_a_stuck_worker_outlives_its_master_by_the_drain_time_only(self, service: Service):
        service.settings["timeouts.drain"] = "1s"
        # A regular expression holds the GIL: neither the loop nor a signal handler of Python's
        # can act.
        service.write(
            "import re\n"
            + APP.replace('path == "/raise"', 'path == "/stuck"').replace(
                'raise ValueError("the application\'s own fault")',
                "re.match(r'(a*)*b', 'a' * 60)",
            )
        )
        service.start().ready()
        thread, _ = busy(service, "/stuck")
        pids = list(service.workers().values())
        service.send(signal.SIGKILL)
        service.wait()
        began = time.monotonic()
        eventually(lambda: not any(alive(pid) for pid in pids))
        assert time.monotonic() - began < 10
        thread.join()

    def test_what_the_application_leaves_behind_is_reaped(self, service: Service):
        service.write(
            APP.replace('path == "/raise"', 'path == "/leave"').replace(
                'raise ValueError("the application\'s own fault")',
                "os.system('(sleep 0.2; exit 1) &')",
            )
        )
        service.start().ready()
        assert service.get("/leave")[0] == 200
        eventually(lambda: len(children(service.pid)) == 4)
        eventually(lambda: len(children(service.pid)) == 3)
        assert service.stop() == 0

    def test_hundreds_of_respawns_cost_nothing(self, service: Service):
        service.longest_hold = 0.0
        service.start().ready()

        def figures() -> tuple[int, int]:
            fds = descriptors(service.pid)
            status = Path(f"/proc/{service.pid}/status").read_text()
            return fds, int(status.split("VmRSS:")[1].split()[0])

        def kill(times: int) -> None:
            for _ in range(times):
                with contextlib.suppress(Exception):
                    service.get("/exit")

        kill(50)
        eventually(lambda: len(service.workers()) == 2)
        fds, memory = figures()
        kill(300)
        eventually(lambda: service.status()["respawns"] >= 350)
        eventually(lambda: len(service.workers()) == 2)
        eventually(lambda: figures()[0] <= fds)
        assert figures()[1] < memory + 1024  # KiB
        assert len(children(service.pid)) == 3
        assert service.stop() == 0

    def test_with_backoff_workers_that_die_at_once_are_retried_slowly(self, service: Service):
        service.settings["workers"] = 1
        service.write(
            "import os, threading\n"
            "os.register_at_fork(after_in_child=lambda: (\n"
            "    os.path.exists('die') and os.getpgrp() != os.getsid(0) and os._exit(9)))\n" + APP
        )
        service.start().ready()
        (service.app / "die").touch()
        with contextlib.suppress(Exception):
            service.get("/exit")
        time.sleep(4)
        assert 2 <= service.status()["respawns"] <= 6
        (service.app / "die").unlink()
        eventually(service.workers)
        assert service.stop() == 0


class TestReload:
    def test_new_code_answers_and_nobody_notices(self, service: Service):
        service.start().ready()
        with Load(service) as load:
            for version in range(2, 7):
                service.write(APP.replace('VERSION = "1"', f'VERSION = "{version}"'))
                code, content = service.ask("POST", "/reload")
                done = time.monotonic()
                expected = {"ok": True, "generation": version, "notes": [], "workers": 2}
                assert (code, content) == (200, expected)
                time.sleep(0.2)
                late = [body for began, body in load.answers if began > done]
                assert late
                assert {body.split()[0] for body in late} == {str(version)}
        assert load.failures == []
        assert service.status()["reloads"] == {"ok": 5, "failed": 0, "last_error": None}
        assert service.stop() == 0
        assert len(service.seen) >= 2

    @pytest.mark.parametrize(
        ("code", "message", "detail"),
        [
            ("def app(:", "SyntaxError", "def app(:"),
            ("import nothing_such", "imports nothing_such, which is not installed", "line 1"),
            ("import sys; sys.exit(4)", "ended the process: sys.exit(4)", "line 1"),
            ("import os; os._exit(5)", "exited with status 5", ""),
            ("import time\ntime.sleep(1000)", "did not boot within 1 s", "line 2"),
            (
                "import os\nos.register_at_fork(after_in_child=lambda: os.path and os._exit(9))\n"
                + APP,
                "exited with status 9",
                "",
            ),
        ],
        ids=["syntax", "import", "exit", "_exit", "hang", "worker"],
    )
    def test_one_that_fails_leaves_everything_as_it_was(
        self, service: Service, manager: Manager, code: str, message: str, detail: str
    ):
        service.settings["timeouts.boot"] = "1s"
        service.start().ready()
        before = service.workers()
        with Load(service) as load:
            service.write(code)
            _, content = service.ask("POST", "/reload")
        assert content["ok"] is False
        assert content["generation"] == 1
        assert message in content["error"]
        assert detail in content["detail"]
        assert not load.failures
        assert {body.split()[0] for _, body in load.answers} == {"1"}
        assert service.workers() == before
        eventually(lambda: len(children(service.pid)) == 3)
        assert manager.read().count("RELOADING=1") == 1
        assert manager.read().count("READY=1") == 2
        assert service.status()["reloads"]["failed"] == 1
        assert service.stop() == 0

    def test_a_hundred_signals_are_few_reloads(self, service: Service):
        service.start().ready()
        with Load(service) as load:
            for _ in range(100):
                service.send(signal.SIGHUP)
                time.sleep(0.005)
            eventually(lambda: service.status()["state"] == "serving")
        assert not load.failures
        eventually(lambda: len(children(service.pid)) == 3)
        assert service.status()["reloads"]["failed"] == 0
        assert service.stop() == 0

    def test_a_stop_during_one_ends_in_time(self, service: Service):
        service.start().ready()
        service.write("import time; time.sleep(1000)")
        service.send(signal.SIGHUP)
        eventually(lambda: service.fork_server(2))
        assert service.stop() == 0

    def test_a_symlink_is_followed_anew(self, service: Service):
        releases = [service.directory / f"release{n}" for n in (1, 2)]
        for n, release in enumerate(releases, 1):
            release.mkdir()
            (release / "application.py").write_text(
                APP.replace('VERSION = "1"', f'VERSION = "r{n}:" + os.getcwd()')
            )
        current = service.directory / "current"
        current.symlink_to(releases[0])
        service.settings["app.directory"] = str(current)
        service.start().ready()
        assert service.get()[1].split()[0] == f"r1:{releases[0]}"
        current.unlink()
        current.symlink_to(releases[1])
        assert service.ask("POST", "/reload")[1]["ok"]
        assert service.get()[1].split()[0] == f"r2:{releases[1]}"
        assert service.stop() == 0

    def test_workers_come_and_go_by_signal(self, service: Service):
        service.start().ready()
        service.send(signal.SIGTTIN)
        eventually(lambda: len(service.workers()) == 3)
        for left in (2, 1):  # signals of a kind that wait together are one
            service.send(signal.SIGTTOU)
            eventually(lambda left=left: len(service.workers()) == left)
        assert service.stop() == 0


class TestHostileApplications:
    @pytest.mark.parametrize(
        "code",
        [
            "import os\nos.closerange(3, 101)\n",
            "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n",
            "import os, signal\nsignal.signal(signal.SIGCHLD, lambda *_: os.wait())\n",
            "import os, signal\n"
            "for n in (1, 2, 3, 10, 12, 15): signal.signal(n, lambda *_: os._exit(7))\n",
            "import os\ntry: os.setsid()\nexcept PermissionError: pass\n",
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n",
            "import os\nif os.fork() == 0:\n    import time; time.sleep(3); os._exit(0)\n",
        ],
        ids=["closes", "SIGCHLD ignored", "SIGCHLD waits", "signals", "setsid", "thread", "fork"],
    )
    def test_they_are_supervised_all_the_same(self, service: Service, code: str):
        service.write(code + APP)
        service.start().ready()
        os.kill(service.workers()["1.1"], signal.SIGKILL)
        eventually(lambda: set(service.workers()) == {"1.2", "1.3"})
        assert service.ask("POST", "/reload")[1]["ok"]
        assert service.get()[0] == 200
        assert service.stop() == 0

    def test_a_thread_that_the_import_leaves_is_named(self, service: Service):
        service.write(
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(1000,), daemon=True, name='poll').start()\n"
            + APP
        )
        service.start().ready()
        assert "left the thread poll, so each worker imports it" in service.log()
        assert service.stop() == 0

    def test_one_that_closes_all_descriptors_is_told(self, service: Service):
        service.write("import os\nos.closerange(3, 65536)\n" + APP)
        assert service.start().wait() == 1
        assert "closed descriptors that are sockd's" in service.log()


class TestMasterKilledDuringTheImport:
    """Nobody is left that holds the listening socket."""

    def orphan(self, service: Service) -> int:
        service.start()
        pid = eventually(lambda: service.fork_server())
        eventually(lambda: (service.app / "importing").exists())
        service.stop(signal.SIGKILL)
        return int(pid)

    def ends(self, pid: int) -> None:
        try:
            eventually(lambda: not alive(pid))
        except AssertionError:
            os.kill(pid, signal.SIGKILL)
            raise

    @pytest.mark.parametrize(
        "hang",
        [
            "import threading; threading.Event().wait()",
            # With the interpreter's lock held: PyDLL does not let it go.
            "import ctypes; ctypes.PyDLL(None).sleep(1000)",
        ],
    )
    def test_an_import_that_hangs(self, service: Service, hang: str):
        service.write(f"open('importing', 'w').close()\n{hang}\n")
        pid = self.orphan(service)
        self.ends(pid)

    @pytest.mark.parametrize("end", ["", "1/0"])
    def test_an_import_that_takes_the_signal_away(self, service: Service, end: str):
        """prctl(2): some changes of credentials do."""
        service.write(
            "import ctypes, time\n"
            "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
            "open('importing', 'w').close()\n"
            f"time.sleep(1)\n{end}\n" + APP
        )
        pid = self.orphan(service)
        self.ends(pid)
        assert "Traceback" not in service.log()
        assert "BrokenPipeError" not in service.log()


def test_the_longest_times_there_are(service: Service):
    service.settings |= {"timeouts.boot": "24h", "timeouts.drain": "24h"}
    service.write("import time; time.sleep(0.5)\n" + APP)
    service.start().ready()
    thread, outcome = busy(service, "/sleep/1")
    assert service.stop() == 0
    thread.join()
    assert isinstance(outcome[0], tuple)
    assert outcome[0][0] == 200


class TestClosedStdio:
    def stdio(self, pid: int) -> list[str]:
        return [str(Path(f"/proc/{pid}/fd/{fd}").readlink()) for fd in range(3)]

    def test_at_the_start_of_the_master(self, service: Service):
        service.start(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]).ready()
        for pid in [service.pid, service.fork_server(), *service.workers().values()]:
            assert self.stdio(pid) == ["/dev/null"] * 3
        assert service.get()[0] == 200
        assert service.stop() == 0

    def test_by_the_application(self, service: Service):
        service.write(
            "import os\n"
            "for fd in range(3):\n"
            "    os.close(fd)\n"
            "os.register_at_fork(after_in_child=lambda: os.close(1))\n" + APP
        )
        service.start().ready()
        assert self.stdio(service.fork_server()) == ["/dev/null"] * 3
        for pid in service.workers().values():
            assert self.stdio(pid) == ["/dev/null"] * 3
        assert service.get()[0] == 200
        assert service.stop() == 0


def test_fork_server_and_workers_killed_at_random(service: Service, manager: Manager):
    service.longest_hold = 0.1
    service.start().ready()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for pid in children(service.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.13)
    eventually(lambda: len(service.workers()) == 2)
    eventually(lambda: len(children(service.pid)) == 3)
    assert service.get()[0] == 200
    assert service.stop() == 0


def test_the_watchdog_is_pinged_by_the_loop(service: Service, manager: Manager):
    service.environ["WATCHDOG_USEC"] = "1000000"
    service.start().ready()
    eventually(lambda: manager.read().count("WATCHDOG=1") >= 4)
    service.send(signal.SIGSTOP)
    time.sleep(0.2)
    manager.read()
    manager.lines.clear()
    time.sleep(1.5)
    assert manager.read() == []
    service.send(signal.SIGCONT)
    manager.expect("WATCHDOG=1")
    assert service.stop() == 0


def test_the_watchdog_acts_when_a_deadline_is_not_enforced(service: Service, manager: Manager):
    service.deaf = True
    service.environ["WATCHDOG_USEC"] = "1000000"
    service.settings["timeouts.boot"] = "1s"
    service.start().ready()
    service.write("import time; time.sleep(1000)")
    service.send(signal.SIGHUP)
    eventually(lambda: service.fork_server(2))
    time.sleep(1 + OVERDUE + 1)
    manager.read()
    manager.lines.clear()
    time.sleep(1.5)
    assert "WATCHDOG=1" not in manager.read()
    assert service.get()[0] == 200  # the loop turns, and workers serve
    assert service.stop(signal.SIGKILL) == -signal.SIGKILL


class TestInterpreters:
    @pytest.fixture
    def venv(self, service: Service) -> Path:
        made = service.directory / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
        service.settings["app.venv"] = str(made)
        # The test's own path to sockd is no business of the application's.
        service.settings["app.env"] = {"PYTHONPATH": ""}
        return made

    def test_a_virtual_environment_without_sockd(self, service: Service, venv: Path):
        (next(venv.glob("lib/python3*/site-packages")) / "theirs.py").write_text("NAME = 'theirs'")
        service.write(
            "import importlib.util, sys, theirs\n"
            "found = [bool(importlib.util.find_spec(m)) for m in ('systemd', 'pytest')]\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [repr((sys.prefix, theirs.NAME, found)).encode()]\n"
        )
        service.start().ready()
        assert eval(service.get()[1]) == (str(venv), "theirs", [False, False])
        assert service.stop() == 0

    def test_one_with_another_sockd(self, service: Service, venv: Path):
        other = next(venv.glob("lib/python3*/site-packages")) / "sockd"
        other.mkdir()
        (other / "__init__.py").write_text('__version__ = "0.0.1"\n')
        assert service.start().wait() == 1
        assert "has sockd 0.0.1, but the master is sockd" in service.log()

    def test_one_that_is_not_there(self, service: Service):
        service.settings["app.venv"] = "/no/such/venv"
        assert service.start().wait() == 78
        assert "/no/such/venv" in service.log()

    def test_descriptors_of_the_masters_parent_stay_out(self, service: Service):
        read, write = os.pipe()
        os.set_inheritable(write, True)
        service.write(
            "import os\n"
            "seen = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')\n"
            "    if os.path.exists(f'/proc/self/fd/{fd}') or fd == '2']\n"
            + APP.replace('body = f"{VERSION} {os.getpid()}"', "body = repr(seen)")
        )
        service.inherit = (write,)
        service.start().ready()
        seen = eval(service.get()[1])
        assert not [name for name in seen if name.startswith("pipe:")]
        assert service.stop() == 0
        os.close(read)
        os.close(write)


def test_a_failed_start_is_one_entry_of_the_journal(service: Service, tmp_path: Path):
    """stderr is a file that JOURNAL_STREAM names, as if it were journald's."""
    service.write("1/0")
    service.log_path.touch()
    found = service.log_path.stat()
    service.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
    assert service.start().wait() == 1
    # There is no journald here, so the entry ends on stderr, with its priority on each line.
    assert "<3>ZeroDivisionError: division by zero" in service.log()
    assert service.log().count("ZeroDivisionError: division by zero") == 2  # message, traceback


class TestPriorities:
    def test_of_what_clients_and_the_application_do(self, service: Service):
        service.start().ready()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(service.bind)
            client.sendall(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
            assert b" 400 " in client.recv(4096)
        assert service.get("/raise")[0] == 500
        assert service.stop() == 0
        lines = service.log().splitlines()
        assert [line[:3] for line in lines if "refused with 400" in line] == ["<6>"]
        assert [line[:3] for line in lines if "the application failed" in line] == ["<3>"]

    def test_that_the_engine_chooses(self, capfd: pytest.CaptureFixture[str]):
        process.report("a header that is not its own", None, {"PRIORITY": "4"})
        assert capfd.readouterr().err == "<4>a header that is not its own\n"


def test_a_configuration_that_cannot_be_used_loads_nothing(service: Service):
    service.settings["app.venv"] = "/no/such/venv"
    assert service.start().wait() == 78
    assert "generation 1: loading" not in service.log()


class TestTerminal:
    def test_that_is_closed_ends_the_service(self, service: Service):
        ours, theirs = os.openpty()
        service.stdin = theirs
        service.start(["setsid", "--ctty"]).ready()
        os.close(theirs)
        thread, outcome = busy(service, "/sleep/0.5")
        os.close(ours)
        assert service.wait() == 0
        thread.join()
        assert isinstance(outcome[0], tuple)
        assert outcome[0][0] == 200
        assert "reload" not in service.log()

    @pytest.mark.parametrize("fd", [0, 2])
    def test_on_which_stdio_is(self, service: Service, fd: int):
        ours, theirs = os.openpty()
        service.start(["sh", "-c", f'exec "$@" {fd}<>"$0"', os.ttyname(theirs)]).ready()
        assert service.stop(signal.SIGHUP) == 0
        os.close(ours)
        os.close(theirs)


def test_what_the_application_left_running_ends_with_the_service(service: Service):
    service.write(
        "import subprocess\n"
        "stubborn = 'trap \"\" TERM; echo; while :; do sleep 0.1; done'\n"
        "def app(environ, start_response):\n"
        "    plain = subprocess.Popen(['sleep', '1000'])\n"
        "    deaf = subprocess.Popen(['sh', '-c', stubborn], stdout=subprocess.PIPE)\n"
        "    deaf.stdout.read(1)\n"
        "    daemon = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "    start_response('200 OK', [])\n"
        "    return [f'{plain.pid} {deaf.pid} {daemon.pid}'.encode()]\n"
    )
    service.start().ready()
    plain, deaf, daemon = map(int, service.get()[1].split())
    try:
        assert service.stop() == 0
        assert [alive(pid) for pid in (plain, deaf, daemon)] == [False, False, True]
    finally:
        for pid in filter(alive, (plain, deaf, daemon)):
            os.kill(pid, signal.SIGKILL)
    log = service.log()
    assert f"in sessions of their own: sleep (pid {daemon})" in log
    assert f"sleep (pid {plain})" in log.partition("ending what the application left: ")[2]
    assert f"sh (pid {deaf})" in log.partition("killing what did not end: ")[2]
