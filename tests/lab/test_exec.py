"""`sockd exec`: what a management command runs in is what the application runs in."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from subprocess import PIPE, CompletedProcess

import pytest

from tests.lab.machine import Machine
from tests.lab.service import Service, wait_until

APP = """
import os

def app(environ, start_response):
    with open(os.environ["STATE_DIRECTORY"] + "/who", "w") as file:
        file.write(str(os.getuid()))
    with open("/tmp/of-the-service", "w") as file:
        file.write("here")
    status = open("/proc/self/status").read().splitlines()
    kept = ("CapBnd", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
    lines = [line for line in status if line.partition(":")[0] in kept]
    names = ("GIVEN", "SECRET", "STATE_DIRECTORY")
    lines += sorted(f"{name}={os.environ[name]}" for name in names)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\\n".join([*lines, os.getcwd()]).encode()]
"""

THE_SAME = """
import os
status = open("/proc/self/status").read().splitlines()
kept = ("CapBnd", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
lines = [line for line in status if line.partition(":")[0] in kept]
names = ("GIVEN", "SECRET", "STATE_DIRECTORY")
lines += sorted(f"{name}={os.environ[name]}" for name in names)
print("\\n".join([*lines, os.getcwd()]), end="")
"""

# Short sleeps: Python does not see a signal that comes just before a long one begins.
ASKS = """
import time

try:
    print("waiting", flush=True)
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:
    raise SystemExit(int(input("which? ")))
"""


def execute(
    service: Service, *command: str, check: bool = True, input: str = ""
) -> CompletedProcess[str]:
    return service.machine.run(
        "sockd", "exec", service.name, "--", *command, check=check, input=input
    )


@pytest.fixture
def installed(service: Service) -> Service:
    """Its units are there; neither socket nor service has been started."""
    service.machine.write(f"/srv/{service.name}/env", 'SECRET="tea and cocoa"\n')
    service.configure(
        APP, f'app.env = {{ GIVEN = "50 % of $HOME" }}\napp.env_file = "/srv/{service.name}/env"\n'
    )
    return service


@pytest.fixture
def running(installed: Service) -> Service:
    installed.systemctl("start", "socket")
    installed.get(installed.direct)
    return installed


def units(machine: Machine) -> str:
    return machine.out("systemctl", "list-units", "--all", "--no-legend", "sockd-exec-*")


def test_the_command_sees_what_the_application_sees(running: Service) -> None:
    expected = running.get(running.direct)
    assert execute(running, "python3", "-c", THE_SAME).stdout == expected
    assert execute(running, "cat", "/tmp/of-the-service").stdout == "here"
    assert "SECRET=tea and cocoa" in expected


def test_a_service_that_does_not_run_lends_its_user_and_state(installed: Service) -> None:
    made = 'umask; id -un; touch "$STATE_DIRECTORY/made"; touch /srv/made'
    done = execute(installed, "sh", "-c", made, check=False)
    assert done.returncode == 1
    assert done.stdout == f"0077\nsockd-{installed.name}\n"
    assert "/srv/made" in done.stderr
    assert installed.property("ActiveState") == "inactive"
    installed.systemctl("start", "socket")
    installed.get(installed.direct)
    owners = installed.machine.out(
        "stat", "--format=%u", *(f"/var/lib/{installed.name}/{name}" for name in ("made", "who"))
    ).split()
    assert owners[0] == owners[1] != "0"


def test_a_fixed_user(installed: Service) -> None:
    service = installed
    service.machine.sh(f"chmod 755 /srv/{service.name}; chown games /srv/{service.name}")
    path = f"/etc/sockd/{service.name}.toml"
    service.machine.sh(f"echo 'unit.user = \"games\"' >> {path}")
    service.machine.run("sockd", "generate-units", service.name, "--install")
    done = execute(service, "sh", "-c", 'id -un; umask; touch "$STATE_DIRECTORY/made"')
    assert done.stdout == "games\n0027\n"


def test_the_virtual_environment_goes_first(installed: Service) -> None:
    service = installed
    venv = f"/srv/{service.name}/the venv"
    service.machine.sh(f"python3 -m venv --without-pip {shlex.quote(venv)}")
    service.machine.sh(f"echo 'app.venv = \"{venv}\"' >> /etc/sockd/{service.name}.toml")
    done = execute(service, "python", "-c", "import sys; print(sys.prefix)")
    assert done.stdout == f"{venv}\n"


def test_exit_codes_are_the_commands(installed: Service) -> None:
    codes = [
        execute(installed, "sh", "-c", script, check=False).returncode
        for script in ("exit 0", "exit 9", "kill -TERM $$", "kill -KILL $$", "kill -INT $$")
    ]
    assert codes == [0, 9, 143, 137, 130]
    missing = execute(installed, "nosuch", check=False)
    assert (missing.returncode, missing.stdout) == (127, "")
    assert "sockd: no command nosuch in PATH=" in missing.stderr
    denied = execute(installed, "./site_app.py", check=False)
    assert (denied.returncode, denied.stderr) == (
        126,
        "sockd: ./site_app.py may not be executed\n",
    )


def test_streams_and_arguments_pass_untouched(installed: Service) -> None:
    text = "".join(f"{n} ünï \x1b[1m\t\\$HOME\n" for n in range(20_000))
    done = execute(installed, "sh", "-c", "cat; echo words >&2", input=text)
    assert (done.stdout == text, done.stderr) == (True, "words\n")
    words = [
        "$HOME",
        "${HOME}",
        "$$",
        "%n",
        "%%",
        "a b",
        "x\\y",
        "it's",
        "new\nline",
        '"q"',
        "",
        "--",
    ]
    done = execute(installed, "printf", "%s|", *words)
    assert done.stdout == "|".join(words) + "|"
    # Who is not read any more ends by SIGPIPE, like any program in a shell.
    done = installed.machine.run(
        "bash", "-c", f"sockd exec {installed.name} -- yes | head -1; echo ${{PIPESTATUS[0]}}"
    )
    assert (done.stdout, done.stderr) == ("y\n141\n", "")


def test_a_terminal_is_passed_on(installed: Service) -> None:
    """script(1) is the terminal. Ctrl-C reaches what runs in the foreground."""
    service = installed
    inside = "sh -c 'test -t 0 && test -t 1 && test -t 2 && stty size < /dev/tty'; echo code $?"
    command = f"stty rows 33 cols 99; sockd exec {service.name} -- {inside}"
    assert "33 99\ncode 0" in service.machine.out("script", "-qec", command, "/dev/null")

    service.machine.write(f"/srv/{service.name}/asks.py", ASKS)
    shell = f"sockd exec {service.name} -- python3 asks.py; echo code $?"
    with service.machine.spawn(
        "script", "-qec", shell, "/dev/null", stdin=PIPE, stdout=PIPE
    ) as process:
        shown = ""

        def wait_for(text: str) -> None:
            nonlocal shown
            while text not in shown:
                char = process.stdout.read(1)
                assert char, shown
                shown += char

        def type_in(text: str) -> None:
            process.stdin.write(text)
            process.stdin.flush()

        wait_for("waiting")
        type_in("\x03")
        wait_for("which? ")
        type_in("5\n")
        wait_for("code 5")
        process.stdin.close()
        process.wait(60)
    assert units(service.machine) == ""


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130), ("HUP", 129)])
def test_signals_reach_the_command(running: Service, name: str, code: int) -> None:
    """Also those that come before the command runs; nothing of it is left."""
    machine = running.machine
    marker = f"/var/lib/{running.name}/runs"
    script = f"touch {marker}; sleep 3600"
    for early in (True, False):
        machine.run("rm", "-f", marker)
        with machine.spawn(
            *("sockd", "exec", running.name, "--", "sh", "-c", script), stderr=PIPE
        ) as process:
            pid = wait_until(
                lambda: machine.run(
                    "pgrep", "-f", f"^/usr/bin/python3.*sockd exec {running.name}", check=False
                ).stdout.split(),
                "sockd exec runs",
            )[0]
            if not early:
                wait_until(
                    lambda: machine.run("test", "-e", marker, check=False).returncode == 0,
                    "the command runs",
                )
            machine.run("kill", f"-{name}", pid)
            ended = process.wait(60)
            assert ended != 0 if early else ended == code
    assert units(machine) == ""
    assert machine.run("pgrep", "-x", "sleep", check=False).stdout == ""


def test_nothing_of_the_environment_file_is_told_to_others(installed: Service) -> None:
    machine = installed.machine
    with machine.spawn(
        *("sockd", "exec", installed.name, "--", "sh", "-c", "echo runs; read line"),
        stdin=PIPE,
        stdout=PIPE,
    ) as process:
        assert process.stdout.readline() == "runs\n"
        shown = machine.out("systemctl", "show", "sockd-exec-*")
        process.communicate("\n", 60)
    assert f"in the surroundings of {installed.name}.service" in shown
    assert "cocoa" not in shown


def test_what_the_operator_added_to_the_unit_counts(installed: Service) -> None:
    service = installed
    service.machine.write(
        f"/etc/systemd/system/{service.name}.service.d/more.conf",
        "[Service]\nReadWritePaths=/srv\nBindReadOnlyPaths=/etc:/mnt\nLimitCORE=0\n"
        'Environment="ADDED=say \\"50 %%\\" of $HOME"\nLoadCredential=key:/etc/os-release\n'
        "TemporaryFileSystem=/media:ro\nIPAddressDeny=10.0.0.0/8 ::1\nDeviceAllow=/dev/null rw\n"
        "UnsetEnvironment=LANG\nAmbientCapabilities=\nSupplementaryGroups=games\n",
    )
    service.machine.run("systemctl", "daemon-reload")
    try:
        looks = (
            'echo "$ADDED"; echo "[$LANG]"; head -c 6 "$CREDENTIALS_DIRECTORY/key"; echo;'
            "test -e /mnt/passwd && ! touch /mnt/made 2>&- && echo bound; ulimit -c; id -Gn;"
            "grep -c '^tmpfs /media tmpfs ro' /proc/mounts"
        )
        user = f"sockd-{service.name}"
        assert execute(service, "sh", "-c", looks).stdout.splitlines() == [
            'say "50 %" of $HOME',
            "[]",
            "PRETTY",
            "bound",
            "0",
            f"{user} nogroup",  # games, as PrivateUsers= shows the group of others
            "1",
        ]
        service.machine.sh(
            f"echo LoadCredential=key:/nowhere >> "
            f"/etc/systemd/system/{service.name}.service.d/more.conf; systemctl daemon-reload"
        )
        failed = execute(service, "true", check=False)
        assert failed.returncode == 243
        assert "journalctl -u sockd-exec-" in failed.stderr
    finally:
        service.machine.run("rm", "-r", f"/etc/systemd/system/{service.name}.service.d")


@pytest.fixture
def instance(service: Service) -> Iterator[Service]:
    """sockd@NAME of the package."""
    service.write(APP)
    path = f"/etc/sockd/{service.name}.toml"
    service.machine.write(
        path,
        f'app.target = "site_app:app"\napp.directory = "/srv/{service.name}"\n'
        'app.env = { GIVEN = "1", SECRET = "2" }\n',
    )
    yield service


def test_an_instance_of_the_packaged_unit(instance: Service) -> None:
    done = execute(instance, "sh", "-c", 'id -un; pwd; echo "$STATE_DIRECTORY $GIVEN"')
    name = instance.name
    assert done.stdout == f"sockd-{name}\n/srv/{name}\n/var/lib/{name} 1\n"


def test_who_may_not_and_what_is_not(installed: Service) -> None:
    machine = installed.machine

    def refused(*words: str, user: str = "root") -> tuple[int, str]:
        done = machine.run("runuser", "-u", user, "--", "sockd", "exec", *words, check=False)
        return done.returncode, done.stderr

    code, words = refused(installed.name, "--", "true", user="nobody")
    assert (code, words) == (
        77,
        "sockd: systemd gives only root the surroundings of a service: run this as root, or with "
        "--here as yourself\n",
    )
    # Its sockd@.service could be loaded, and would take over its directory in /var/lib.
    machine.run("mkdir", "-p", "/var/lib/dbus")
    code, words = refused("dbus", "--", "true")
    assert (code, "no unit runs dbus" in words) == (69, True)
    code, words = refused("--set", "app.env.A=1", installed.name, "--", "true")
    assert (code, "need --here" in words or "needs --here" in words) == (2, True)
    done = machine.run("sockd", "exec", "--here", installed.name, "--", "sh", "-c", "id -un; pwd")
    assert done.stdout == f"root\n/srv/{installed.name}\n"


@pytest.mark.parametrize("level", ["strict", "off"])
def test_as_far_shut_in_as_the_service(installed: Service, level: str) -> None:
    service, machine = installed, installed.machine
    machine.sh(f"echo 'unit.hardening = \"{level}\"' >> /etc/sockd/{service.name}.toml")
    machine.run("sockd", "generate-units", service.name, "--install")
    service.systemctl("start", "socket")
    expected = service.get(service.direct)
    assert execute(service, "python3", "-c", THE_SAME).stdout == expected
    connect = f"import socket; socket.create_connection(('127.0.0.1', {service.port}), 60)"
    done = execute(service, "python3", "-c", connect, check=False)
    assert (done.returncode == 0) == (level == "off"), done.stderr
    assert execute(service, "sh", "-c", "touch $STATE_DIRECTORY/made").returncode == 0


ODD = '/srv/{name}/a b/100%n $HOME "q" \\d;#/x'


def test_odd_names_of_files(service: Service) -> None:
    """What systemd, nginx and shells take for syntax, in every path and value."""
    machine, name = service.machine, service.name
    directory = ODD.format(name=name)
    config = f'/etc/sockd/{name} %n $x "y".toml'
    machine.write(f"{directory}/site_app.py", APP)
    machine.write(f"{directory}/env file", "SECRET='tea $HOME %n'\n")
    machine.write(f"{directory}/unit env", "FROM_UNIT=x%n\n")
    machine.write(f"/srv/{name}/a b/100%n/style.css", "")
    machine.write(
        config,
        f"""
bind = ["/run/{name} %n $x.sock", "[::1]:{service.port + 1}"]
app.target = "site_app:app"
app.directory = '{directory}'
app.env_file = '{directory}/env file'
app.env = {{ GIVEN = 'a "b" $HOME %n \\ ☃ ;#' }}
unit.description = '50% "off" $x \\y'
unit.env_files = ['{directory}/unit env']
nginx.listen = ["127.0.0.1:{service.port}"]
nginx.static = {{ "/st at/" = '/srv/{name}/a b/100%n/' }}
""",
    )
    named = (name, "--config", config)
    machine.run("sockd", "check", *named)
    machine.run("sockd", "generate-units", *named, "--install")
    try:
        machine.run("systemctl", "enable", "--now", f"{name}.socket")
        curl = ("curl", "--silent", "--fail", "--globoff", "--max-time", "60")
        answer = machine.out(*curl, f"http://[::1]:{service.port + 1}/")
        assert answer.endswith(directory)
        assert 'GIVEN=a "b" $HOME %n \\ ☃ ;#\nSECRET=tea $HOME %n\n' in answer
        assert machine.out(*curl, service.url) == answer
        assert execute(service, "python3", "-c", THE_SAME).stdout == answer
        assert execute(service, "sh", "-c", "echo $FROM_UNIT").stdout == "x%n\n"
        service.systemctl("reload")
        done = machine.run("sockd", "doctor", name, "--json", check=False)
        assert '"word": "problem"' not in done.stdout, done.stdout
        machine.sh(f"rm '{directory}/unit env'")
        done = machine.run("sockd", "check", *named, check=False)
        assert done.returncode == 78
        assert f"unit.env_files: {directory}/unit env: No such file" in done.stdout
    finally:
        machine.run("sockd", "generate-units", name, "--uninstall")
        machine.run("rm", config)
