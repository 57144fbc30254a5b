"""`sockd init --from`: every option of another server becomes a setting, or it is said why not."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import KNOWN_SETTINGS, Config

from sockd import config
from sockd.init import Draft, Request, gunicorn, make
from sockd.init.gunicorn_options import OPTIONS as GUNICORN
from sockd.init.options import Option, table
from sockd.init.uwsgi_options import OPTIONS as UWSGI
from sockd.init.uwsgi_options import ROWS as UWSGI_ROWS
from tests.test_commands import sockd

PAGE = Path(__file__).parents[1] / "docs/migrating.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "shop"
    directory.mkdir()
    (directory / "web.py").write_text("def app(environ, start_response): ...\n")
    return directory


def draft(project: Path, *sources: str) -> Draft:
    return make(Request(project, "shop", sources=sources))


def words(made: Draft, word: str) -> list[str]:
    return [finding.text for finding in made.findings if finding.word == word]


def becomes(project: Path, *sources: str) -> dict[str, Any]:
    values = dict(draft(project, *sources).values)
    assert values.pop("app.directory") == str(project)
    if values["app.target"] == "web:app":
        del values["app.target"]
    return values


# The tables.


def test_the_page_has_the_tables() -> None:
    page = PAGE.read_text()
    for options in (GUNICORN.values(), UWSGI_ROWS):
        assert table(options) in page, f"docs/migrating.md should have\n{table(options)}"


@pytest.mark.parametrize("options", [list(GUNICORN.values()), list(UWSGI_ROWS)])
def test_rows_agree_with_the_settings(options: list[Option]) -> None:
    for option in options:
        assert option.why or option.convert, option.name
        keys = [key for key in option.becomes.split(", ") if key]
        assert set(keys) <= config.ROWS.keys(), option.name
        if keys:
            assert option.convert is not None, option.name


def test_all_settings_of_gunicorn_are_there() -> None:
    """Names, flags, and whether a value follows, as Gunicorn itself has them."""
    assert [setting.name for setting in KNOWN_SETTINGS] == list(GUNICORN)
    for setting in KNOWN_SETTINGS:
        option = GUNICORN[setting.name]
        assert tuple(setting.cli or ()) == option.flags
        takes = {None: "value", "append": "values"}.get(setting.action, "nothing")
        if option.flags:
            assert option.takes == takes, setting.name


def test_all_hooks_of_gunicorn_are_argued() -> None:
    hooks = [s.name for s in KNOWN_SETTINGS if inspect.isfunction(s.default)]
    assert len(hooks) > 15
    assert all(not GUNICORN[name].becomes and GUNICORN[name].why for name in hooks)


@pytest.mark.parametrize(
    "line",
    [
        "-w4 -b :80 -b [::1]:8000 web:app",
        "web:app --workers=4 --bind unix:/run/x.sock --preload",
        "--log-level debug --env A=1 -e B=2 web:app -t 5",
        "-k gthread --threads 8 --max-requests 100 --keep-alive 5 --chdir /srv",
        "--graceful 5 --proxy-protocol web:app --no-sendfile --limit-request-field_size 0",
    ],
)
def test_command_lines_are_read_as_gunicorn_reads_them(line: str) -> None:
    theirs = vars(Config(prog="gunicorn").parser().parse_args(line.split()))
    given = {name: value for name, value in theirs.items() if value is not None and name != "args"}
    ours = {item.name: item.value for item in gunicorn.read_command(f"gunicorn {line}").given}
    app = ours.pop("wsgi_app", None)
    assert theirs["args"] == ([app] if app else [])
    for values in (ours, given):
        values.pop("sendfile", None)  # of --no-sendfile, False there

    def text(value: Any) -> Any:
        return value if isinstance(value, (list, bool)) else str(value)

    assert {name: text(value) for name, value in ours.items()} == {
        name: text(value) for name, value in given.items() if value != []
    }


# Gunicorn.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gunicorn -w 4 web:app", {"workers": 4}),
        ("gunicorn web", {"app.target": "web:application"}),
        ("gunicorn 'web:create()'", {"app.target": "web:create()"}),
        ("gunicorn", {}),
        ("PORT=5 exec gunicorn -b 0.0.0.0:80 -b unix:/run/a.sock web:app",
         {"bind": ["0.0.0.0:80", "/run/a.sock"], "app.env": {"PORT": "5"}}),
        ("gunicorn -b localhost -b [::1] -b unix:///run/b.sock",
         {"bind": ["127.0.0.1:8000", "[::1]:8000", "/run/b.sock"]}),
        ("GUNICORN_CMD_ARGS='--threads 4 -w 2' gunicorn -w 3", {"threads": 4, "workers": 3}),
        ("gunicorn -t 120", {"timeouts.request": "120s"}),
        ("poetry run gunicorn --graceful-timeout 20", {"timeouts.drain": "20s"}),
        ("python3 -m gunicorn --keep-alive 90", {"timeouts.keepalive": "90s"}),
        ("gunicorn --limit-request-line 8190 --limit-request-fields 50 --backlog 64",
         {"limits.request_line": 8190, "limits.headers": 50, "limits.backlog": 64}),
        ("gunicorn --limit-request-field_size 100000",
         {"limits.header_field": 100000, "limits.head": 165536}),
        ("gunicorn -u shop -g www-data --log-level critical --worker-connections 99",
         {"unit.user": "shop", "unit.group": "www-data", "log.level": "err",
          "limits.connections": 99}),
        ("gunicorn --forwarded-allow-ips 10.0.0.1,127.0.0.1",
         {"server.trusted": ["unix", "10.0.0.1", "127.0.0.1"]}),
        ("gunicorn -m 7 --certfile /c.pem --keyfile k.pem",
         {"unit.service": {"UMask": "0007"}, "nginx.certificate": "/c.pem",
          "nginx.certificate_key": ""}),
        ("gunicorn --env A=b=c -e D= --pythonpath /a,/b",
         {"app.env": {"A": "b=c", "D": "", "PYTHONPATH": "/a:/b"}}),
    ],
)  # fmt: skip
def test_a_command_line(project: Path, line: str, expected: dict[str, Any]) -> None:
    if "nginx.certificate_key" in expected:
        expected = {**expected, "nginx.certificate_key": f"{project}/k.pem"}
    assert becomes(project, line) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("-k gevent", "worker_class: gevent: sockd runs no greenlets"),
        ("-k eventlet", "worker_class: eventlet: sockd runs no greenlets"),
        ("-k uvicorn.workers.UvicornWorker", "whether the application is WSGI or ASGI is seen"),
        ("-k my.Worker", "worker_class: my.Worker: sockd has one kind of worker"),
        ("--threads 0", "threads: 0 threads: a worker has from 1 to 512"),
        ("--threads many", "threads: invalid literal for int()"),
        ("-w 0", "workers: a service has one worker at least"),
        ("--keep-alive 5", "keepalive: 5 s: nginx keeps connections for 60 s"),
        ("--limit-request-line 0", "limit_request_line: sockd always has a limit"),
        ("-u root", "user: nothing runs as root"),
        ("--forwarded-allow-ips *", "with * every client could say who it is"),
        ("-b fd://3", "bind: systemd passes the listening sockets"),
        ("--paste x.ini", "paste: a module with `application = loadapp"),
        ("--reload --daemon", "reload: `systemctl reload NAME`; `sockd serve --reload`"),
        ("-c python:conf", "python:conf: give the file to --from"),
        ("'web:create(1)'", "web:create(1): a factory is called without arguments"),
        ("--ca-certs x", "ca_certs: nginx speaks TLS"),
    ],
)
def test_what_is_left_out_has_a_reason(project: Path, flags: str, expected: str) -> None:
    made = draft(project, f"gunicorn {flags}")
    assert set(made.values) == {"app.target", "app.directory"}
    assert any(expected in text for text in words(made, "left")), made.findings


CONF = """
import multiprocessing, os
from common import *

bind = ["unix:/run/shop.sock", f"127.0.0.1:{port}"]
workers = multiprocessing.cpu_count() * 2 + 1
threads = int(os.environ.get("THREADS", 8))
worker_class = "gthread"
wsgi_app = "web:app"
raw_env = ["A=1", "SECRET_KEY=x"]
graceful_timeout = wait()
umask = 0o27
if os.getenv("X"):
    backlog = 5
errorlog = "-"
unknown_name = 5
open("run", "w")

def post_fork(server, worker):
    pass

def on_exit(server):
    pass
"""


def test_a_configuration_file(project: Path) -> None:
    conf = project / "gunicorn.conf.py"
    conf.write_text(CONF)
    (project / "common.py").write_text("port = 8000\nloglevel = 'warning'\n")
    made = draft(project, str(conf))
    assert made.values == {
        "app.target": "web:app",
        "app.directory": str(project),
        "bind": ["/run/shop.sock", "127.0.0.1:8000"],
        "workers": "auto",
        "threads": 8,
        "app.env": {"A": "1", "SECRET_KEY": "x"},
        "log.level": "warning",
        "unit.service": {"UMask": "0027"},
    }
    assert made.origins["threads"] == "threads of gunicorn.conf.py:7"
    left = "\n".join(words(made, "left"))
    assert "graceful_timeout: wait() cannot be told; sockd init runs no code" in left
    assert "backlog: it depends on a condition; sockd init runs no code" in left
    assert "gunicorn.conf.py:19: post_fork: hooks of Gunicorn take its own objects" in left
    assert "gunicorn.conf.py:22: on_exit: hooks of Gunicorn" in left
    assert "errorlog: everything goes to the journal" in left
    assert "unknown_name" not in str(made.findings)
    notes = "\n".join(words(made, "note"))
    assert "gunicorn.conf.py:7: threads depends on the environment" in notes
    assert "SECRET_KEY: everybody may read NAME.toml" in notes
    assert not (project / "run").exists()
    assert not Path("run").exists()


def test_a_command_line_reads_the_files_that_gunicorn_reads(project: Path) -> None:
    (project / "gunicorn.conf.py").write_text("workers = 7\nthreads = 3\n")
    (project / "other.py").write_text("workers = 9\n")
    (project / "venv/bin").mkdir(parents=True)
    (project / "venv/pyvenv.cfg").touch()
    expected = {"workers": 2, "threads": 3, "app.venv": f"{project}/venv"}
    assert becomes(project, f"{project}/venv/bin/gunicorn -w 2 web:app") == expected
    made = draft(project, "gunicorn -c other.py --threads 5")
    assert (made.values["workers"], made.values["threads"]) == (9, 5)


def test_what_is_no_configuration_names_where_it_is_from(tmp_path: Path, project: Path) -> None:
    done = sockd(
        *(tmp_path, "init", "shop", "--dir", str(project), "--output", f"{tmp_path}/shop.toml"),
        *("--from", "gunicorn -b a:b:c"),
    )
    assert (done.returncode, (tmp_path / "shop.toml").exists()) == (78, False)
    assert done.stderr.startswith('sockd: bind of the command line: bind: "[a:b:c]:8000" is no')


def test_chdir_is_where_it_is_looked(tmp_path: Path, project: Path) -> None:
    made = make(Request(tmp_path, "x", sources=["gunicorn --chdir shop -b unix:run/x.sock"]))
    assert made.values["app.directory"] == str(project)
    assert made.values["app.target"] == "web:app"
    assert made.values["bind"] == [f"{tmp_path}/run/x.sock"]


# uWSGI.

INI = """
; a usual one
[uwsgi]
project = shop
base = %d
chdir = %(base)
module = web:app
home = %(base)venv
master = true
processes = 4
threads = 2
socket = /run/%(project).sock
http-socket = :8080
chmod_socket = 660
chown-socket = shop:web
vacuum = true
die-on-term
harakiri = 60
max-requests = 5000
reload-mercy = 20
uid = shop
gid = www-data
env = LANG=C.UTF-8
env = TOKEN=x
limit-post = 1048576
static-map = /static=/srv/shop/static
static-map = /media=/srv/shop/media
listen = 128
gevent = 100
touch-reload = $(HOME)/x
cache2 = name=x
nonsense = 5
buffer-size = 8192
[other]
processes = 9
"""


def test_uwsgi(project: Path) -> None:
    ini = project / "uwsgi.ini"
    ini.write_text(INI)
    (project / "venv").mkdir()
    (project / "venv/pyvenv.cfg").touch()
    made = draft(project, str(ini))
    assert made.values == {
        "bind": ["/run/shop.sock", ":8080"],
        "workers": 4,
        "threads": 2,
        "recycle.max_requests": 5000,
        "app.target": "web:app",
        "app.directory": str(project),
        "app.venv": f"{project}/venv",
        "app.env": {"LANG": "C.UTF-8", "TOKEN": "x"},
        "timeouts.drain": "20s",
        "timeouts.request": "60s",
        "limits.body": 1 << 20,
        "limits.head": 16384,
        "limits.backlog": 128,
        "unit.user": "shop",
        "unit.group": "www-data",
        "unit.socket_mode": "0660",
        "unit.socket_user": "shop",
        "unit.socket_group": "web",
        "nginx.static": {"/static/": "/srv/shop/static/", "/media/": "/srv/shop/media/"},
    }
    left = "\n".join(words(made, "left"))
    assert "uwsgi.ini:29: gevent: no greenlets" in left
    assert "uwsgi.ini:32: nonsense: sockd init does not know this option" in left
    assert "cache2: Redis, memcached" in left
    assert "project" not in left
    notes = "\n".join(words(made, "note"))
    assert "nginx uses `proxy_pass` for `uwsgi_pass`" in notes
    assert "TOKEN: everybody may read NAME.toml" in notes


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("wsgi-file = web.py\ncallable = app", "web:app"),
        ("callable = app\nwsgi-file = {project}/web.py\nchdir = {project}", "web:app"),
        ("module = web\ncallable = create", "web:create"),
        ("wsgi = web", "web:application"),
        ("mount = /=web:app", "web:app"),
        ("processes = %k", "web:app"),
        ("mount = /shop=web:app", "web:app"),
    ],
)
def test_where_uwsgi_has_its_application(project: Path, lines: str, expected: str) -> None:
    ini = project / "x.ini"
    ini.write_text("[uwsgi]\n" + lines.format(project=project) + "\n")
    assert draft(project, str(ini)).values["app.target"] == expected


def test_names_of_uwsgi_are_given_once() -> None:
    names = [name for row in UWSGI_ROWS for name in (row.name, *row.flags)]
    assert sorted(names) == sorted(set(names))
    assert len(names) > 150
    assert UWSGI.keys() == set(names)


def test_the_report(tmp_path: Path, project: Path) -> None:
    done = sockd(
        *(tmp_path, "init", "shop", "--dir", str(project), "--output", f"{tmp_path}/shop.toml"),
        *("--from", "gunicorn -w 4 -k gevent web:app"),
    )
    assert done.returncode == 0
    assert done.stderr.splitlines()[:2] == [
        "mapped the command line: workers → workers = 4",
        "left   the command line: worker_class: gevent: sockd runs no greenlets; threads = 32 "
        "serves as many slow requests at a time, and the application must not be monkey-patched",
    ]
    assert "workers = 4  # workers of the command line\n" in (tmp_path / "shop.toml").read_text()
