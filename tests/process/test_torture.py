"""Much at once, for long; afterwards everything is as it was."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockd import memory
from tests.seed import FACTOR, SEED
from tests.torture.client import Plan, Run
from tests.torture.moves import Moves

from .conftest import APP, Load, Manager, Service, children, descriptors, eventually
from .supervisor import Supervisor, put_application


@contextlib.contextmanager
def loaded(service: Service) -> Iterator[None]:
    """By clients with a connection per request, and some that keep theirs: it may end only after
    a response that says so."""
    with Load(service, clients=2) as load, Load(service, clients=2, kind="keep") as kept:
        yield
    assert load.failures == []
    assert kept.failures == []
    assert load.answers
    assert kept.answers


TORTURE = Path(__file__).parents[1] / "torture"
SECONDS = 5 * FACTOR


@pytest.fixture
def supervised(service: Service) -> Iterator[Supervisor]:
    made = Supervisor(service)
    put_application(service, TORTURE)
    yield made
    service.end()
    made.close()


KINDS = ("close", "keep", "post", "drip", "pipe", "idle")


@pytest.mark.parametrize(
    ("threads", "kinds"),
    [(1, KINDS), (4, KINDS), (1, ("close",))],
    ids=["inline", "threads", "stop"],
)
def test_nothing_is_lost(supervised: Supervisor, threads: int, kinds: tuple[str, ...]):
    """Whatever is done to the master and the workers. A service that is told to stop, and is under
    no systemd which could say that another follows, closes idle connections: that move is for
    clients that have none."""
    service = supervised.service
    service.settings |= {
        "workers": 3, "threads": threads, "recycle.max_requests": 300, "app.env": {"BOOT": "0.2"}
    }  # fmt: skip
    supervised.start()

    def reload() -> None:
        answer = service.ask("POST", "/reload")[1]
        assert answer["ok"], answer

    def upgrade() -> None:
        answer = service.ask("POST", "/upgrade")[1]
        assert answer["ok"], answer

    def broken_reload() -> None:
        service.write("1/0")
        assert service.ask("POST", "/reload")[1]["ok"] is False
        put_application(service, TORTURE)

    def end_a_worker() -> None:
        for pid in list(service.workers().values())[:1]:
            os.kill(pid, signal.SIGTERM)

    def more_and_fewer() -> None:
        for by in (2, -2):
            assert service.ask("POST", "/workers", {"by": by})[1]["ok"]

    moves = Moves(
        {
            "reload": reload,
            "broken reload": broken_reload,
            "HUP": lambda: service.send(signal.SIGHUP),
            "end a worker": end_a_worker,
            "more and fewer workers": more_and_fewer,
            "kill": supervised.kill,
            "upgrade": upgrade,
            "USR2": lambda: service.send(signal.SIGUSR2),
            **({"restart": supervised.restart} if kinds == ("close",) else {}),
        },
        SEED,
    )
    clients = [(kind, 4, supervised.url) for kind in kinds]
    clients += [("child", 1, supervised.url)] if "idle" in kinds else []
    run = Run(Plan(clients, SEED, executed=str(service.app / "executed")))
    with run.beside():
        moves.make(SECONDS, least=1)
    report = run.report()
    print(json.dumps(report, indent=1))
    assert report["wrong"] == []
    assert service.stop() == 0


BAD = {
    "syntax": "def app(:",
    "import": "import nothing_such",
    "exit": "import sys; sys.exit(4)",
    "_exit": "import os; os._exit(5)",
    "hang": "import time; time.sleep(1000)",
    "warm-up": "def app(environ, start_response): 1 / 0",
    "fork": "import os\ndef fork(): raise OSError(11, 'no')\nos.fork = fork\n" + APP,
    "worker": "import os\nos.register_at_fork(after_in_child=lambda: os._exit(9))\n" + APP,
}
FORKING = ("fork", "worker")


@pytest.mark.parametrize("preload", ["on", "off"])
def test_reloads_of_all_kinds_under_load(service: Service, preload: str):
    service.settings |= {
        "preload": preload,
        "timeouts.boot": "3s",
        "app.warmup": ["/"],
        "workers": 3,
    }
    service.start().ready()
    fds = descriptors(service.pid)
    version = 1
    # What is patched into os by a worker's own import comes too late for its fork.
    bad = BAD if preload == "on" else {k: v for k, v in BAD.items() if k not in FORKING}
    with loaded(service):
        for name, code in [*bad.items(), *bad.items()]:
            before = service.workers()
            service.write(code)
            answer = service.ask("POST", "/reload")[1]
            assert answer["ok"] is False, name
            assert service.workers() == before, name
            version += 1
            service.write(APP.replace('VERSION = "1"', f'VERSION = "{version}"'))
            assert service.ask("POST", "/reload")[1]["ok"], name
            assert service.get()[1].split()[0] == str(version)
    eventually(lambda: len(children(service.pid)) == 4)
    eventually(lambda: descriptors(service.pid) <= fds + 2)
    assert service.stop() == 0


def test_everything_that_a_person_can_ask_for(service: Service):
    random_ = random.Random(SEED)
    service.settings |= {"recycle.max_requests": 100, "workers": 2}
    service.start().ready()
    fds = descriptors(service.pid)

    def good() -> None:
        service.write(APP)
        assert service.ask("POST", "/reload")[1]["ok"]

    def bad() -> None:
        service.write("1/0")
        service.ask("POST", "/reload")
        service.write(APP)

    def end_one() -> None:
        workers = list(service.workers().values())
        if workers:  # else the last one was told just before
            os.kill(random_.choice(workers), signal.SIGTERM)

    moves = [
        good,
        bad,
        lambda: service.send(signal.SIGHUP),
        lambda: service.send(signal.SIGTTIN),
        lambda: service.send(signal.SIGTTOU),
        lambda: service.ask("POST", "/workers", {"by": random_.choice([-2, -1, 1, 2])}),
        end_one,
        lambda: time.sleep(random_.random() / 5),
    ]
    with loaded(service):
        for _ in range(80):
            random_.choice(moves)()
    service.write(APP)
    assert service.ask("POST", "/reload")[1]["ok"]
    eventually(lambda: service.status()["state"] == "serving")
    eventually(lambda: len(children(service.pid)) == 3)
    eventually(lambda: descriptors(service.pid) <= fds + 2)
    assert service.stop() == 0


HOSTILE = """
import os, signal, subprocess, threading, time
os.closerange(3, 101)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for number in (1, 2, 3, 10, 12, 15):
    signal.signal(number, lambda *_: os._exit(7))
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
if os.fork() == 0:
    time.sleep(2)
    os._exit(0)
try:
    os.setsid()
except PermissionError:
    pass
os.umask(0o777)
os.chdir("/")
"""


@pytest.mark.parametrize("preload", ["auto", "on", "off"])
def test_an_application_that_does_everything_wrong_at_once(service: Service, preload: str):
    service.settings["preload"] = preload
    service.write(HOSTILE + APP)
    service.start().ready()
    with Load(service) as load:
        assert service.ask("POST", "/reload")[1]["ok"]
    assert not load.failures
    os.kill(next(iter(service.workers().values())), signal.SIGKILL)
    eventually(lambda: service.status()["respawns"] == 1)
    eventually(lambda: len(service.workers()) == 2)
    assert service.get()[0] == 200
    assert service.stop() == 0


DIES = "import os\ndef check():\n    if os.path.exists('down'): os._exit(9)\n" + APP


def master_kib(service: Service) -> int:
    held = memory.of(service.pid)
    assert held
    return held.private >> 10


def test_thousands_of_workers_that_exit_at_once(service: Service, manager: Manager):
    """Without back-off; a service manager is there, so the master does not give up. Ten thousand
    of them in `make nightly`."""
    service.settings["app.after_fork"] = "application:check"
    service.settings["log.level"] = "err"
    service.longest_hold = 0.0
    service.write(DIES)
    service.start().ready()
    (service.app / "down").touch()
    for pid in service.workers().values():
        os.kill(pid, signal.SIGKILL)

    def respawns(number: int) -> bool:
        return bool(service.status()["respawns"] >= number)

    eventually(lambda: respawns(500), patience=300)
    before = master_kib(service)
    eventually(lambda: respawns(int(2000 * FACTOR)), patience=600)
    assert master_kib(service) < before + 512
    (service.app / "down").unlink()
    eventually(lambda: len(service.workers()) == 2)
    eventually(lambda: len(children(service.pid)) == 3)
    # Two workers' lifelines, the fork server's socket and dump, ours, and what it began with.
    assert descriptors(service.pid) < 32
    assert service.get()[0] == 200
    assert service.stop() == 0


def cpu(pid: int) -> float:
    """Seconds that a process and those it has waited for have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def test_with_backoff_they_cost_nothing(service: Service, manager: Manager):
    service.settings["app.after_fork"] = "application:check"
    service.write(DIES)
    service.start().ready()
    (service.app / "down").touch()
    for pid in service.workers().values():
        os.kill(pid, signal.SIGKILL)
    fds, began, used = descriptors(service.pid), time.monotonic(), cpu(service.pid)
    time.sleep(10)
    share = (cpu(service.pid) - used) / (time.monotonic() - began)
    assert share < 0.05
    assert 2 <= service.status()["respawns"] <= 20
    assert descriptors(service.pid) <= fds + 2
    assert service.stop() == 0


DJANGO = """
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="of a test",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
    ],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)
django.setup()
import django.contrib.auth.models, django.contrib.auth.forms, django.forms, django.template.loader

def view(request):
    return JsonResponse({"path": request.path, "seen": list(range(50))})

urlpatterns = [path("", view)]
app = get_wsgi_application()
app.load_middleware()
"""


def test_workers_that_share_an_import_hold_less(service: Service):
    """Django, 4 workers, 1,000 requests each on the average: their private memory together."""
    service.write(DJANGO)
    sums = {}
    for preload in ("off", "on"):
        service.settings |= {"preload": preload, "workers": 4}
        service.start().ready()
        threads = [threading.Thread(target=ask, args=(service, 500)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(w["requests"] for w in service.status()["workers"]) >= 4000
        held = [memory.of(pid) for pid in service.workers().values()]
        sums[preload] = sum(one.private for one in held if one)
        assert service.stop() == 0
    print({preload: f"{size / (1 << 20):.1f} MiB" for preload, size in sums.items()})
    assert sums["on"] <= 0.6 * sums["off"]


def ask(service: Service, times: int) -> None:
    with contextlib.closing(service.connect()) as connection:
        for _ in range(times):
            connection.request("GET", "/")
            assert connection.getresponse().read()
