"""Reload as a transaction: what can fail, and what a failure leaves alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from .conftest import APP, Load, Manager, Service, alive, children, descriptors, eventually
from .test_lifecycle import busy

NOTING = """
import os
def app(environ, start_response):
    with open("asked", "a") as file:
        scheme, host = environ["wsgi.url_scheme"], environ["HTTP_HOST"]
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        print(os.getpid(), scheme, host, path, query, file=file)
    start_response(STATUS, [])
    return [b"1"]
"""


class TestWarmUp:
    def asked(self, service: Service) -> list[list[str]]:
        return [line.split(" ") for line in (service.app / "asked").read_text().splitlines()]

    @pytest.mark.parametrize("threads", [1, 4])
    def test_each_worker_answers_before_it_accepts(self, service: Service, threads: int):
        service.settings |= {
            "app.warmup": ["/", "/search?q=1", "https://shop.example:8443/cart"],
            "threads": threads,
        }
        service.write(NOTING.replace("STATUS", "'200 OK'"))
        service.start().ready()
        os.kill(service.workers()["1.1"], signal.SIGKILL)
        eventually(lambda: set(service.workers()) == {"1.2", "1.3"})
        wanted = [
            ["http", "localhost", "/", ""],
            ["http", "localhost", "/search", "q=1"],
            ["https", "shop.example:8443", "/cart", ""],
        ]
        asked = self.asked(service)
        assert len({pid for pid, *_ in asked}) == 3
        for pid in {pid for pid, *_ in asked}:
            assert [what for who, *what in asked if who == pid] == wanted
        # They are no requests of clients, and leave nothing open.
        assert sum(worker["requests"] for worker in service.status()["workers"]) == 0
        assert not list(service.directory.glob("**/warmup"))
        pids = service.workers().values()
        before = [descriptors(pid) for pid in pids]
        assert service.get()[0] == 200
        # A worker sees a client's end in a turn of its own.
        eventually(lambda: [descriptors(pid) for pid in pids] == before)
        assert service.stop() == 0

    @pytest.mark.parametrize(
        ("code", "message", "detail"),
        [
            (NOTING.replace("STATUS", "'503 Down'"), "GET /: answered with 503", ""),
            ("def app(e, s):\n    1 / 0\n", "the application raised ZeroDivisionError", "1 / 0"),
            (
                "def app(e, s):\n    s('200 OK', [])\n    yield b'x'\n    raise OSError('gone')\n",
                "the application raised OSError: gone",
                "line 4",
            ),
            ("def app(e, s):\n    raise SystemExit(3)\n", "ended the process: sys.exit(3)", ""),
            ("import os\ndef app(e, s):\n    os._exit(3)\n", "exited with status 3", ""),
            ("import time\ndef app(e, s):\n    time.sleep(99)\n", "0 of 2 workers", "line 3"),
        ],
        ids=["503", "raises", "late", "sys.exit", "_exit", "hangs"],
    )
    def test_one_that_fails_fails_the_reload(
        self, service: Service, code: str, message: str, detail: str
    ):
        service.settings |= {"app.warmup": ["/"], "timeouts.boot": "1s"}
        service.start().ready()
        before = service.workers()
        service.write(code)
        with Load(service) as load:
            answer = service.ask("POST", "/reload")[1]
        assert answer["ok"] is False
        assert message in answer["error"]
        assert detail in answer["detail"]
        assert not load.failures
        assert service.workers() == before
        eventually(lambda: len(children(service.pid)) == 3)
        assert service.stop() == 0

    @pytest.mark.parametrize("status", ["200 OK", "302 Found", "400 Bad", "404 Not Found"])
    def test_any_answer_below_500_will_do(self, service: Service, status: str):
        service.settings["app.warmup"] = ["/"]
        service.write(NOTING.replace("STATUS", repr(status)))
        service.start().ready()
        assert service.stop() == 0

    def test_a_body_of_any_size(self, service: Service):
        service.settings["app.warmup"] = ["/", "/again"]
        service.write(
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return (b'x' * 100_000 for _ in range(50))\n"
        )
        service.start().ready()
        assert service.stop() == 0

    @pytest.mark.parametrize("wrong", ["", "health", "ftp://x/", "/a b", "/\u00e9", "/a#b"])
    def test_what_is_no_request(self, service: Service, wrong: str):
        service.settings["app.warmup"] = [wrong]
        assert service.start().wait() == 78
        assert 'app.warmup: expected paths such as "/"' in service.log()


@pytest.fixture
def configured(service: Service) -> Service:
    """The settings stand in a file, which a test may spoil."""
    service.config = service.directory / "shop.toml"

    def write() -> None:
        assert service.config
        top, tables = [], {}
        for key, value in service.settings.items():
            table, _, name = key.rpartition(".")
            line = f"{name} = {json.dumps(value)}"
            (tables.setdefault(table, []) if table else top).append(line)
        parts = ["\n".join(top)]
        parts += [f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items()]
        service.config.write_text("\n".join(parts) + "\n")

    write()
    service.settings = {"workers": 2}
    return service


class TestConfiguration:
    def test_bad_toml_is_told_with_its_line(self, configured: Service):
        service = configured
        service.start().ready()
        before = service.workers()
        assert service.config
        good = service.config.read_text()
        for bad, message in (
            (good + "=", f"{service.config}:{good.count(chr(10)) + 1}"),
            (good + "[timeouts]\ndrian = 1\n", "unknown key timeouts.drian; did you mean"),
            (good + '[timeouts]\nboot = "soon"\n', "timeouts.boot: expected"),
        ):
            service.config.write_text(bad)
            answer = service.ask("POST", "/reload")[1]
            assert answer["ok"] is False
            assert message in answer["error"]
        service.config.write_text(good)
        assert service.ask("POST", "/reload")[1]["ok"]
        assert set(before.values()).isdisjoint(service.workers().values())
        assert service.stop() == 0

    def test_what_needs_more_than_a_reload_is_named(self, configured: Service):
        service = configured
        service.start().ready()
        assert service.ask("POST", "/reload")[1]["notes"] == []
        assert service.config
        service.config.write_text(
            service.config.read_text()
            + '[limits]\nbacklog = 7\n[nginx]\nserver_name = ["x"]\n[timeouts]\ndrain = "9s"\n'
        )
        note = (
            "limits.backlog, nginx.server_name changed: needs `sockd generate-units --install "
            "shop` and a restart"
        )
        assert service.ask("POST", "/reload")[1]["notes"] == [note]
        assert note in service.log()
        assert service.stop() == 0


class TestFork:
    def test_one_that_fails(self, service: Service):
        service.start().ready()
        before = service.workers()
        service.write(
            "import errno, os\n"
            "def fork(): raise OSError(errno.EAGAIN, 'Resource temporarily unavailable')\n"
            "os.fork = fork\n" + APP
        )
        with Load(service) as load:
            answer = service.ask("POST", "/reload")[1]
        assert answer["ok"] is False
        assert "fork failed" in answer["error"]
        assert "Resource temporarily unavailable" in answer["error"]
        assert not load.failures
        assert service.workers() == before
        eventually(lambda: len(children(service.pid)) == 3)
        assert service.stop() == 0


class TestLongRequests:
    def test_of_old_workers_are_named(self, service: Service, manager: Manager):
        service.start().ready()
        thread, outcome = busy(service, "/sleep/4?token=secret")
        (worker,) = [w["id"] for w in service.status()["workers"] if w["in_hand"]]
        began = time.monotonic()
        assert service.ask("POST", "/reload")[1]["ok"]
        assert time.monotonic() - began < 4  # it does not wait for them
        line = f"STATUS=generation 2: 2 workers, 0 busy; 1 draining ({worker}: GET /sleep/4)"
        eventually(lambda: line in manager.read())
        thread.join()
        assert isinstance(outcome[0], tuple)
        assert outcome[0][0] == 200
        assert "secret" not in "".join(manager.read())
        assert service.stop() == 0


class TestStorms:
    """Many at once; afterwards everything is as it was."""

    def settled(self, service: Service, before: int) -> None:
        eventually(lambda: service.status()["state"] == "serving")
        eventually(lambda: len(children(service.pid)) == 3)
        eventually(lambda: descriptors(service.pid) <= before + 1)  # our own connection
        assert service.get()[0] == 200

    def test_a_hundred_hangups_in_a_second(self, service: Service):
        service.start().ready()
        before = descriptors(service.pid)
        with Load(service) as load:
            for _ in range(100):
                service.send(signal.SIGHUP)
                time.sleep(0.01)
            self.settled(service, before)
        assert not load.failures
        reloads = service.status()["reloads"]
        assert reloads["failed"] == 0
        assert 2 <= reloads["ok"] <= 100
        assert service.stop() == 0

    def test_reloads_in_a_reload_get_one_answer_from_one_more(self, service: Service):
        service.write("import time; time.sleep(0.5)\n" + APP)
        service.start().ready()
        before = descriptors(service.pid)
        answers: list[int] = []

        def ask() -> None:
            answers.append(service.ask("POST", "/reload")[1]["generation"])

        first = threading.Thread(target=ask)
        with Load(service) as load:
            first.start()
            eventually(lambda: service.fork_server(2))
            rest = [threading.Thread(target=ask) for _ in range(10)]
            for thread in rest:
                thread.start()
            for thread in [first, *rest]:
                thread.join()
            self.settled(service, before)
        assert sorted(answers) == [2] + [3] * 10
        assert not load.failures
        assert service.stop() == 0

    @pytest.mark.parametrize("preload", ["on", "off"])
    @pytest.mark.parametrize("pause", [0.0, 0.02, 0.05, 0.1, 0.3])
    def test_a_stop_in_a_reload(self, service: Service, preload: str, pause: float):
        service.settings["preload"] = preload
        service.write("import time; time.sleep(0.05)\n" + APP)
        service.start().ready()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(service.runtime / "control.sock"))
            client.sendall(b"POST /reload HTTP/1.1\r\nHost: x\r\n\r\n")
            client.settimeout(30)
            time.sleep(pause)
            assert service.stop() == 0
            answer = client.recv(65536)
        # Either it was done before, or it is told that the service stops.
        assert b'"ok": true' in answer or b"the service is stopping" in answer
        assert not any(alive(pid) for pid in service.seen)
        assert not Path(service.bind).exists()

    def test_a_client_that_is_killed_changes_nothing(self, service: Service):
        service.write("import time; time.sleep(0.5)\n" + APP)
        service.start().ready()
        before = descriptors(service.pid)
        pid = os.fork()
        if pid == 0:
            service.ask("POST", "/reload")
            os._exit(0)
        eventually(lambda: service.fork_server(2))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        eventually(lambda: service.status()["reloads"]["ok"] == 1)
        assert service.status()["generation"] == 2
        self.settled(service, before)
        assert service.stop() == 0

    def test_a_release_that_is_deleted_after_the_symlink_was_flipped(self, service: Service):
        current = service.directory / "current"
        service.settings["app.directory"] = str(current)
        for n in range(1, 4):
            release = service.directory / f"release{n}"
            release.mkdir()
            (release / "later.py").write_text(f"NUMBER = {n}\n")
            code = APP.replace('VERSION = "1"', f'VERSION = "{n}:" + os.getcwd()')
            # What it imports while it serves is of its own release.
            late = "    import later; assert VERSION.startswith(str(later.NUMBER))\n"
            (release / "application.py").write_text(
                code.replace("    path = environ", late + "    path = environ")
            )
        current.symlink_to(service.directory / "release1")
        service.start().ready()
        with Load(service) as load:
            for n in (2, 3):
                flipped = service.directory / "next"
                flipped.symlink_to(service.directory / f"release{n}")
                flipped.rename(current)
                assert service.ask("POST", "/reload")[1]["ok"]
                done = time.monotonic()
                eventually(lambda: len(service.status()["workers"]) == 2)
                for path in (service.directory / f"release{n - 1}").iterdir():
                    path.unlink()
                (service.directory / f"release{n - 1}").rmdir()
                time.sleep(0.2)
                late = {body.split()[0] for began, body in load.answers if began > done}
                assert late == {f"{n}:{service.directory}/release{n}"}
        assert not load.failures
        assert service.stop() == 0
