"""`sockd doctor`: each thing is broken for real, and named by the check that is for it.

Breakages that do not hide one another are made together, so that the doctor is asked once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.lab.service import Service, wait_until

APP = """
import subprocess, sys

def app(environ, start_response):
    if environ["PATH_INFO"] == "/child":
        subprocess.Popen(["sleep", "1000"])
    if environ["PATH_INFO"] == "/noise":
        for _ in range(3000):
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
    await_workers(service)
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
                if name != "RestartSec"
            },
            "unit.RestartSec": "60s",
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
        "/etc/nginx/conf.d/twin.conf",
        f"server {{ listen 127.0.0.1:{service.port}; server_name _; }}\n",
    )
    machine.sh(f"rm {socket}; rm -r /srv/{name}; systemctl disable -q {name}.socket")
    found = asked(service)
    machine.run("rm", "/etc/nginx/conf.d/twin.conf")
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
    (board,) = machine.sh("ls /usr/lib/python3/dist-packages/sockd/board.*.so").split()
    # A worker that dies leaves a child, which the master adopts; somebody else is left over; a
    # package is upgraded; the configuration changed; a reload fails.
    service.get(service.direct + "child")
    parent = machine.sh("ps -o ppid= -C sleep").split()[0]
    stray = machine.spawn("sh", "-c", f"echo $$ > {group}/cgroup.procs; exec sleep 2000")
    machine.sh(
        f"kill -KILL {parent}; cp -a {board} {board}.new; mv {board}.new {board};"
        f"touch -d '+1 hour' /etc/sockd/{name}.toml"
    )
    service.write("raise RuntimeError('no database')\n")
    assert machine.run("sockd", "reload", name, check=False).returncode == 1
    service.write(APP)
    await_workers(service)
    found = asked(service)
    stray.kill()
    stray.wait()
    past = {"past.crashes": "died.* SIGKILL", "past.boots": "generation 2 failed.*no database"}
    expected = {
        "process.left": r"sleep \(pid \d+\)",
        "process.adopted": r"sleep \(pid \d+\)",
        "version.replaced": "have been replaced",
        "files.unread": "has changed since generation 1",
        "past.reload": "no database",
    }
    assert_named(found, past | expected)
    # Directories that are not the service's; a venv with another sockd; journald that drops; no
    # watchdog; too many workers.
    drop_in(
        service,
        "service",
        "[Service]\nLogRateLimitIntervalSec=1s\nLogRateLimitBurst=50\nWatchdogSec=0\n",
    )
    venv = f"/srv/{name}/venv"
    machine.write(f"{venv}/lib/python3.9/site-packages/sockd-9.9.dist-info/METADATA", "")
    machine.sh(
        f"touch -d '-1 hour' /etc/sockd/{name}.toml; systemctl daemon-reload;"
        f"systemctl restart {name}.service;"
        f"chown 4321 /var/lib/private/{name}; chmod 500 /run/sockd/{name}/."
    )
    wait_until(lambda: suppressed(service), "journald to say what it dropped", 120)
    await_workers(service)
    more = f'app.venv = "{venv}"\nworkers = 99\n'
    machine.write(f"/etc/sockd/{name}.toml.d/more.toml", more)
    machine.sh(f"touch -d '+1 hour' /etc/sockd/{name}.toml.d/more.toml")
    found = asked(service)
    wrong = {
        "unit.WatchdogSec": "WatchdogSec=0 .*wrong.conf",
        "unit.LogRateLimitBurst": "=50",
        "files.owned": f"/run/sockd/{name} has mode 0500; /var/lib/{name} belongs to uid 4321",
        "past.dropped": f"Suppressed .* {name}.service",
    }
    expected = {
        "version.same": "app.venv has sockd 9.9",
        "files.drift": f"{name}.service",
        "files.unread": "has changed since generation 1",
    }
    assert_named(found, past | wrong | expected)
    # A configuration that cannot be read, and a master that does not answer.
    master = service.property("MainPID")
    machine.write(f"/etc/sockd/{name}.toml.d/more.toml", "workers = many\n")
    machine.sh(f"kill -STOP {master}")
    found = asked(service)
    machine.sh(f"kill -CONT {master}; rm -r /etc/sockd/{name}.toml.d")
    texts = named(found)
    assert f"/etc/sockd/{name}.toml.d/more.toml:1" in texts["files.configuration"]
    assert f"pid {master}) does not answer" in texts["process.answers"]


def test_without_a_way_to_serve(running: Service) -> None:
    """Workers that are too many, or die at once; a master that hangs; a boot that fails."""
    service, machine = running, running.machine
    name = service.name
    drop_in(service, "service", "[Service]\nWatchdogSec=6s\nRestart=no\n")
    machine.sh(
        f"echo 'workers = 20' > /etc/sockd/more; mkdir /etc/sockd/{name}.toml.d;"
        f"mv /etc/sockd/more /etc/sockd/{name}.toml.d/more.toml;"
        f"systemctl daemon-reload; systemctl restart {name}.service"
    )
    assert re.search("^20 workers for", named(asked(service))["room.processors"])
    # Boots that fail, one after the other, and wait.
    service.write("1 / 0\n")
    workers = " ".join(str(one["pid"]) for one in service.status()["workers"][:3])
    machine.sh(f"kill -KILL {workers}; kill -STOP {service.property('MainPID')}")
    wait_until(lambda: service.property("ActiveState") == "failed", "the watchdog", 90)
    service.systemctl("stop", "socket")
    found = named(asked(service))
    assert "has failed (watchdog)" in found["unit.state"]
    assert "Watchdog timeout" in found["past.watchdog"]
    assert re.search(r"Restart=no .*wrong.conf", found["unit.Restart"])
    assert "is inactive" in found["socket.active"]


BY_HAND = """
[Unit]
Description=As people write it
After=network.target

[Service]
User=www-data
Environment=SOCKD_WORKERS=2
ExecStart=/bin/sh -c 'exec /usr/bin/sockd serve {name} --runtime-dir /run/{name}'
ExecReload=/bin/kill -HUP $MAINPID
RuntimeDirectory={name}
Restart=always
"""


def test_a_unit_written_by_hand_and_an_instance(service: Service) -> None:
    machine, name = service.machine, service.name
    service.write(APP)
    text = 'app.target = "site_app:app"\napp.directory = "/srv/{}"\nbind = [":{}"]\n'
    machine.write(f"/etc/sockd/{name}.toml", text.format(name, service.port + 1))
    machine.write(f"/etc/systemd/system/{name}.service", BY_HAND.format(name=name))
    machine.sh(f"systemctl daemon-reload; systemctl start {name}.service")
    wait_until(lambda: service.get(service.direct, check=False) == "here", "the service")
    found = asked(service)
    texts = named(found)
    for directive in ("ExecStart", "ExecReload", "Type", "OOMPolicy", "StartLimitIntervalSec"):
        assert f"unit.{directive}" in texts, texts
    assert "no socket unit" in texts["unit.socket"]
    assert "systemctl edit" in found["unit.OOMPolicy"][0]["mend"]
    assert "not compared" in texts["files.drift"]
    machine.sh(f"systemctl stop {name}.service; rm /etc/systemd/system/{name}.service")
    # The packaged template, as it comes: nothing of its own is wrong.
    machine.write(f"/etc/sockd/{name}.toml", text.format(name, 1).rpartition("bind")[0])
    machine.sh(f"systemctl daemon-reload; systemctl enable --now sockd@{name}.socket")
    try:
        assert set(named(asked(service))) == {"nginx.site"}
        machine.sh(f"curl -s --unix-socket /run/sockd-{name}.sock http://x/")
        await_workers(service)
        assert set(named(asked(service))) == {"nginx.site"}
        stranger = asked(service, user="nobody")
        unknown = {check for check, ones in stranger.items() if ones[0]["word"] == "unknown"}
        assert {"nginx.site", "past.memory", "version.replaced"} <= unknown
        assert stranger["unit.OOMPolicy"][0]["word"] == "ok"
        shown = machine.run("runuser", "-u", "nobody", "--", "sockd", "doctor", name).stdout
        assert "only root" in shown and "not looked at" in shown
    finally:
        machine.sh(
            f"systemctl disable --now sockd@{name}.socket sockd@{name}.service;"
            f"rm -rf /var/lib/private/{name}"
        )


def suppressed(service: Service) -> bool:
    """It says so with the first entry that it takes after the interval."""
    service.get(service.direct + "noise")
    return "Suppressed" in service.machine.journal("-u", "systemd-journald")


def await_workers(service: Service) -> None:
    """Until all are ready: the service serves with the first one."""

    def all_ready() -> bool:
        status = service.status()
        states = [one["state"] for one in status["workers"]]
        return status["state"] == "serving" and states == ["ready"] * status["wanted"]

    wait_until(all_ready, "all workers", 60)
