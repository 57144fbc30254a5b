"""The commands as an operator types them, with real masters and real applications."""

import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import open_to_all

ROOT = Path(__file__).parents[1]
ME = pwd.getpwuid(os.geteuid()).pw_name
DEADLINE = 60.0  # seconds, for what takes less than one

APP = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"first"]
"""


# As if installed by a package: units may not name a program below /tmp, where a checkout may be.
PACKAGED = """import sys
sys.argv[0] = sys.executable = "/usr/bin/python3"
from sockd.cli import main
sys.exit(main())
"""


def sockd(
    tmp_path: Path, *words: str, packaged: bool = False, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(["-c", PACKAGED] if packaged else ["-m", "sockd"]), *words],
        env=environment(tmp_path, **more),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    forbidden = ("RUNTIME_DIRECTORY", "MAINPID", "NOTIFY_SOCKET", "NO_COLOR")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in forbidden and not name.startswith(("SOCKD_", "LISTEN_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path), **more}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """shop.toml and its application, found by sockd() as the only service."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/hello.py").write_text(APP)
    path = tmp_path / "shop.toml"
    path.write_text(
        'bind = ["127.0.0.1:0"]\nworkers = 1\n'
        '[app]\ntarget = "hello:app"\ndirectory = "code"\n[timeouts]\nboot = "20s"\n'
    )
    return path


Serve = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    running: list[subprocess.Popen[str]] = []

    def start(*words: str, name: str = "shop", **more: str) -> subprocess.Popen[str]:
        directory = tmp_path / "sockd" / name
        master = subprocess.Popen(
            [sys.executable, "-m", "sockd", "serve", "--runtime-dir", str(directory), *words],
            env=environment(tmp_path, **more),
            cwd=tmp_path / "code",
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(master)
        deadline = time.monotonic() + DEADLINE
        while True:
            done = sockd(tmp_path, "status", name, "--json")
            if done.returncode == 0 and json.loads(done.stdout)["state"] == "serving":
                return master
            assert master.poll() is None, master.communicate()[1]
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(0.05)

    yield start
    for master in running:
        if master.poll() is None:
            master.send_signal(signal.SIGINT)
        master.communicate(timeout=DEADLINE)


def status(tmp_path: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads(sockd(tmp_path, "status", "--json").stdout)
    return document


def answer(tmp_path: Path) -> bytes:
    listeners = status(tmp_path)["listeners"]
    assert isinstance(listeners, list)
    with urllib.request.urlopen(f"http://{listeners[0]['address']}/", timeout=DEADLINE) as got:
        content: bytes = got.read()
    return content


def test_a_service_from_start_to_stop(tmp_path: Path, project: Path, serve: Serve) -> None:
    master = serve("--config", str(project))
    assert answer(tmp_path) == b"first"
    assert status(tmp_path)["config"] == str(project)

    (tmp_path / "code/hello.py").write_text(APP.replace("first", "other"))
    done = sockd(tmp_path, "reload", MAINPID=str(master.pid))
    assert (done.returncode, done.stderr) == (0, "sockd: reloaded: generation 2 serves\n")
    assert answer(tmp_path) == b"other"

    (tmp_path / "code/hello.py").write_text("def broken():\n    1 / 0\n\nbroken()\n")
    done = sockd(tmp_path, "reload")
    assert done.returncode == 1
    assert "reload failed, the old code serves on: " in done.stderr
    assert 'hello.py", line 2, in broken' in done.stderr
    assert "sockd/" not in done.stderr
    assert answer(tmp_path) == b"other"

    done = sockd(tmp_path, "workers", "shop", "+1")
    assert done.stderr == "sockd: 2 workers, until the next reload\n"
    assert sockd(tmp_path, "workers", "-1").returncode == 0
    for wrong in ("1", "+0", "+x", "+9999"):
        assert sockd(tmp_path, "workers", wrong).returncode == 2

    project.write_text(project.read_text() + "drian = 5\n")
    done = sockd(tmp_path, "reload")
    assert done.returncode == 1
    assert f"{project}:8: unknown key timeouts.drian; did you mean timeouts.drain?" in done.stderr
    assert answer(tmp_path) == b"other"

    screen = sockd(tmp_path, "status").stdout
    assert re.search(r"^● shop: serving, generation 2, up ", screen)
    assert re.search(r"^  reloads +1 ok, 2 failed$", screen, re.MULTILINE)
    assert re.search(r"^  2\.1 +\d+  ready ", screen, re.MULTILINE)

    done = sockd(tmp_path, "stop")
    assert (done.returncode, done.stderr) == (0, "sockd: stopped shop\n")
    assert master.wait(DEADLINE) == 0
    assert sockd(tmp_path, "stop").returncode == 69


def test_serve_without_configuration(tmp_path: Path, project: Path, serve: Serve) -> None:
    serve("hello:app", "--bind", "127.0.0.1:0", "--workers", "1", name="app")
    assert answer(tmp_path) == b"first"
    document = status(tmp_path)
    assert (document["name"], document["config"]) == ("app", None)


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["serve", "--config", "/nowhere/shop.toml"], 78, "/nowhere/shop.toml does not exist; "),
        (["serve", "hello"], 78, "/etc/sockd/hello.toml does not exist; create it"),
        (["check", "hello"], 78, "give the application, module:attribute, as for units that"),
        (["serve", "a:b", "--dir", ""], 2, "argument --dir: expected a value, not an empty one"),
        (["serve", "a:b", "--venv="], 2, "argument --venv: expected a value"),
        (["serve", "a:b", "--workers="], 2, "argument --workers: expected a value"),
        (["serve", "a:b", "--bind="], 2, "argument --bind: expected a value"),
        (["serve", "--config="], 2, "argument --config: expected a value"),
        (["serve", ""], 2, "argument NAME | APP: expected a value"),
        (["status", ""], 2, "argument NAME: expected a value"),
        (["serve", "a:b", "--bind", "/\udcff.sock"], 78, "--bind: bind: expected text in UTF-8"),
        (["serve", "a:b", "--set", "app=5"], 78, "--set: app is a table; its settings are app.ta"),
        (["generate-units", "x", "a:b", "--set", "unit.user=no such"], 78, "--set: unit.user: ex"),
        (["serve", "a:b", "c:d"], 2, "expected one NAME and one APP"),
        (["check", "a:b", "--workers", "2", "c:d"], 2, "expected one NAME and one APP"),
        (["check", "a:b", "--nosuch"], 2, "unrecognized arguments: --nosuch"),
        (["status", "a", "b"], 2, "unrecognized arguments: b"),
        (["serve", "a:b", "--set", "x"], 2, "argument --set: expected KEY=VALUE"),
        (["serve", "a:b", "--set", "x=1"], 78, "--set: unknown key x"),
        (["serve", "a:b", "--workers", "no"], 78, '--workers: workers: expected "auto" or a who'),
        (["serve", "a:b", "--bind", "127.0.0.1:0", "--dir", "/nowhere"], 78, "/nowhere"),
        (["serve", "nosuch:app", "--bind", "127.0.0.1:0"], 1, "module nosuch not found"),
        ([], 2, "required: COMMAND"),
        (["frobnicate"], 2, "invalid choice: 'frobnicate'"),
        (["status", "--jso"], 2, "unrecognized arguments: --jso"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], code: int, expected: str) -> None:
    done = sockd(tmp_path, *words, RUNTIME_DIRECTORY=str(tmp_path))
    assert expected in done.stderr
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr


def test_help_has_examples(tmp_path: Path) -> None:
    top = sockd(tmp_path, "--help").stdout
    commands = re.findall(r"^    ([a-z-]+)", top, re.MULTILINE)
    assert set(commands) == {
        *(
            "serve",
            "check",
            "doctor",
            "init",
            "generate-units",
            "exec",
            "reload",
            "upgrade",
            "stop",
            "status",
            "top",
            "stacks",
            "metrics",
            "workers",
        )
    }
    for command in commands:
        done = sockd(tmp_path, command, "--help")
        assert done.returncode == 0
        assert re.search(rf"examples:\n  sockd {command}", done.stdout)
        bind = {"generate-units": "/run/sockd-NAME.sock"}.get(command, "127.0.0.1:8000")
        assert "--bind" not in done.stdout or f"default {bind})" in " ".join(done.stdout.split())


def test_check_of_a_good_service(tmp_path: Path, project: Path) -> None:
    (tmp_path / "app.env").write_text("A=1\n")
    project.write_text(project.read_text().replace("[app]\n", '[app]\nenv_file = "app.env"\n'))
    done = sockd(tmp_path, "check", "--config", str(project), SOCKD_UNIT_USER=ME)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.sub(r"\d\.\d\d s", "TIME", done.stdout).splitlines() == [
        f"ok      configuration {project}",
        f"ok      app.directory {tmp_path}/code",
        f"ok      app.env_file {tmp_path}/app.env",
        "ok      application hello:app, imported in TIME",
        "ok      address 127.0.0.1:0 is free",
    ]


@pytest.mark.parametrize(
    ("code", "expected", "detail"),
    [
        ("import os\nos.kill(os.getpid(), 35)\n", "imported it was killed by signal 35", ""),
        (
            "import os, time\nos.closerange(3, 1024)\ntime.sleep(3600)\n",
            "closed sockd's descriptors and did not end",
            "",
        ),
        ("1 / 0\n", "hello cannot be imported: ZeroDivisionError", 'hello.py", line 1, in <mod'),
        ("app = 5\n", "hello:app is an int, not a callable application", ""),
        ("apq = print\n", "module hello has no attribute app; did you mean apq?", ""),
        ("import os\nos._exit(3)\n", "the process that imported it exited with status 3", ""),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
            "the process that imported it was killed by SIGKILL",
            "",
        ),
        ("import time\ntime.sleep(3600)\n", "not done after 2 s", 'hello.py", line 2 in <mod'),
    ],
)
def test_check_of_a_bad_application(
    tmp_path: Path, project: Path, code: str, expected: str, detail: str
) -> None:
    (tmp_path / "code/hello.py").write_text(code)
    project.write_text(project.read_text().replace('"20s"', '"2s"'))
    done = sockd(tmp_path, "check", "--config", str(project), SOCKD_UNIT_USER=ME)
    assert done.returncode == 1
    (problem,) = (line for line in done.stdout.splitlines() if line.startswith("problem"))
    assert problem.startswith(f"problem {project}:4: app.target: ")
    assert expected in problem
    assert detail in done.stderr
    if "not done" not in expected:  # there the stacks are whole
        assert "sockd/" not in done.stderr


def test_check_of_bad_surroundings(tmp_path: Path, project: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    project.write_text(
        f'bind = ["{address}", "{tmp_path}/nowhere/x.sock"]\ntimeouts.keepalive = "5s"\n'
        '[app]\ntarget = "hello:app"\ndirectory = "missing"\nvenv = "venv"\nenv_file = "env"\n'
    )
    with taken:
        done = sockd(tmp_path, "check", "--config", str(project), SOCKD_UNIT_USER=ME)
    assert (done.returncode, done.stderr) == (78, "")
    words = [line.split(None, 1) for line in done.stdout.splitlines()]
    assert [word for word, _ in words] == ["ok", "note", *["problem"] * 5]
    expected = [
        f"configuration {project}",
        f"{project}:2: timeouts.keepalive is 5 s",
        f"{project}:5: app.directory: {tmp_path}/missing is no directory",
        f"{project}:6: app.venv: {tmp_path}/venv/bin/python is not there",
        f"{project}:7: app.env_file: cannot read {tmp_path}/env: No such file",
        f"{project}:1: bind: cannot listen on {address}: address in use",
        f"{project}:1: bind: cannot listen on {tmp_path}/nowhere/x.sock: directory ",
    ]
    for (_, text), start in zip(words, expected, strict=True):
        assert text.startswith(start)


def test_check_knows_what_the_service_itself_holds(
    tmp_path: Path, project: Path, serve: Serve
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    project.write_text(project.read_text().replace("127.0.0.1:0", address))
    serve("--config", str(project))
    done = sockd(tmp_path, "check", "--config", str(project), SOCKD_UNIT_USER=ME)
    assert done.returncode == 0, done.stdout
    assert f"ok      address {address}, where shop listens\n" in done.stdout


def test_check_leaves_nothing_running(tmp_path: Path, project: Path) -> None:
    (tmp_path / "code/hello.py").write_text(
        "import os, subprocess\n"
        "child = subprocess.Popen(['sleep', '3600'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n" + APP
    )
    assert sockd(tmp_path, "check", "--config", str(project), SOCKD_UNIT_USER=ME).returncode == 0
    deadline = time.monotonic() + DEADLINE
    for pid in (tmp_path / "pids").read_text().split():
        while Path("/proc", pid).exists() and "Z" not in state_of(pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def public(tmp_path: Path, project: Path) -> Path:
    """The project where another user finds it."""
    open_to_all(tmp_path)
    (tmp_path / "code").chmod(0o755)
    return project


@pytest.fixture
def reachable(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """sockd() of this checkout at a place where another user can execute it: homes are closed to
    others. The tests have their mounts to themselves (conftest)."""
    place = Path(tempfile.mkdtemp(dir="/run/sockd"))
    place.chmod(0o755)
    subprocess.run(["mount", "--bind", str(ROOT), str(place)], check=True)
    python = sys.executable.replace(str(ROOT), str(place))

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-m", "sockd", *words],
            env=environment(tmp_path, **more) | {"PYTHONPATH": str(place)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    yield run
    subprocess.run(["umount", "--lazy", str(place)], check=True)
    place.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
class TestCheckByRoot:
    @pytest.mark.parametrize(
        ("user", "whom"), [("", "uid 65534, as unit.user is empty"), ("daemon", "daemon")]
    )
    def test_imports_as_the_service_would(
        self,
        tmp_path: Path,
        public: Path,
        reachable: Callable[..., subprocess.CompletedProcess[str]],
        user: str,
        whom: str,
    ) -> None:
        (tmp_path / "code").chmod(0o777)
        (tmp_path / "code/hello.py").write_text("open('made', 'w')\n" + APP)
        done = reachable("check", "--config", str(public), SOCKD_UNIT_USER=user)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert re.search(rf"^ok +application hello:app, .* s as {whom}$", done.stdout, re.M)
        uid = pwd.getpwnam(user).pw_uid if user else 65534
        assert (tmp_path / "code/made").stat().st_uid == uid

    @pytest.mark.parametrize("user", ["", "daemon"])
    def test_there_is_a_state_directory(
        self,
        tmp_path: Path,
        public: Path,
        reachable: Callable[..., subprocess.CompletedProcess[str]],
        user: str,
    ) -> None:
        (tmp_path / "code/hello.py").write_text(
            "import os\n"
            "made = os.environ['STATE_DIRECTORY'] + '/made'\n"
            "open(made, 'x').close()\n"
            "print(made)\n" + APP
        )
        done = reachable("check", "--config", str(public), SOCKD_UNIT_USER=user)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert not Path(done.stdout.partition("\n")[0]).parent.exists()

    @pytest.mark.parametrize("closed", [".", "code"])
    def test_a_directory_that_is_roots_alone(
        self, tmp_path: Path, public: Path, closed: str
    ) -> None:
        (tmp_path / closed).chmod(0o700)
        done = sockd(tmp_path, "check", "--config", str(public))
        assert done.returncode == 78
        place = f"{public}:5: app.directory: no permission to enter {(tmp_path / closed)}"
        assert f"problem {place} as uid 65534" in done.stdout

    def test_an_env_file_that_is_roots_alone(self, tmp_path: Path, public: Path) -> None:
        public.write_text(public.read_text().replace("[app]\n", '[app]\nenv_file = "env"\n'))
        (tmp_path / "env").write_text("A=1\n")
        (tmp_path / "env").chmod(0o600)
        done = sockd(tmp_path, "check", "--config", str(public))
        assert done.returncode == 78
        assert f"app.env_file: cannot read {tmp_path}/env: Permission denied" in done.stdout


def test_check_of_unknown_accounts(tmp_path: Path, project: Path) -> None:
    accounts = {"SOCKD_UNIT_USER": "nosuch", "SOCKD_UNIT_SOCKET_GROUP": "nosuch2"}
    done = sockd(tmp_path, "check", "--config", str(project), **accounts)
    assert done.returncode == 78
    assert "problem SOCKD_UNIT_USER: unit.user: this machine has no user nosuch\n" in done.stdout
    assert "unit.socket_group: this machine has no group nosuch2\n" in done.stdout


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.write_bytes(b"A=1\nB=x\0y\n"), "env:2: a variable cannot hold a NUL"),
        (os.mkfifo, "env is no regular file"),
        (lambda path: path.mkdir(), "env is no regular file"),
        (lambda path: path.write_bytes(b"A=\xff\n"), "env: not UTF-8"),
    ],
    ids=["nul", "fifo", "directory", "bytes"],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_an_env_file_that_is_none(
    tmp_path: Path, project: Path, command: str, make: Callable[[Path], object], expected: str
) -> None:
    make(tmp_path / "env")
    project.write_text(project.read_text().replace("[app]\n", '[app]\nenv_file = "env"\n'))
    done = sockd(tmp_path, command, "--config", str(project), SOCKD_UNIT_USER=ME)
    assert done.returncode == 78
    assert expected in done.stdout + done.stderr


def test_check_binds_all_addresses_at_once(tmp_path: Path, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = project.read_text().replace("127.0.0.1:0", f'0.0.0.0:{port}", "127.0.0.1:{port}')
    project.write_text(text)
    expected = (
        f"cannot listen on 127.0.0.1:{port}: 0.0.0.0:{port}, which is also configured, has that "
        "place already"
    )
    done = sockd(tmp_path, "check", "--config", str(project), SOCKD_UNIT_USER=ME)
    assert done.returncode == 1
    assert f"ok      address 0.0.0.0:{port} is free\n" in done.stdout
    assert expected in done.stdout
    done = sockd(tmp_path, "serve", "--config", str(project))
    assert (done.returncode, expected in done.stderr) == (1, True)


def state_of(pid: str) -> str:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_unexpected_failure_asks_for_a_report(tmp_path: Path) -> None:
    path = tmp_path / "sockd/shop/control.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(DEADLINE)
        command = subprocess.Popen(
            [sys.executable, "-m", "sockd", "status"],
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2):  # the first only looks whether anybody listens
            connection, _ = listener.accept()
            with connection:
                if connection.recv(65536):
                    # A document of another world, which status cannot show.
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        _, errors = command.communicate(timeout=DEADLINE)
    assert command.returncode == 70
    assert "Traceback" in errors
    assert "please report it with the traceback above" in errors


def test_generate_units(tmp_path: Path, project: Path) -> None:
    # Below /tmp the service would not see it, so what units name lies elsewhere.
    words = [
        "generate-units",
        "shop",
        "hello:app",
        "--dir",
        "/srv/shop",
        "--bind",
        "/run/shop.sock",
    ]
    packaged = partial(sockd, packaged=True)
    shown = packaged(tmp_path, *words)
    assert (shown.returncode, shown.stderr) == (0, "")
    titles = re.findall(r"^# ==> (.*) <==$", shown.stdout, re.MULTILINE)
    assert titles == ["shop.service", "shop.socket", "nginx/shop.conf"]
    output = tmp_path / "out"
    done = packaged(tmp_path, *words, "--output", str(output))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("created") == 3
    for title in titles:
        assert (output / title).read_text() in shown.stdout
    (output / "shop.service").write_text("[Service]\nExecStart=/bin/true\n")
    done = packaged(tmp_path, *words, "--output", str(output))
    assert done.returncode == 1
    assert f"not generated by sockd: {output}/shop.service; nothing was changed" in done.stderr
    assert packaged(tmp_path, *words, "--output", str(output), "--force").returncode == 0
    assert (output / "shop.service").read_text() in shown.stdout
