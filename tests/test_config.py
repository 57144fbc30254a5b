"""config.load: files, variables and flags in their order, and mistakes where they stand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sockd import config
from sockd.config import load
from sockd.errors import ConfigError, UsageError

GOOD = 'app.target = "shop.wsgi:application"\n'


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mistakes(path: Path | None, **more: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path=path, **{"environ": {}, **more})  # type: ignore[arg-type]
    assert caught.value.exit_code == 78
    return str(caught.value).replace(str(path), "FILE").splitlines()


def test_without_any_file() -> None:
    cfg = load(overrides={"app.target": "a:b"}, environ={})
    assert (cfg.name, cfg.path, cfg.settings.app.target) == ("app", None, "a:b")
    assert cfg.settings.timeouts.keepalive == 75.0
    assert cfg.sources == {"app.target": "APP"}
    assert cfg.source("workers") == "default"


def test_each_source_overrides_the_one_before(tmp_path: Path) -> None:
    path = write(
        tmp_path / "shop.toml",
        'workers = 1\n[app]\ntarget = "a:b"\nenv = { A = "file", B = "file" }\n'
        '[timeouts]\ndrain = "1min"\nboot = 5\n[limits]\nbody = "2MiB"\n',
    )
    write(tmp_path / "shop.toml.d/20.toml", 'workers = 3\n[app.env]\nB = "20"\n')
    write(tmp_path / "shop.toml.d/10.toml", "workers = 2\n[timeouts]\nboot = '6s'\n")
    write(tmp_path / "shop.toml.d/ignored.txt", "nonsense")
    cfg = load(
        path=path,
        environ={"SOCKD_TIMEOUTS_DRAIN": "20s", "SOCKD_LIMITS_BODY": "1KiB", "HOME": "/"},
        overrides={"limits.body": "5", "app.env.A": "flag", "bind": ["/run/x.sock", ":80"]},
    )
    s = cfg.settings
    assert (cfg.name, s.workers, s.timeouts.boot, s.timeouts.drain) == ("shop", 3, 6.0, 20.0)
    assert (s.limits.body, s.bind) == (5, ("/run/x.sock", ":80"))
    assert s.app.env == {"A": "flag", "B": "20"}
    assert cfg.sources == {
        "workers": f"{path}.d/20.toml:1",
        "app.target": f"{path}:3",
        "app.env": "--set",
        "app.env.A": "--set",
        "app.env.B": f"{path}.d/20.toml:3",
        "timeouts.drain": "SOCKD_TIMEOUTS_DRAIN",
        "timeouts.boot": f"{path}.d/10.toml:3",
        "limits.body": "--set",
        "bind": "--bind",
    }


def test_relative_paths_start_at_the_main_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/usr")
    path = write(
        tmp_path / "shop.toml",
        GOOD + 'app.directory = "current"\napp.env_file = "/etc/shop.env"\n',
    )
    write(tmp_path / "shop.toml.d/venv.toml", 'app.venv = "../venv"\n')
    app = load(path=path, environ={}).settings.app
    assert app.directory == f"{tmp_path}/current"
    assert app.venv == f"{tmp_path}/../venv"  # ".." stays: a symlink before it is resolved later
    assert app.env_file == "/etc/shop.env"
    app = load(path=path, environ={}, overrides={"app.directory": "local"}).settings.app
    assert app.directory == "/usr/local"


def test_name_is_looked_up_in_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DIRECTORY", tmp_path)
    write(tmp_path / "shop.toml", GOOD)
    assert load("shop", environ={}).path == tmp_path / "shop.toml"
    assert load("two", tmp_path / "shop.toml", environ={}).name == "two"
    with pytest.raises(ConfigError, match=r"three\.toml does not exist"):
        load("three", environ={})
    cfg = load("three", overrides={"app.target": "a:b"}, environ={})
    assert (cfg.name, cfg.path) == ("three", None)
    assert config.only_name() == "shop"
    write(tmp_path / "four.toml", GOOD)
    with pytest.raises(UsageError, match="name one of them: four, shop"):
        config.only_name()
    with pytest.raises(ConfigError, match="cannot be the name of a service"):
        load("../shop", environ={})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[timeouts]\n\ndrian = '5s'\n",
            "FILE:4: unknown key timeouts.drian; did you mean timeouts.drain?",
        ),
        ("drain = 5\n", "FILE:2: unknown key drain; did you mean timeouts.drain?"),
        ("timeout.body = 5\n", "FILE:2: unknown table [timeout]; did you mean [timeouts]?"),
        ("[[app.envs]]\n", "FILE:2: unknown key app.envs; did you mean app.env?"),
        ("xyzzy = 1\n", "FILE:2: unknown key xyzzy"),
        (
            '"timeouts.drain" = 5\n',
            'FILE:2: unknown key "timeouts.drain"; without the quotes it is timeouts.drain',
        ),
        (f"timeouts.drain = 1{'0' * 5000}\n", "FILE: a number has too many digits"),
        ("timeouts.drain = '25h'\n", "FILE:2: timeouts.drain: expected at most 24h"),
        ("timeouts.drain = inf\n", "FILE:2: timeouts.drain: expected at most 24h"),
        ("timeouts.drain = nan\n", "FILE:2: timeouts.drain: expected a number that is not neg"),
        (f"timeouts.drain = 1{'0' * 400}\n", "FILE:2: timeouts.drain: expected at most 24h"),
        ("unit.watchdog = '2d'\n", "FILE:2: unit.watchdog: expected at most 24h"),
        ("timeouts.keepalive = 0\n", "FILE:2: timeouts.keepalive: expected at least 1ms"),
        ("timeouts.header = 0.0001\n", "FILE:2: timeouts.header: expected at least 1ms"),
        ("timeouts.drain = '٣s'\n", "FILE:2: timeouts.drain: expected a number or text"),
        ("limits.body = '1025TiB'\n", "FILE:2: limits.body: expected at most 1024TiB"),
        ("limits.body = inf\n", "FILE:2: limits.body: expected at most 1024TiB"),
        ("limits.head = '2GiB'\n", "FILE:2: limits.head: expected at most 1GiB"),
        ("limits.header_field = '2GiB'\n", "FILE:2: limits.header_field: expected at most 1GiB"),
        ("limits.request_line = 4294967396\n", "FILE:2: limits.request_line: expected at most 1"),
        ("limits.headers = 1e3\n", "FILE:2: limits.headers: expected a whole number from 0 to 2"),
        ("limits.headers = 2147483648\n", "FILE:2: limits.headers: expected a whole number fr"),
        (f"limits.headers = '{'9' * 5000}'\n", "FILE:2: limits.headers: expected a whole number"),
        ("unit.user = 'no such'\n", "FILE:2: unit.user: expected the name of a user or group"),
        ("unit.socket_group = 'a:b'\n", "FILE:2: unit.socket_group: expected the name of a user"),
        ("limits = 5\n", "FILE:2: limits: expected a table, [limits]"),
        ("[[unit]]\nuser = 'x'\n", "FILE:2: unit: expected a table, [unit]"),
        ("workers = 'many'\n", 'FILE:2: workers: expected "auto" or a whole number'),
        ("workers = 2.5\n", 'FILE:2: workers: expected "auto" or'),
        ("timeouts.drain = '5 parsecs'\n", "FILE:2: timeouts.drain: expected a number or text"),
        ("timeouts.drain = -1\n", "FILE:2: timeouts.drain: expected a number that is not neg"),
        ("log.level = 'loud'\n", 'FILE:2: log.level: expected one of "debug"'),
        ("bind = ['localhost']\n", 'FILE:2: bind: "localhost" is no address; expected "HOST:PO'),
        ("bind = ['::1:80']\n", 'FILE:2: bind: "::1:80" is no address'),
        ("bind = ['[::1]:80', ':70000']\n", 'FILE:2: bind: ":70000" is no address'),
        ("bind = [':80', ':80']\n", "FILE:2: bind: an address is listed twice"),
        ("bind = []\n", "FILE:2: bind: expected at least one address"),
        (f"bind = ['/{'x' * 107}']\n", "FILE:2: bind: /xxx"),
        ("app.target2 = 'x'\n", "FILE:2: unknown key app.target2; did you mean app.target?"),
        ("app.env = 5\n", "FILE:2: app.env: expected a table of strings"),
        ("timeouts.boot = 0\n", "FILE:2: timeouts.boot: expected at least 1ms"),
        ("limits.head = 100\n", "limits.request_line: is larger than limits.head"),
        ("limits.connections = 0\n", "FILE:2: limits.connections: expected more than 0"),
        ("unit.watchdog = '500ms'\n", "FILE:2: unit.watchdog: expected 0 (off) or at least 1s"),
        ("app.env.'A=B' = 'x'\n", "FILE:2: app.env: a variable's name"),
        ("[unit\n", "FILE:2:6: Expected ']'"),
        ("x = \n", "FILE:2:5: Invalid value"),
        ("a = 1\na = 2\n", "FILE:3:6: Cannot overwrite a value"),
        ("a = '''\n\n", "FILE:2: Expected"),
        ("a = " + "[" * 5000 + "]" * 5000, "FILE: nested too deeply"),
    ],
)
def test_a_mistake_is_named_where_it_stands(tmp_path: Path, text: str, expected: str) -> None:
    found = mistakes(write(tmp_path / "shop.toml", GOOD + text))
    assert found[0].startswith(expected), found


@pytest.mark.parametrize("target", ["shop", "shop:", ":app", "shop.wsgi:app(1)", "a b:c", "a:b:c"])
def test_targets_that_are_none(tmp_path: Path, target: str) -> None:
    path = write(tmp_path / "shop.toml", f'[app]\ntarget = "{target}"\n')
    assert mistakes(path) == ["FILE:2: app.target: expected module:attribute or module:factory()"]


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.toml", "wrokers = 3\n[app]\ntarget = 5\n[log]\nlevel = 1\n")
    write(tmp_path / "shop.toml.d/a.toml", "=\n")
    found = mistakes(path, environ={"SOCKD_WORKRES": "1"}, overrides={"limit.body": "1"})
    assert found == [
        "FILE:1: unknown key wrokers; did you mean workers?",
        "FILE:3: app.target: expected a string",
        'FILE:5: log.level: expected one of "debug", "info", "notice", "warning", "err"',
        "FILE.d/a.toml:1:1: Invalid statement",
        "SOCKD_WORKRES: unknown variable; did you mean SOCKD_WORKERS?",
        "--set: unknown key limit.body; did you mean limits.body?",
    ]


def test_no_application(tmp_path: Path) -> None:
    assert "no application: write target" in mistakes(write(tmp_path / "x.toml", ""))[0]
    assert mistakes(None)[0].startswith("no application: give it as module:attribute")


def test_the_application_in_place_of_its_table(tmp_path: Path) -> None:
    found = mistakes(write(tmp_path / "shop.toml", 'app = "a:b"\n'))
    assert found == ["FILE:1: app: expected a table, [app]; the application is app.target"]


def test_secrets_stay_out_of_messages(tmp_path: Path) -> None:
    secret = "hunter2"
    found = mistakes(
        write(
            tmp_path / "shop.toml",
            f"{GOOD}[app.env]\nKEY = '''{secret}\n'''\nLIST = ['{secret}']\n",
        ),
        environ={"SOCKD_APP_ENV": secret, "SOCKD_WORKERS": secret, "SOCKD_PASSWORD": secret},
        overrides={"app.env": secret, "nothing": secret},
    )
    assert found[:2] == [
        "FILE:3: app.env: expected one line of text",
        "FILE:5: app.env: expected a string for LIST",
    ]
    assert len(found) == 7
    assert secret not in "\n".join(found)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "does not exist; create it" in mistakes(tmp_path / "shop.toml")[0]
    assert mistakes(tmp_path) == ["FILE: Is a directory"]
    (tmp_path / "latin.toml").write_bytes(GOOD.encode() + b"unit.description = '\xe9'\n")
    assert mistakes(tmp_path / "latin.toml")[0].startswith("FILE:2: not UTF-8")


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: larger than 4 MiB"):
        load(path=Path("/dev/zero"), name="zero", environ={})


def test_variables_are_unambiguous() -> None:
    assert len(config.VARIABLES) == len(config.ROWS)


def test_values_that_are_fine(tmp_path: Path) -> None:
    text = GOOD + (
        "bind = [':8000', '127.0.0.1:0', '[::1]:80', 'app.example.org:80', '/run/a.sock']\n"
        "app.env = { N = 1, F = 1.5 }\nnginx.static = { '/static/' = '/srv/static/' }\n"
        "timeouts.keepalive = '24h'\nunit.watchdog = 0\nworkers = 'auto'\n"
        "limits.body = '1024TiB'\nlimits.head = '1GiB'\nunit.user = '1000'\n"
    )
    s = load(path=write(tmp_path / "x.toml", text), environ={}).settings
    assert len(s.bind) == 5
    assert s.app.env == {"N": "1", "F": "1.5"}
    assert s.workers == 0
    for target in ("a:b", "a.b.c:d.e", "a:make()", "a:b.make()"):
        assert load(overrides={"app.target": target}, environ={}).settings.app.target == target


def test_unreadable_file(tmp_path: Path) -> None:
    """In a process of its own, which gives up root's right to read everything."""
    path = write(tmp_path / "shop.toml", GOOD)
    path.chmod(0)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    code = f"""if 1:
        import os, sys
        from pathlib import Path
        from sockd.config import load
        from sockd.errors import PermissionDenied
        if os.getuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            load(path=Path({str(path)!r}), environ={{}})
        except PermissionDenied as error:
            sys.exit(f"{{error.exit_code}} {{error}}")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == f"77 {path}: no permission to read this file\n"


def test_the_manual_lists_every_setting() -> None:
    manual = Path(__file__).parents[1].joinpath("docs/configuration.md").read_text()
    table = (
        "| key | kind | default | what | change |\n| --- | --- | --- | --- | --- |\n"
        + "".join(
            f"| `{row.key}` | {row.kind.name.replace('|', 'or')} | `{json.dumps(row.default)}` "
            f"| {row.doc} | {row.change} |\n"
            for row in config.ROWS.values()
        )
    )
    assert manual.endswith(table), f"docs/configuration.md should end with\n{table}"
