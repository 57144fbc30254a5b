"""What the doctor makes of facts. tests/lab/test_doctor.py breaks the things themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from sockd.config import load
from sockd.doctor import checks, document, examine, is_well, text
from sockd.doctor.facts import (
    Facts,
    Journal,
    Listening,
    Machine,
    Missing,
    Nginx,
    Place,
    Process,
    Processes,
    Route,
    Said,
    Unit,
    Versions,
)
from sockd.master.cgroup import OOMWatch
from sockd.units import render, sections

NOW = 1_800_000_000.0
SOCKET = "/run/sockd-shop.sock"
CONFIG = load(
    "shop",
    overrides={"app.target": "shop:app", "workers": "2", "bind": SOCKET},
    environ={},
)
SERVICE = {
    "Id": "shop.service",
    "ActiveState": "active",
    "UnitFileState": "disabled",
    "Result": "success",
    "NeedDaemonReload": False,
    "ExecStart": [["/usr/bin/sockd", ["/usr/bin/sockd", "serve", "shop"], False]],
    "ExecReload": [["/usr/bin/sockd", ["/usr/bin/sockd", "reload", "shop"], False]],
    "TriggeredBy": ["shop.socket"],
    "Requires": ["shop.socket"],
    "MainPID": 10,
    "Type": "notify",
    "NotifyAccess": "main",
    "StartLimitIntervalUSec": 0,
    "Restart": "on-failure",
    "RestartUSec": 100_000,
    "RestartPreventExitStatus": [[], []],
    "KillSignal": 15,
    "TimeoutStopUSec": 45_000_000,
    "TimeoutStartUSec": 105_000_000,
    "WatchdogUSec": 30_000_000,
    "OOMPolicy": "continue",
    "RuntimeDirectoryPreserve": "restart",
    "LogRateLimitBurst": 100_000,
    "RuntimeDirectory": ["sockd/shop"],
    "StateDirectory": ["shop"],
    "LimitNOFILE": 65536,
    "TasksMax": 4915,
}
RENDERED = sections.parse(
    render(CONFIG, systemd_version=252, nginx_version="1.22")["shop.service"]
)
for _name in ("KillMode", "FileDescriptorStoreMax"):
    for _value in RENDERED["Service"].get(_name, []):
        SERVICE[_name] = int(_value) if _value.isdigit() else _value
LISTENS = {
    "Id": "shop.socket",
    "ActiveState": "active",
    "UnitFileState": "enabled",
    "StartLimitIntervalUSec": 0,
    "TriggerLimitIntervalUSec": 0,
    "Backlog": 4096,
    "Listen": [["Stream", SOCKET]],
}
ROUTE = Route(
    ("shop.example",),
    " /",
    (SOCKET,),
    "sockd-shop",
    {
        "client_max_body_size": ("1g",),
        "proxy_read_timeout": ("135s",),
        "proxy_set_header": ("host", "x-forwarded-for", "x-forwarded-proto"),
    },
    "/etc/nginx/sites-enabled/shop.conf",
)
STATUS: dict[str, Any] = {
    "sockd": "0.1.0",
    "pid": 10,
    "state": "serving",
    "config": "/etc/sockd/shop.toml",
    "generation": 1,
    "wanted": 2,
    "reloads": {"ok": 0, "failed": 0, "last_error": ""},
    "listeners": [{"name": "http", "address": SOCKET}],
    "workers": [
        {"pid": pid, "state": "ready", "generation": 1, "started_usec": 5_000_000}
        for pid in (12, 13)
    ],
}
MIB = 1 << 20
WELL = Facts(
    name="shop",
    config=CONFIG,
    config_error="",
    unit=Unit("shop.service", SERVICE, {}, generated=True),
    sockets=[Unit("shop.socket", LISTENS, {}, generated=True)],
    rendered=RENDERED,
    status=STATUS,
    processes=Processes(
        10,
        {
            10: Process(10, 1, "sockd", "/usr/bin/sockd serve shop", 900, stale=False),
            11: Process(11, 10, "sockd-fork 1", "python3 ...", 900),
            12: Process(12, 10, "sockd-1.1", "python3 ...", 900, False, 20 * MIB, 30 * MIB),
            13: Process(13, 10, "sockd-1.2", "python3 ...", 900, False, 22 * MIB, 30 * MIB),
            14: Process(14, 13, "convert", "convert a.png b.png", 900),
        },
    ),
    listening=(),
    nginx=Nginx(True, "", (), "www-data", (ROUTE,)),
    journal=Journal((), complete=True),
    machine=Machine(2, 8 << 30, False, {"net.core.somaxconn": 4096, "net.core.wmem_max": 212_992}),
    places={
        SOCKET: Place(0, 33, 0o140660, False, nginx=True),
        "/run/sockd/shop": Place(900, 900, 0o40755, True),
        "/var/lib/shop": Place(900, 900, 0o40755, True),
    },
    versions=Versions("0.1.0", "0.1.0", ""),
    drift="",
    changed_at=NOW - 1000,
    now=NOW,
    monotonic_usec=10_000_000,
)


def service(**properties: Any) -> Facts:
    assert isinstance(WELL.unit, Unit)
    return replace(WELL, unit=replace(WELL.unit, properties={**SERVICE, **properties}))


def socket(**properties: Any) -> Facts:
    unit = Unit("shop.socket", {**LISTENS, **properties}, {}, generated=True)
    return replace(WELL, sockets=[unit])


def configured(facts: Facts = WELL, **settings: str) -> Facts:
    """`app_venv` is app.venv."""
    given: dict[str, object] = {"app.target": "shop:app", "workers": "2", "bind": SOCKET}
    given |= {key.replace("_", ".", 1): value for key, value in settings.items()}
    return replace(facts, config=load("shop", overrides=given, environ={}))


def passed_on(**directives: str | tuple[str, ...]) -> Facts:
    made = {name: (v,) if isinstance(v, str) else v for name, v in directives.items()}
    route = ROUTE._replace(directives={**ROUTE.directives, **made})
    return replace(WELL, nginx=Nginx(True, "", (), "www-data", (route,)))


def said(*messages: str) -> Facts:
    return replace(WELL, journal=Journal(messages, complete=True))


def placed(path: str, place: Place | OSError) -> Facts:
    return replace(WELL, places={**WELL.places, path: place})


def process(pid: int, **changes: Any) -> Facts:
    assert isinstance(WELL.processes, Processes)
    base = WELL.processes.found.get(pid, Process(pid, 1, "stray", "stray", 900))
    found = {**WELL.processes.found, pid: replace(base, **changes)}
    return replace(WELL, processes=Processes(10, found))


def running(**changes: Any) -> Facts:
    return replace(WELL, status={**STATUS, **changes})


GONE = FileNotFoundError(2, "No such file or directory")


def oom_message(tmp: Path = Path("/nonexistent")) -> str:
    """As the master writes it."""
    watch = OOMWatch(tmp)
    watch._unexplained, watch._at = 1, 0.0
    return f"worker 1.1: died, killed by SIGKILL {watch.explain(1.0)}"


CASES: list[tuple[str, str, str, Facts]] = [
    (
        "files.configuration",
        "problem",
        "a.toml:3: bad",
        replace(WELL, config_error="a.toml:3: bad"),
    ),
    (
        "unit.state",
        "problem",
        "failed .exit-code",
        service(ActiveState="failed", Result="exit-code"),
    ),
    ("unit.state", "problem", "changed since", service(NeedDaemonReload=True)),
    ("unit.ExecStart", "problem", "gunicorn", service(ExecStart=[["", ["gunicorn"], False]])),
    (
        "unit.ExecStart",
        "problem",
        "through /bin/sh",
        service(ExecStart=[["", ["/bin/sh", "-c", "exec", "/usr/bin/sockd"], False]]),
    ),
    ("unit.ExecReload", "problem", "no ExecReload", service(ExecReload=[])),
    (
        "unit.ExecReload",
        "problem",
        "kill",
        service(ExecReload=[["", ["/bin/kill", "-HUP"], False]]),
    ),
    ("unit.socket", "problem", "no socket unit", service(TriggeredBy=[])),
    ("unit.socket", "note", "does not require", service(Requires=[])),
    ("unit.Type", "problem", "Type=simple", service(Type="simple")),
    ("unit.NotifyAccess", "problem", "=all", service(NotifyAccess="all")),
    ("unit.StartLimitIntervalSec", "problem", "=10s", service(StartLimitIntervalUSec=10_000_000)),
    ("unit.Restart", "problem", "=no", service(Restart="no")),
    (
        "unit.Restart",
        "problem",
        "=always",
        configured(service(Restart="always"), timeouts_idle_exit="5min"),
    ),
    ("unit.RestartSec", "problem", "=30s", service(RestartUSec=30_000_000)),
    (
        "unit.RestartPreventExitStatus",
        "problem",
        "78",
        service(RestartPreventExitStatus=[[78], []]),
    ),
    ("unit.KillMode", "problem", "KillMode=none", service(KillMode="none")),
    ("unit.KillSignal", "problem", "SIGQUIT", service(KillSignal=3)),
    ("unit.TimeoutStopSec", "problem", "=30s", service(TimeoutStopUSec=30_000_000)),
    ("unit.TimeoutStopSec", "problem", "=45s", configured(timeouts_drain="60s")),
    ("unit.TimeoutStartSec", "problem", "=105s", configured(timeouts_boot="100s")),
    ("unit.WatchdogSec", "problem", "=0", service(WatchdogUSec=0)),
    ("unit.WatchdogSec", "unknown", "that runs", service(WatchdogUSec=0, MainPID=0)),
    ("unit.OOMPolicy", "problem", "=stop .systemd's default", service(OOMPolicy="stop")),
    ("unit.RuntimeDirectoryPreserve", "problem", "=no", service(RuntimeDirectoryPreserve="no")),
    ("unit.LogRateLimitBurst", "problem", "=10000", service(LogRateLimitBurst=0)),
    ("unit.RuntimeDirectory", "problem", "=x", service(RuntimeDirectory=["x"])),
    (
        "unit.FileDescriptorStoreMax",
        "problem",
        "=3",
        replace(
            service(FileDescriptorStoreMax=3),
            rendered={"Service": {"FileDescriptorStoreMax": ["8"]}},
        ),
    ),
    (
        "socket.active",
        "problem",
        "failed .resources",
        socket(ActiveState="failed", Result="resources"),
    ),
    ("socket.enabled", "problem", "neither", socket(UnitFileState="disabled")),
    ("socket.limits", "problem", "TriggerLimit", socket(TriggerLimitIntervalUSec=2_000_000)),
    ("socket.backlog", "problem", "=128", socket(Backlog=128)),
    (
        "socket.backlog",
        "problem",
        "somaxconn is 128",
        replace(WELL, machine=replace(WELL.machine, kernel={"net.core.somaxconn": 128})),
    ),
    (
        "socket.taken",
        "problem",
        r"taken by httpd \(pid 7\)",
        replace(WELL, listening=[Listening(SOCKET, (7,), ("httpd",))]),
    ),
    (
        "socket.taken",
        "problem",
        "only root can see",
        replace(WELL, listening=[Listening(SOCKET, (), ())]),
    ),
    ("socket.path", "problem", "is gone", placed(SOCKET, GONE)),
    ("socket.path", "problem", "is no socket", placed(SOCKET, Place(0, 0, 0o100644, False, True))),
    (
        "nginx.works",
        "problem",
        "unknown directive",
        replace(WELL, nginx=Nginx(True, 'unknown directive "x"', (), "www-data", ())),
    ),
    (
        "nginx.works",
        "problem",
        "not run",
        replace(WELL, nginx=Nginx(False, "", (), "w", (ROUTE,))),
    ),
    (
        "nginx.works",
        "problem",
        "ignores a site",
        replace(
            WELL,
            nginx=Nginx(True, "", ('conflicting server name "_" on 80',), "w", (ROUTE,)),
        ),
    ),
    ("nginx.site", "problem", "no site", replace(WELL, nginx=Nginx(True, "", (), "w", ()))),
    (
        "nginx.site",
        "problem",
        "passes requests to /run/x",
        replace(WELL, nginx=Nginx(True, "", (), "w", (ROUTE._replace(backends=("/run/x",)),))),
    ),
    (
        "nginx.site",
        "note",
        "no site",
        replace(socket(Listen=[["Stream", "127.0.0.1:8000"]]), nginx=Nginx(True, "", (), "w", ())),
    ),
    ("nginx.permission", "problem", "0600", placed(SOCKET, Place(0, 0, 0o140600, False, False))),
    ("nginx.body", "problem", "is 1m for", passed_on(client_max_body_size="1m")),
    ("nginx.body", "note", "is off", passed_on(client_max_body_size="0")),
    ("nginx.body", "note", "is 2g", passed_on(client_max_body_size="2G")),
    ("nginx.timeouts", "problem", "is 30s", passed_on(proxy_read_timeout="30")),
    (
        "nginx.timeouts",
        "problem",
        "keeps connections 120s",
        passed_on(keepalive="8", keepalive_timeout="2m"),
    ),
    ("nginx.headers", "problem", "x-forwarded-for", passed_on(proxy_set_header=("host",))),
    (
        "nginx.files",
        "problem",
        "no directory",
        configured(placed("/srv/s", GONE), **{"nginx_static./static/": "/srv/s"}),
    ),
    (
        "nginx.files",
        "problem",
        "may not read",
        configured(
            placed("/srv/m", Place(0, 0, 0o40700, True, False)),
            **{"nginx_media./media/": "/srv/m", "unit_user": "shop"},
        ),
    ),
    ("nginx.files", "problem", "dynamic user", configured(**{"nginx_media./media/": "/srv/m"})),
    ("room.processors", "note", "9 workers", running(wanted=9)),
    ("room.processors", "problem", "17 workers", running(wanted=17)),
    (
        "room.memory",
        "problem",
        "need 74 MiB; limit of the service: 60 MiB",
        replace(WELL, machine=replace(WELL.machine, memory=60 * MIB, limited=True)),
    ),
    (
        "room.memory",
        "note",
        "during a reload up to 118 MiB",
        replace(WELL, machine=replace(WELL.machine, memory=100 * MIB)),
    ),
    (
        "room.database",
        "problem",
        "are 16 .*, of 10",
        configured(replace(WELL, connections=10), threads="8"),
    ),
    (
        "room.database",
        "problem",
        "32 during",
        configured(replace(WELL, connections=20), threads="8"),
    ),
    ("room.descriptors", "problem", "=1024", service(LimitNOFILE=1024)),
    ("room.tasks", "problem", "=15", service(TasksMax=15)),
    (
        "room.channel",
        "problem",
        "wmem_max is 65536",
        replace(WELL, machine=replace(WELL.machine, kernel={"net.core.wmem_max": 65536})),
    ),
    (
        "room.channel",
        "unknown",
        "cannot be read",
        replace(WELL, machine=replace(WELL.machine, kernel={})),
    ),
    ("process.answers", "problem", "hangs", replace(WELL, status=Missing("hangs"))),
    ("process.answers", "unknown", "only root", replace(WELL, status=Missing("only root may"))),
    ("process.one", "note", "pid 99", running(pid=99)),
    ("process.workers", "problem", "2 of 3", running(wanted=3)),
    ("process.left", "problem", r"stray \(pid 50\)", process(50)),
    ("process.adopted", "note", r"stray \(pid 50\)", process(50, parent=10)),
    ("version.same", "problem", "master is sockd 0.0.9", running(sockd="0.0.9")),
    (
        "version.same",
        "problem",
        "app.venv has sockd 0.2.0",
        replace(WELL, versions=Versions("0.1.0", "0.1.0", "0.2.0")),
    ),
    ("version.replaced", "problem", "have been replaced", process(10, stale=True)),
    ("version.replaced", "unknown", "only root", process(10, stale=None)),
    (
        "files.drift",
        "problem",
        "/etc/x.service",
        replace(WELL, drift="+++ /etc/x.service (generated)\n"),
    ),
    ("files.unread", "note", "generation 1", replace(WELL, changed_at=NOW)),
    ("files.owned", "problem", "is gone", placed("/run/sockd/shop", GONE)),
    ("files.owned", "problem", "uid 0", placed("/var/lib/shop", Place(0, 0, 0o40755, True))),
    (
        "files.owned",
        "problem",
        "mode 0500",
        placed("/var/lib/shop", Place(900, 900, 0o40500, True)),
    ),
    (
        "past.reload",
        "problem",
        "KeyError: 'x'",
        running(reloads={"last_error": "generation 2 failed\nKeyError: 'x'"}),
    ),
    ("past.memory", "problem", "killed for memory: 1", said(oom_message())),
    ("past.crashes", "problem", "died: 2", said(*2 * ["worker 1.1: died, killed by SIGSEGV"])),
    (
        "past.deadlines",
        "problem",
        "timeouts.request: 1",
        said("GET /slow (from 10.0.0.9): 504 (timeouts.request): it is stuck in C"),
    ),
    ("past.boots", "problem", "boot: 1", said("generation 2 failed to boot: no module")),
    ("past.watchdog", "problem", "hung: 1", said("shop.service: Watchdog timeout (limit 30s)!")),
    ("past.dropped", "problem", "entries: 1", said("Suppressed 5 messages from shop.service")),
    (
        "past.cut",
        "note",
        "deadline: 1",
        said("worker 1.1: 3 connections cut at the drain deadline"),
    ),
]


def words(facts: Facts, check: str) -> list[tuple[str, str]]:
    return [
        (one.finding.word, one.finding.text) for one in examine(facts) if one.check.name == check
    ]


def test_all_is_well() -> None:
    assert [one for one in examine(WELL) if one.finding.word != "ok"] == []
    assert text(list(examine(WELL))) == f"{len(checks.CHECKS)} checks: all is well\n"


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n][0]}-{n}")
def test_each_is_found_by_its_check_alone(number: int) -> None:
    check, word, pattern, facts = CASES[number]
    found = [one for one in examine(facts) if one.finding.word != "ok"]
    mine = [one.finding for one in found if one.check.name == check]
    assert [one for one in mine if one.word == word and re.search(pattern, one.text)], mine
    for finding in mine:
        if finding.word == "problem":
            assert finding.why
            assert finding.mend


def test_each_check_has_a_case() -> None:
    assert {case[0] for case in CASES} == {check.name for check in checks.CHECKS}


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{check.name}` | {check.what} |" for check in checks.CHECKS]


def test_workers_that_still_drain_are_not_left_over() -> None:
    facts = process(50, name="sockd-1.1")
    assert words(facts, "process.left")[0][0] == "problem"
    status = {**STATUS, "left_over": [{"pid": 50, "id": "1.1"}]}
    assert words(replace(facts, status=status), "process.left")[0][0] == "ok"


def test_memory_is_not_counted_as_a_crash() -> None:
    assert words(said(oom_message()), "past.crashes") == [("ok", checks_by_name()["past.crashes"])]


def checks_by_name() -> Mapping[str, str]:
    return {check.name: check.what for check in checks.CHECKS}


def test_what_cannot_be_looked_at_is_said() -> None:
    """Each fact away, alone and together."""
    missing = {
        field.name: Missing(f"no {field.name}")
        for field in fields(Facts)
        if "Missing" in str(field.type)
    }
    assert len(missing) >= 8
    for gone in ({name: reason} for name, reason in missing.items()):
        found = list(examine(replace(WELL, **gone)))  # type: ignore[arg-type]
        assert {one.finding.word for one in found} <= {"ok", "unknown", "note", "problem"}
    found = list(examine(replace(WELL, **missing)))  # type: ignore[arg-type]
    assert is_well(found)
    unknown = [one for one in found if one.finding.word == "unknown"]
    assert len(unknown) > 40
    shown = text(found)
    assert "unknown  no journal\n         not looked at: past.memory" in shown
    assert f"{len(unknown)} unknown" in shown


MENDS: list[tuple[Callable[[], Facts], str]] = [
    (
        lambda: replace(
            service(OOMPolicy="stop"),
            unit=Unit(
                "shop.service",
                {**SERVICE, "OOMPolicy": "stop"},
                {"OOMPolicy": Said("/etc/systemd/system/shop.service.d/a.conf", False)},
                generated=True,
            ),
        ),
        "in /etc/systemd/system/shop.service.d/a.conf: OOMPolicy=continue, then systemctl "
        "daemon-reload",
    ),
    (lambda: service(OOMPolicy="stop"), "sockd generate-units --install shop"),
    (
        lambda: replace(WELL, unit=Unit("shop.service", {**SERVICE, "OOMPolicy": "stop"})),
        "systemctl edit shop.service: [Service] OOMPolicy=continue",
    ),
    (
        lambda: configured(service(OOMPolicy="stop"), **{"unit_service.OOMPolicy": "stop"}),
        "take OOMPolicy out of unit.service in the flags, "
        "then sockd generate-units --install shop",
    ),
]


@pytest.mark.parametrize("number", range(len(MENDS)))
def test_the_mend_names_the_file_that_says_so(number: int) -> None:
    facts, expected = MENDS[number]
    (found,) = [one.finding for one in examine(facts()) if one.check.name == "unit.OOMPolicy"]
    assert found.mend == expected


def test_the_report() -> None:
    judged = list(examine(replace(process(50, name="x\x1b[2J"), drift="+++ /etc/a (generated)\n")))
    shown = text(judged, colour=True)
    assert "\x1b[2J" not in shown
    assert "\x1b[31mproblem\x1b[0m  left over in the control group: x?[2J (pid 50)" in shown
    assert shown.endswith("checks: 2 problems\n")
    assert "mend  sockd generate-units --diff shop" in shown
    found = document("shop", judged)
    assert found["well"] is False
    assert json.loads(json.dumps(found)) == found
    assert len(found["findings"]) >= len(checks.CHECKS)
    assert "ok       nginx may connect  [nginx.permission]" in text(judged, everything=True)
