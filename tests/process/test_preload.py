"""What the workers of a generation share, and what is called when."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from .conftest import APP, Load, Service, children, eventually

IMPORTS = "open('imports', 'a').write(f'{__import__(\"os\").getpid()}\\n')\n"

THREAD = (
    "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(1000,), daemon=True, name='poll').start()\n"
)
BARE_THREAD = (
    "import _thread, time\ndef poll(): time.sleep(1000)\n_thread.start_new_thread(poll, ())\n"
)
INTERNET = (
    "import socket\nlistener = socket.create_server(('127.0.0.1', 0))\n"
    "mine = socket.create_connection(listener.getsockname())\n"
)
NATIVE = (
    "import ctypes\n"
    "libc, thread = ctypes.CDLL(None), ctypes.c_ulong()\n"
    "libc.pthread_create(ctypes.byref(thread), None, libc.sleep, ctypes.c_void_p(1000))\n"
)


def imports(service: Service) -> list[int]:
    return [int(line) for line in (service.app / "imports").read_text().split()]


@pytest.fixture
def database(service: Service):
    """A Unix stream socket in another process's hands, as a database server's is."""
    path = service.directory / "db.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)
        yield (
            "import socket\nconnection = socket.socket(socket.AF_UNIX)\n"
            f"connection.connect({str(path)!r})\n"
        )


class TestAuto:
    def test_one_import_serves_all_workers(self, service: Service):
        service.write(IMPORTS + APP)
        service.start().ready()
        assert imports(service) == [service.fork_server()]
        assert service.stop() == 0

    @pytest.mark.parametrize(
        ("code", "named"),
        [
            (THREAD, "left the thread poll, so each worker"),
            (BARE_THREAD, "left the thread number "),
            (INTERNET, "left a connection to 127.0.0.1:"),
        ],
        ids=["thread", "bare thread", "internet"],
    )
    def test_what_cannot_be_shared_is_named_and_each_worker_imports(
        self, service: Service, code: str, named: str
    ):
        service.write(code + IMPORTS + APP)
        service.start().ready()
        assert named in service.log()
        tried, *rest = imports(service)
        assert tried not in children(service.pid)
        assert sorted(rest) == sorted(service.workers().values())
        # A replacement too, from the same fork server.
        os.kill(service.workers()["1.1"], signal.SIGKILL)
        eventually(lambda: set(service.workers()) == {"1.2", "1.3"})
        assert imports(service)[-1] == service.workers()["1.3"]
        eventually(lambda: len(children(service.pid)) == 3)
        assert service.stop() == 0

    def test_a_connection_to_another_process(self, service: Service, database: str):
        service.write(database + IMPORTS + APP)
        service.start().ready()
        assert f"left a connection to {service.directory}/db.sock (descriptor" in service.log()
        assert len(imports(service)) == 3
        assert service.stop() == 0

    def test_what_the_import_started_ends_with_the_attempt(self, service: Service):
        service.write(
            "import subprocess\n"
            "child = subprocess.Popen(['sleep', '1000'])\n"
            "open('child', 'a').write(f'{child.pid}\\n')\n" + THREAD + APP
        )
        service.start().ready()
        first, *rest = [int(line) for line in (service.app / "child").read_text().split()]
        eventually(lambda: not Path(f"/proc/{first}").exists())
        assert len(rest) == 2
        assert service.stop() == 0

    @pytest.mark.parametrize(
        "code",
        [
            "import socket\npair = socket.socketpair()\n",
            "import asyncio\nloop = asyncio.new_event_loop()\n",
            "import socket\nlistener = socket.create_server(('127.0.0.1', 0))\n",
            "import socket\nudp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n",
        ],
        ids=["pair", "asyncio", "listener", "unconnected"],
    )
    def test_what_a_fork_may_share(self, service: Service, code: str):
        service.write(code + IMPORTS + APP)
        service.start().ready()
        assert imports(service) == [service.fork_server()]
        assert "importing the application left" not in service.log()
        assert service.stop() == 0

    def test_native_threads_are_only_named(self, service: Service):
        service.write(NATIVE + IMPORTS + APP)
        service.start().ready()
        assert "left 1 native thread: workers do not have such threads" in service.log()
        assert imports(service) == [service.fork_server()]
        assert service.stop() == 0

    def test_before_fork_may_take_away_what_cannot_be_shared(self, service: Service):
        service.settings["app.before_fork"] = "application:disconnect"
        service.write(INTERNET + "def disconnect(): mine.close()\n" + IMPORTS + APP)
        service.start().ready()
        assert imports(service) == [service.fork_server()]
        assert service.stop() == 0

    def test_each_generation_decides_for_itself(self, service: Service):
        service.write(THREAD + IMPORTS + APP)
        service.start().ready()
        (service.app / "imports").unlink()
        service.write(IMPORTS + APP)
        with Load(service) as load:
            assert service.ask("POST", "/reload")[1]["ok"]
            assert imports(service) == [service.fork_server(2)]
            service.write(THREAD + IMPORTS + APP)
            (service.app / "imports").unlink()
            assert service.ask("POST", "/reload")[1]["ok"]
            assert len(imports(service)) == 3
        assert not load.failures
        assert service.stop() == 0


class TestForced:
    def test_on(self, service: Service):
        service.settings["preload"] = "on"
        service.write(THREAD + IMPORTS + APP)
        service.start().ready()
        assert imports(service) == [service.fork_server()]
        assert "left the thread poll: workers do not have such threads" in service.log()
        assert service.stop() == 0

    def test_off(self, service: Service):
        service.settings["preload"] = "off"
        service.write(IMPORTS + APP)
        service.start().ready()
        assert sorted(imports(service)) == sorted(service.workers().values())
        assert service.stop() == 0

    @pytest.mark.parametrize(
        ("code", "message", "detail"),
        [
            ("def app(:", "SyntaxError", "def app(:"),
            ("import sys; sys.exit(4)", "ended the process: sys.exit(4)", "line 1"),
            ("import os; os._exit(5)", "exited with status 5", ""),
            ("import time\ntime.sleep(1000)", "0 of 2 workers ready in 1 s", "line 2"),
            (
                "import os; os.closerange(3, 65536)\n" + APP,
                "closed descriptors that are sockd's",
                "",
            ),
        ],
        ids=["syntax", "exit", "_exit", "hang", "closes"],
    )
    def test_off_and_an_import_that_fails(
        self, service: Service, code: str, message: str, detail: str
    ):
        service.settings |= {"preload": "off", "timeouts.boot": "1s"}
        service.start().ready()
        before = service.workers()
        service.write(code)
        answer = service.ask("POST", "/reload")[1]
        assert answer["ok"] is False
        said = answer["error"] if "closerange" not in code else service.log()
        assert message in said
        assert detail in answer["detail"]
        assert service.workers() == before
        eventually(lambda: len(children(service.pid)) == 3)
        assert service.stop() == 0

    def test_off_and_an_application_that_closes_descriptors_and_takes_signals(
        self, service: Service
    ):
        service.settings["preload"] = "off"
        service.write(
            "import os, signal\nos.closerange(3, 101)\n"
            "for n in (2, 3, 15, 17): signal.signal(n, lambda *_: os._exit(7))\n" + APP
        )
        service.start().ready()
        assert service.ask("POST", "/reload")[1]["ok"]
        eventually(lambda: set(service.workers()) == {"2.1", "2.2"})
        assert service.get()[0] == 200
        assert service.stop() == 0
        assert "died" not in service.log()


HOOKS = """
import os
def note(what): open("calls", "a").write(f"{what} {os.getpid()}\\n")
def before(): note("before")
def after(): note("after")
def drain(): note("drain")
def end(): note("exit")
"""


class TestHooks:
    def calls(self, service: Service) -> list[list[str]]:
        return [line.split() for line in (service.app / "calls").read_text().splitlines()]

    @pytest.mark.parametrize("preload", ["on", "off"])
    def test_each_is_called_once_where_it_belongs(self, service: Service, preload: str):
        names = {"before_fork": "before", "after_fork": "after", "on_drain": "drain"}
        service.settings |= {f"app.{key}": f"hooks:{name}" for key, name in names.items()}
        service.settings |= {"app.on_exit": "hooks:end", "preload": preload}
        service.write(HOOKS, "hooks.py")
        service.start().ready()
        server, workers = service.fork_server(), sorted(map(str, service.workers().values()))
        assert service.get()[0] == 200
        assert service.stop() == 0
        calls = self.calls(service)
        assert [pid for what, pid in calls if what == "before"] == (
            [str(server)] if preload == "on" else []
        )
        for hook in ("after", "drain", "exit"):
            assert sorted(pid for what, pid in calls if what == hook) == workers
        for pid in workers:
            assert [what for what, who in calls if who == pid] == ["after", "drain", "exit"]

    @pytest.mark.parametrize("key", ["app.before_fork", "app.after_fork"])
    def test_one_that_raises_fails_the_boot_with_its_traceback(self, service: Service, key: str):
        service.start().ready()
        service.settings[key] = "hooks:bad"
        service.stop()
        service.write("def bad():\n    raise OSError('no such database')\n", "hooks.py")
        assert service.start().wait() == 1
        assert f"{key} failed: OSError: no such database" in service.log()
        assert "in bad" in service.log()

    def test_late_ones_that_raise_are_journalled(self, service: Service):
        service.settings |= {"app.on_drain": "hooks:bad", "app.on_exit": "hooks:bad"}
        service.write("def bad():\n    raise OSError('no such database')\n", "hooks.py")
        service.start().ready()
        assert service.stop() == 0
        for hook in ("on_drain", "on_exit"):
            assert service.log().count(f"app.{hook} failed: OSError: no such database") == 2

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("hooks:nothing", "app.after_fork: module hooks has no attribute nothing"),
            ("absent:after", "app.after_fork: module absent not found"),
            ("hooks:NUMBER", "app.after_fork: hooks:NUMBER is an int, which cannot be called"),
        ],
    )
    def test_one_that_is_not_there(self, service: Service, target: str, message: str):
        service.settings["app.after_fork"] = target
        service.write("NUMBER = 1\n", "hooks.py")
        assert service.start().wait() == 1
        assert message in service.log()

    @pytest.mark.parametrize("target", ["hooks", "hooks:after()", "hooks:1"])
    def test_what_names_no_function_is_wrong_configuration(self, service: Service, target: str):
        service.settings["app.after_fork"] = target
        assert service.start().wait() == 78
        assert "app.after_fork: expected module:function" in service.log()


def test_environment_and_interpreter_are_those_of_the_moment(service: Service):
    env_file = service.directory / "env"
    env_file.write_text("RELEASE=1\n")
    service.settings["app.env_file"] = str(env_file)
    service.write(APP.replace('VERSION = "1"', 'VERSION = os.environ["RELEASE"]'))
    service.start().ready()
    env_file.write_text("RELEASE=2\n")
    os.kill(service.workers()["1.1"], signal.SIGKILL)
    eventually(lambda: set(service.workers()) == {"1.2", "1.3"})
    assert {service.get()[1].split()[0] for _ in range(8)} == {"1"}
    assert service.ask("POST", "/reload")[1]["ok"]
    assert service.get()[1].split()[0] == "2"
    assert service.stop() == 0
