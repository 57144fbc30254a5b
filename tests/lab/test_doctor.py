"""`sockd doctor`: each thing is broken for real, and named by the check that is for it.

Breakages that do not hide one another are made together, so that the doctor is asked once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.machine import Machine
from tests.lab.service import Service, wait_until

APP = """
import subprocess, sys

def app(environ, start_response):
    if environ["PATH_INFO"] == "/child":
        subprocess.Popen(["sleep", "1000"])
    if environ["PATH_INFO"] == "/noise":
        for _ in range(200):
            print("noise", file=sys.stderr, flush=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"here"]
"""

Findings = dict[str, list[dict[str, str]]]


def asked(service: Service, *words: str, user: str = "root") -> Findings:
    """Findings by check. The exit code has to say whether one is a problem."""
    done = service.machine.run(
        *("runuser", "-u", user, "--", "sockd", "doctor", service.name, "--json", *words),
        check=False,
    )
    document = json.loads(done.stdout) if done.stdout else pytest.fail(done.stderr)
    problems = [one for one in document["findings"] if one["word"] == "problem"]
    assert document["well"] == (not problems) == (done.returncode == 0), done.stderr
    found: Findings = {}
    for one in document["findings"]:
        found.setdefault(one.pop("check"), []).append(one)
    return found


def named(found: Findings) -> dict[str, str]:
    """What is a problem or a note: check → texts."""
    return {
        check: "; ".join(one["text"] for one in ones)
        for check, ones in found.items()
        if ones[0]["word"] in ("problem", "note")
    }


def assert_named(found: Findings, expected: dict[str, str]) -> None:
    """Exactly these checks find something; each value is a regular expression of the text."""
    texts = named(found)
    assert texts.keys() == expected.keys(), texts
    for check, pattern in expected.items():
        assert re.search(pattern, texts[check]), (check, texts[check])
        for one in found[check]:
            assert one["why"] or one["word"] == "note"
            assert one["mend"] or one["word"] == "note"


@pytest.fixture
def running(service: Service) -> Iterator[Service]:
    service.configure(APP, f'[nginx.static]\n"/static/" = "/srv/{service.name}"\n')
    service.machine.run("systemctl", "enable", "--now", f"{service.name}.socket")
    assert service.get(service.direct) == "here"
    assert_named(asked(service), {})
    yield service
    service.machine.sh(f"rm -rf /etc/systemd/system/{service.name}.*.d /run/sockd/{service.name}")


def drop_in(service: Service, kind: str, text: str, name: str = "wrong") -> None:
    path = f"/etc/systemd/system/{service.name}.{kind}.d/{name}.conf"
    service.machine.write(path, text)


DIRECTIVES = {
    "Type": "exec",
    "NotifyAccess": "all",
    "Restart": "no",
    "RestartSec": "1min",
    "RestartPreventExitStatus": "78",
    "KillMode": "mixed",
    "KillSignal": "SIGQUIT",
    "TimeoutStopSec": "10s",
    "TimeoutStartSec": "30s",
    "WatchdogSec": "0",
    "OOMPolicy": "stop",
    "RuntimeDirectoryPreserve": "no",
    "LogRateLimitBurst": "500",
}


def test_unit_settings(running: Service) -> None:
    service = running
    lines = "".join(f"{name}={value}\n" for name, value in DIRECTIVES.items())
    drop_in(
        service,
        "service",
        "[Unit]\nStartLimitIntervalSec=10\n[Service]\n"
        f"ExecReload=\nExecReload=/bin/kill -HUP $MAINPID\n{lines}"
        "RuntimeDirectory=\nRuntimeDirectory=elsewhere\nLimitNOFILE=1000\nTasksMax=5\n"
        "MemoryHigh=4M\n",
    )
    drop_in(
        service,
        "socket",
        "[Unit]\nStartLimitIntervalSec=10\n[Socket]\nTriggerLimitIntervalSec=2s\nBacklog=5\n",
    )
    service.machine.run("systemctl", "daemon-reload")
    drop_in(service, "service", "[Service]\nNice=1\n", "unread")
    try:
        found = asked(service, "--db-connections", "3")
    finally:
        service.machine.sh(f"rm -r /etc/systemd/system/{service.name}.*.d")
        service.machine.run("systemctl", "daemon-reload")
    assert_named(
        found,
        {
            **{
                f"unit.{name}": f"{name}={re.escape(value)} .*wrong.conf"
                for name, value in DIRECTIVES.items()
                if name not in ("RestartSec", "WatchdogSec")
            },
            "unit.RestartSec": "60s",
            "unit.WatchdogSec": "0|infinity",
            "unit.StartLimitIntervalSec": "10s",
            "unit.ExecReload": "/bin/kill",
            "unit.RuntimeDirectory": "elsewhere",
            "unit.state": "changed since systemd read",
            "socket.limits": "StartLimit.*TriggerLimit",
            "socket.backlog": "Backlog=5",
            "room.descriptors": "LimitNOFILE=1000",
            "room.tasks": "TasksMax=5",
            "room.memory": "limit of the service",
            "room.database": "4 during a reload, of 3",
            "files.owned": "/run/elsewhere is gone",
        },
    )
    assert "wrong.conf" in found["unit.OOMPolicy"][0]["mend"]
    assert "OOMPolicy=continue" in found["unit.OOMPolicy"][0]["mend"]
    assert named(asked(service)) == {}


def test_site_and_sockets(running: Service) -> None:
    service, machine = running, running.machine
    name, socket = service.name, f"/run/{service.name}.sock"
    site = f"/etc/nginx/sites-available/{name}.conf"
    generated = machine.read(site)
    wrong = re.sub(r"client_max_body_size \S+;", "client_max_body_size 1m;", generated)
    wrong = re.sub(r"proxy_read_timeout \S+;", "proxy_read_timeout 5s;", wrong)
    wrong = re.sub(r".*proxy_set_header Host .*\n", "", wrong)
    machine.write(site, wrong)
    machine.sh(f"chmod 600 {socket}; chmod 700 /srv/{name}; sysctl -qw net.core.somaxconn=128")
    found = asked(service)
    machine.sh("sysctl -qw net.core.somaxconn=4096")
    assert_named(
        found,
        {
            "nginx.body": "is 1m for .* limits.body 1g",
            "nginx.timeouts": "proxy_read_timeout is 5s",
            "nginx.headers": "does not set host for",
            "nginx.permission": f"www-data may not connect to {socket}",
            "nginx.files": "www-data may not read",
            "socket.backlog": "somaxconn is 128",
            "files.drift": re.escape(site),
        },
    )
    # Removed under the socket unit, a site that leads elsewhere, and one of the same name.
    machine.write(site, generated.replace(f"unix:{socket}", "unix:/run/else.sock"))
    machine.write(
        "/etc/nginx/conf.d/twin.conf", f"server {{ listen 127.0.0.1:{service.port}; }}\n"
    )
    machine.sh(f"rm {socket}; rm -r /srv/{name}; systemctl disable -q {name}.socket")
    found = asked(service)
    machine.sh(f"rm /etc/nginx/conf.d/twin.conf; systemctl restart {name}.socket")
    assert_named(
        found,
        {
            "nginx.site": "passes requests to /run/else.sock",
            "nginx.works": "conflicting server name",
            "nginx.files": "no directory /srv",
            "socket.path": f"{socket} is gone",
            "socket.enabled": "enabled",
            "files.drift": re.escape(site),
        },
    )
    # nginx with a mistake, and down; the address taken by somebody else.
    machine.write(site, "mistake\n")
    machine.sh(f"systemctl stop nginx {name}.socket {name}.service; mkdir /srv/{name}")
    thief = machine.spawn(
        "python3", "-m", "http.server", "--bind", "127.0.0.1", f"{service.port + 1}"
    )
    try:
        wait_until(lambda: service.get(service.direct, check=False), "the thief")
        found = asked(service)
    finally:
        thief.kill()
        thief.wait()
        machine.write(site, generated)
        machine.sh("systemctl start nginx")
    assert_named(
        found,
        {
            "nginx.works": "refuses its configuration.*does not run",
            "socket.active": "is inactive",
            "socket.enabled": "enabled",
            "socket.taken": r"127.0.0.1:\d+ is taken by python3 \(pid \d+\)",
            "files.drift": re.escape(site),
        },
    )


def test_processes_and_journal(running: Service) -> None:
    service, machine = running, running.machine
    name = service.name
    group = "/sys/fs/cgroup" + service.property("ControlGroup")
    package = "/usr/lib/python3/dist-packages/sockd"
    board = machine.sh(f"ls {package}/board.*.so")
    noise = "[Service]\nLogRateLimitBurst=50\n"
    # A worker that dies leaves a child, which the master adopts.
    service.get(service.direct + "child")
    parent = machine.sh("ps -o ppid= -C sleep").split()[0]
    # Somebody left over; a package upgraded, a configuration changed; a reload that failed.
    stray = machine.spawn("sh", "-c", f"echo $$ > {group}/cgroup.procs; exec sleep 2000")
    machine.sh(
        f"kill -KILL {parent};"
        f"cp -a {board} /root/board.so; cp -a {board} {board}.new; mv {board}.new {board};"
        f"echo '# more' >> /etc/sockd/{name}.toml; touch -d '+1 hour' /etc/sockd/{name}.toml"
    )
    service.write("raise RuntimeError('no database')\n")
    assert service.machine.run("sockd", "reload", name, check=False).returncode == 1
    service.write(APP)
    wait_until(lambda: len(ready(service)) == 2, "another worker")
    found = asked(service)
    expected = {
        "process.left": r"sleep \(pid \d+\)",
        "process.adopted": r"sleep \(pid \d+\)",
        "version.replaced": "have been replaced",
        "files.unread": "has changed since generation 1",
        "past.reload": "no database",
        "past.crashes": "SIGKILL",
        "past.boots": "no database|generation 2",
    }
    assert_named(found, expected)
    stray.kill()
    stray.wait()
    # Directories that are not the service's; the environment of another sockd; journald drops.
    drop_in(service, "service", noise)
    machine.sh(
        f"touch -d '-1 hour' /etc/sockd/{name}.toml; systemctl daemon-reload;"
        f"systemctl restart {name}.service; pkill -x sleep || true"
    )
    service.get(service.direct + "noise")
    machine.sh(
        f"chown nobody /var/lib/private/{name}; chmod 500 /run/private/sockd/{name} || true;"
        f"mkdir -p /srv/{name}/venv/lib/python3.9/site-packages/sockd-9.9.dist-info"
    )
    machine.write(
        f"/etc/sockd/{name}.toml.d/x.toml", f'app.venv = "/srv/{name}/venv"\nworkers = 99\n'
    )
    wait_until(lambda: "Suppressed" in machine.journal("-u", "systemd-journald"), "journald", 60)
    found = asked(service)
    print(named(found))
    master = service.property("MainPID")
    machine.sh(f"rm -r /etc/sockd/{name}.toml.d; kill -STOP {master}")
    stopped = asked(service)
    machine.sh(f"kill -CONT {master}")
    print(named(stopped))


def ready(service: Service) -> list[Any]:
    return [one for one in service.status()["workers"] if one["state"] == "ready"]
