"""Without a service manager: as process 1, as root that runs the application as somebody else, and
what becomes of processes that the application starts."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
from pathlib import Path

import pytest

from .conftest import APP, Load, Manager, Service, alive, children, eventually
from .test_lifecycle import busy

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def first(service: Service) -> int:
    """The master, seen from outside its namespace: the child of unshare."""
    assert service.process
    return eventually(lambda: children(service.process.pid))[0]  # type: ignore[no-any-return,union-attr]


@ROOT
class TestProcess1:
    NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

    def start(self, service: Service) -> int:
        service.start([*self.NAMESPACE])
        eventually(lambda: "generation 1: ready" in service.log())
        eventually(lambda: len(service.workers()) == 2)
        assert service.status()["pid"] == 1
        return first(service)

    def test_it_drains_on_term_and_exits_0(self, service: Service):
        pid = self.start(service)
        thread, outcome = busy(service, "/sleep/1")
        os.kill(pid, signal.SIGTERM)
        assert service.wait() == 0
        thread.join()
        assert isinstance(outcome[0], tuple)
        assert outcome[0][0] == 200

    def test_it_reaps_whatever_is_left_to_it(self, service: Service):
        service.write(
            "import os\n"
            "def app(environ, start_response):\n"
            "    os.system('setsid sh -c \"(sleep 0.2; exit 3) & (sleep 0.1) & exit 0\" &')\n"
            "    start_response('200 OK', [])\n"
            "    return [b'']\n"
        )
        pid = self.start(service)
        for _ in range(10):
            assert service.get()[0] == 200
        eventually(lambda: len(children(pid)) == 3)
        os.kill(pid, signal.SIGTERM)
        assert service.wait() == 0

    def test_it_reloads(self, service: Service):
        pid = self.start(service)
        with Load(service) as load:
            assert service.ask("POST", "/reload")[1]["ok"]
            os.kill(pid, signal.SIGHUP)
            eventually(lambda: service.status()["reloads"]["ok"] == 2)
            service.write("1/0")
            assert service.ask("POST", "/reload")[1]["ok"] is False
        assert not load.failures
        os.kill(pid, signal.SIGTERM)
        assert service.wait() == 0

    def test_a_killed_worker_is_replaced(self, service: Service):
        pid = self.start(service)
        os.kill(children(pid)[-1], signal.SIGKILL)
        eventually(lambda: "died, killed by SIGKILL" in service.log())
        eventually(lambda: len(service.workers()) == 2)
        os.kill(pid, signal.SIGTERM)
        assert service.wait() == 0


class TestGivingUp:
    DIES = (
        "import os\n"
        "def check():\n"
        "    if os.path.exists('down'): raise OSError('no database')\n" + APP
    )

    def service(self, service: Service) -> Service:
        service.settings |= {"app.after_fork": "application:check", "workers": 2}
        service.longest_hold = 0.05
        service.write(self.DIES)
        return service

    def test_with_70_and_the_traceback(self, service: Service):
        self.service(service).start().ready()
        (service.app / "down").touch()
        for pid in service.workers().values():
            os.kill(pid, signal.SIGKILL)
        assert service.wait() == 70
        assert "no worker boots, after 8 attempts: worker 1." in service.log()
        assert "app.after_fork failed: OSError: no database" in service.log()
        tail = service.log().partition("no worker boots")[2]
        assert "in check" in tail

    def test_not_under_a_service_manager(self, service: Service, manager: Manager):
        self.service(service).start().ready()
        (service.app / "down").touch()
        for pid in service.workers().values():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: service.status()["respawns"] >= 30)
        (service.app / "down").unlink()
        eventually(lambda: len(service.workers()) == 2)
        assert service.get()[0] == 200
        assert service.stop() == 0


WHO = """
import os
home, user = os.environ["HOME"], os.environ["USER"]
seen = os.getresuid(), os.getresgid(), sorted(os.getgroups()), home, user
mask = os.umask(0); os.umask(mask)
def app(environ, start_response):
    start_response('200 OK', [])
    return [repr((seen, os.getresuid(), mask)).encode()]
"""


@ROOT
class TestIdentity:
    def openly(self, service: Service) -> Service:
        """Where the other user can reach it, with a directory that only it may write to."""
        directory = service.directory
        while directory != directory.parent:
            directory.chmod(directory.stat().st_mode | 0o055)
            directory = directory.parent
        return service

    @pytest.mark.parametrize("preload", ["on", "off"])
    def test_the_application_runs_as_somebody_else(self, service: Service, preload: str):
        user = pwd.getpwnam("www-data")
        service.settings |= {
            "process.user": "www-data",
            "process.umask": "027",
            "preload": preload,
            "app.warmup": ["/"],
            "recycle.max_memory": "1GiB",
        }
        service.write(WHO)
        self.openly(service).start().ready()
        seen, now, mask = eval(service.get()[1])
        uids, gids = (user.pw_uid,) * 3, (user.pw_gid,) * 3
        groups = sorted(os.getgrouplist("www-data", user.pw_gid))
        assert seen == (uids, gids, groups, user.pw_dir, "www-data")
        assert now == uids
        assert mask == 0o027
        # The master stays root, and still supervises and reloads.
        assert Path(f"/proc/{service.pid}").stat().st_uid == 0
        os.kill(service.workers()["1.1"], signal.SIGKILL)
        eventually(lambda: set(service.workers()) == {"1.2", "1.3"})
        assert service.ask("POST", "/reload")[1]["ok"]
        pids = [*service.workers().values(), service.fork_server(2)]
        service.send(signal.SIGKILL)
        service.wait()
        eventually(lambda: not any(alive(pid) for pid in pids))

    def test_another_group(self, service: Service):
        service.settings |= {"process.user": "www-data", "process.group": "daemon"}
        service.write(WHO)
        self.openly(service).start().ready()
        seen, *_ = eval(service.get()[1])
        assert seen[1] == (1, 1, 1)
        assert service.stop() == 0

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"process.user": "nobody-of-that-name"}, "process: getpwnam(): name not found"),
            ({"process.group": "daemon"}, "process.group: needs process.user"),
            ({"process.umask": "99"}, "process.umask: expected three octal digits"),
        ],
    )
    def test_what_cannot_be(self, service: Service, settings: dict[str, str], message: str):
        service.settings |= settings
        assert service.start().wait() == 78
        assert message in service.log()


LEAVES = """
import os, subprocess
VERSION = "1"
def app(environ, start_response):
    path = environ["PATH_INFO"]
    body = VERSION
    if path == "/leave":
        stubborn = 'trap "" TERM; echo; while :; do sleep 0.1; done'
        plain = subprocess.Popen(["sleep", "1000"])
        deaf = subprocess.Popen(["sh", "-c", stubborn], stdout=subprocess.PIPE)
        deaf.stdout.read(1)
        daemon = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        body = f"{os.getpid()} {plain.pid} {deaf.pid} {daemon.pid}"
    start_response("200 OK", [])
    return [body.encode()]
"""


def test_what_a_dead_worker_left_ends_with_its_generation(service: Service):
    service.write(LEAVES)
    service.start().ready()
    worker, plain, deaf, daemon = map(int, service.get("/leave")[1].split())
    try:
        os.kill(worker, signal.SIGKILL)
        line = f"(pid {plain}), it ends with generation 1"
        eventually(lambda: line in service.log())
        assert f"(pid {daemon}), in a session of its own" in service.log()
        eventually(lambda: len(service.workers()) == 2)
        assert all(alive(pid) for pid in (plain, deaf, daemon))
        with Load(service) as load:
            assert service.ask("POST", "/reload")[1]["ok"]
            eventually(lambda: not alive(plain) and not alive(deaf))
        assert not load.failures
        assert alive(daemon)
        assert "generation 1 is gone: ending what it left: " in service.log()
        assert service.log().count(f"(pid {plain})") == 2
        eventually(lambda: len(children(service.pid)) == 4)
        assert service.stop() == 0
        assert alive(daemon)
    finally:
        for pid in (plain, deaf, daemon):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
