"""`sockd init` on projects as their frameworks make them, and on what it cannot decide."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import characters, dictionaries, integers, lists, text

from sockd import config
from sockd.errors import SockdError
from sockd.init import Draft, Request, make
from tests.test_commands import sockd

ME = pwd.getpwuid(os.geteuid()).pw_name


def files(root: Path, **texts: str) -> Path:
    """`pkg__mod` is pkg/mod.py."""
    for name, code in texts.items():
        path = root / (name.replace("__", "/") + ".py")
        if name.endswith("___init"):
            path = root / name.removesuffix("___init").replace("__", "/") / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return root


def draft(directory: Path, *words: str, **more: object) -> Draft:
    return make(Request(directory, *words, **more))  # type: ignore[arg-type]


def said(made: Draft, word: str) -> str:
    return "\n".join(finding.text for finding in made.findings if finding.word == word)


# Projects.


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What django-admin makes."""
    command = [sys.executable, "-m", "django", "startproject", "mysite"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path / "mysite"


def check(tmp_path: Path, path: Path) -> str:
    done = sockd(tmp_path, "check", "--config", str(path), SOCKD_UNIT_USER=ME)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_django_project(tmp_path: Path, site: Path) -> None:
    written = tmp_path / "site.toml"
    done = sockd(tmp_path, "init", "--dir", str(site), "--output", str(written))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"sockd: wrote {written}\n" in done.stderr
    assert f"sockd: next: sockd check --config {written}" in done.stderr
    for note in (
        f"found  Django: {site}/manage.py, settings mysite.settings\n",
        f"note   {site}/mysite/settings.py:26: DEBUG = True shows",
        "SECRET_KEY is the one that startproject wrote",
        "STATIC_ROOT is not set",
        f"database default is {site}/db.sqlite3, where the service may not write",
    ):
        assert note in done.stderr
    loaded = config.load(path=written, environ={}).settings
    assert loaded.app.target == "mysite.wsgi:application"
    assert loaded.app.directory == str(site)
    assert "application mysite.wsgi:application, imported" in check(tmp_path, written)
    assert not list(site.rglob("__pycache__")), "its code was run"


def test_a_django_project_as_it_is_deployed(tmp_path: Path, site: Path) -> None:
    settings = site / "mysite/settings.py"
    base = settings.read_text()
    (site / "mysite/settings").mkdir()
    settings.rename(site / "mysite/settings/base.py")
    (site / "mysite/settings/__init__.py").touch()
    (site / "mysite/settings/development.py").write_text("from .base import *\n")
    (site / "mysite/settings/production.py").write_text(
        "import os\nfrom .base import *\nDEBUG = False\n"
        'ALLOWED_HOSTS = ["shop.example", ".shop.example", "localhost"]\n'
        'STATIC_ROOT = os.path.join(BASE_DIR.parent, "assets")\n'
        'MEDIA_ROOT = BASE_DIR / "media"\nMEDIA_URL = "media/"\n'
        'STATE = Path(os.environ.get("STATE_DIRECTORY", BASE_DIR))\n'
        'DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3",'
        ' "NAME": STATE / "db.sqlite3"}}\nSECRET_KEY = os.environ["SECRET_KEY"]\n'
    )
    (site / "mysite/settings/base.py").write_text(base.replace("parent.parent", "parents[2]"))
    for name in ("manage.py", "mysite/wsgi.py"):
        module = "development" if name == "manage.py" else "production"
        path = site / name
        path.write_text(path.read_text().replace("mysite.settings", f"mysite.settings.{module}"))
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/pyvenv.cfg").write_text("version = 3.11.2\n")
    made = draft(site)
    assert made.values == {
        "app.target": "mysite.wsgi:application",
        "app.directory": str(site),
        "app.venv": str(tmp_path / "venv"),
        "app.env": {"DJANGO_SETTINGS_MODULE": "mysite.settings.production"},
        "nginx.server_name": ["shop.example", ".shop.example"],
        "nginx.static": {"/static/": f"{tmp_path}/assets/"},
    }
    assert said(made, "note").splitlines() == [
        "manage.py uses mysite.settings.development, the server mysite.settings.production: "
        "app.env has the latter for both",
        f"{site}/mysite/settings/production.py:6: nginx can serve uploads once unit.user is set: "
        "adduser --system --group mysite; sockd init --set unit.user=mysite",
    ]
    made = draft(site, settings=[("unit.user", "shop")])
    assert made.values["nginx.media"] == {"/media/": f"{site}/media/"}


def test_django_below_and_twice(tmp_path: Path, site: Path) -> None:
    assert draft(tmp_path).values["app.directory"] == str(site)
    subprocess.run(["cp", "-r", site, tmp_path / "other"], check=True)
    with pytest.raises(SockdError, match=r"several Django projects: .*mysite/manage.py, .*other/"):
        draft(tmp_path)


def test_static_files_that_nginx_cannot_reach(tmp_path: Path, site: Path) -> None:
    with (site / "mysite/settings.py").open("a") as file:
        file.write('import os\nSTATIC_ROOT = os.environ["STATE_DIRECTORY"] + "/static"\n')
    made = draft(site, "shop")
    assert made.values["nginx.static"] == {"/static/": "/var/lib/shop/static/"}
    assert "/var/lib/shop/static/ is closed to nginx while unit.user is empty" in said(
        made, "note"
    )


FLASK_FACTORY = """
from flask import Flask

def create_app(settings=None):
    app = Flask(__name__)

    @app.get("/")
    def index():
        return "hello"

    return app
"""


def test_a_flask_object(tmp_path: Path) -> None:
    code = "import flask\napp = flask.Flask(__name__)\nopen('run', 'w')\n"
    files(tmp_path / "project", app=code)
    written = tmp_path / "x.toml"
    done = sockd(tmp_path, "init", "x", "--dir", f"{tmp_path}/project", "--output", str(written))
    assert f"found  app:app (Flask application, {tmp_path}/project/app.py:2)" in done.stderr
    assert not (tmp_path / "project/run").exists(), "its code was run"
    assert "application app:app, imported" in check(tmp_path, written)


def test_a_flask_factory_in_src(tmp_path: Path) -> None:
    project = tmp_path / "project"
    files(project / "src", shop___init=FLASK_FACTORY, shop__models="class A: pass\n")
    files(project, tests__test_shop="from shop import create_app\napp = create_app()\n")
    (project / "pyproject.toml").write_text('[project]\nname = "My.Shop"\n')
    made = draft(project)
    assert (made.name, made.values) == (
        "My-Shop",
        {"app.target": "shop:create_app()", "app.directory": str(project / "src")},
    )
    (tmp_path / "x.toml").write_text(made.text())
    assert "application shop:create_app(), imported" in check(tmp_path, tmp_path / "x.toml")


def test_src_as_a_package(tmp_path: Path) -> None:
    files(
        tmp_path,
        src__main="from src.web import create_app\napp = create_app()\n",
        src__web=FLASK_FACTORY,
    )
    made = draft(tmp_path, "x")
    assert made.values == {"app.target": "src.main:app", "app.directory": str(tmp_path)}


FASTAPI = "from fastapi import FastAPI\napp = FastAPI(title='x')\n"


def test_fastapi(tmp_path: Path) -> None:
    files(tmp_path, app__main=FASTAPI, app__users="from fastapi import FastAPI\nsub = FastAPI()\n")
    made = draft(tmp_path, "x")
    assert made.values["app.target"] == "app.main:app"
    (tmp_path / "pyproject.toml").write_text('[tool.fastapi]\nentrypoint = "app.users:sub"\n')
    assert draft(tmp_path, "x").values["app.target"] == "app.users:sub"


@pytest.mark.parametrize(
    ("sources", "target"),
    [
        ({"web": "def app(environ, start_response): ...\n"}, "web:app"),
        ({"web": "async def app(scope, receive, send): ...\n"}, "web:app"),
        ({"web": "import bottle\napp = bottle.default_app()\n"}, "web:app"),
        ({"web": "import falcon\napi = falcon.App()\n"}, "web:api"),
        ({"web": "from dash import Dash\napp = Dash()\nserver = app.server\n"}, "web:server"),
        ({"web": "c = Configurator()\napp = c.make_wsgi_app()\n"}, "web:app"),
        ({"web": "from flask import Flask as F\napp: F = F('x')\n"}, "web:app"),
        (
            {"web": "from flask import Flask\napp = Flask('x')\napp = ProxyFix(app, x_for=1)\n"},
            "web:app",
        ),
        ({"web": "try:\n    import flask\nfinally:\n    app = flask.Flask('x')\n"}, "web:app"),
        (
            {"web": "class W:\n    def __call__(self, environ, start_response): ...\napp = W()\n"},
            "web:app",
        ),
        # Made for a server before the usual names, those before others; objects before factories.
        ({"main": FASTAPI, "wsgi": "from x import y as app\n", "other": FASTAPI}, "main:app"),
        (
            {
                "wsgi": "from web import app as application\n",
                "web": FLASK_FACTORY + "app = create_app()",
            },
            "wsgi:application",
        ),
        (
            {"web": FLASK_FACTORY, "wsgi": "from web import create_app\napp = create_app()\n"},
            "wsgi:app",
        ),
        ({"web": FLASK_FACTORY + "app = create_app()\n"}, "web:app"),
        ({"main": FASTAPI + "api = FastAPI()\n"}, "main:app"),
        (
            {"web": "import x\ndef make() -> 'Flask': ...\n", "app": FLASK_FACTORY},
            "app:create_app()",
        ),
        ({"web": "from flask import Flask\ndef make() -> Flask:\n    return x()\n"}, "web:make()"),
        # One application under several names is one.
        ({"a": FASTAPI, "b": "from a import app\n"}, "a:app"),
        ({"b": "import a\nhandler = a.app\n", "a": FASTAPI}, "a:app"),
        ({"web": "from flask import Flask\nx = Flask('x')\ny = x\n"}, "web:x"),
    ],
)
def test_what_is_found(tmp_path: Path, sources: dict[str, str], target: str) -> None:
    files(tmp_path, **sources)
    assert draft(tmp_path, "x").values["app.target"] == target


@pytest.mark.parametrize(
    "sources",
    [
        {},
        {"web": "def view(request, other): ...\n"},
        {"web": "def create(config):\n    return Flask(config)\n"},
        {"web": "from flask import Flask\nif __name__ == '__main__':\n    app = Flask('x')\n"},
        {"test_web": FASTAPI, "tests__web": FASTAPI, "manage": FASTAPI},
        {"web": "from flask import Flask\n_app = Flask('x')\n"},
        {"web": "app = app\na = b\nb = a\nfrom web import c\nimport web as d\ne = d.e\n"},
        {"web": "this is no Python\n"},
        {"web": "def app():\n    return app()\napp2 = app()\n"},
        {"web": "a0 = x()\n" + "".join(f"a{n + 1} = f(a{n}, a{n})\n" for n in range(300))},
    ],
)
def test_nothing_is_found(tmp_path: Path, sources: dict[str, str]) -> None:
    files(tmp_path / "p", **sources)
    (tmp_path / "p").mkdir(exist_ok=True)
    done = sockd(tmp_path, "init", "--dir", f"{tmp_path}/p", "--output", f"{tmp_path}/x.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no application found in {tmp_path}/p: no manage.py, and no module" in done.stderr
    assert "Name it: sockd init NAME module:attribute" in done.stderr
    assert not (tmp_path / "x.toml").exists()


def test_several_are_alike(tmp_path: Path) -> None:
    flask = "from flask import Flask\napp = Flask('x')\n"
    files(tmp_path, one=flask, two=flask)
    done = sockd(tmp_path, "init", "x", "--dir", str(tmp_path), "--output", f"{tmp_path}/x.toml")
    assert (done.returncode, done.stdout, (tmp_path / "x.toml").exists()) == (1, "", False)
    assert done.stderr == (
        "sockd: several applications, name one of them: sockd init NAME module:attribute\n"
        f"  one:app (Flask application, {tmp_path}/one.py:2)\n"
        f"  two:app (Flask application, {tmp_path}/two.py:2)\n"
    )
    made = draft(tmp_path, "x", "two:app")
    assert made.values == {"app.target": "two:app", "app.directory": str(tmp_path)}


def test_any_python_is_read_without_a_mistake() -> None:
    """Django's own package, and the standard library's, with all that Python can say."""
    import json as library

    import django

    from sockd.init import applications
    from sockd.init.static import names_of, parse

    django_root = Path(django.__file__).parents[1]
    assert applications.find(django_root / "django" / "contrib") is not None
    for top in (Path(library.__file__).parents[1], django_root / "django" / "core"):
        for path in sorted(top.glob("*.py")):
            module = parse(path, top)
            assert module is None or names_of(module, {}) is not None


def test_modules_that_import_each_other(tmp_path: Path) -> None:
    from sockd.init.static import names_of, parse

    everything = "".join(f"from .m{number} import *\n" for number in range(40))
    names = {f"p__m{number}": f"{everything}n{number} = {number}\n" for number in range(40)}
    files(tmp_path, p___init="", **names)
    module = parse(tmp_path / "p/m0.py", tmp_path)
    assert module is not None
    known = names_of(module, {})
    assert [known[f"n{number}"].value for number in range(40)] == list(range(40))


# Virtual environments, names, notes.


def test_virtual_environments(tmp_path: Path) -> None:
    project = files(
        tmp_path / "shop" / "current", app="from flask import Flask\napp = Flask('x')\n"
    )
    made = draft(project)
    assert made.name == "shop"
    assert "app.venv" not in made.values
    assert said(made, "note").startswith("no virtual environment found")
    for place in ("shop/venv", "shop/current/one", "shop/current/two", "shop/current/.venv"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "pyvenv.cfg").write_text("version = 3.11.2\n")
        if place.endswith("two"):
            with pytest.raises(SockdError, match=r"several virtual environments: .*/one, .*/two"):
                draft(project)
        else:
            assert draft(project).values["app.venv"] == str(tmp_path / place)
    assert said(draft(project), "found").endswith(f"{tmp_path / place} (Python 3.11)")
    assert (
        draft(project, venv=str(tmp_path / "shop/venv")).values["app.venv"].endswith("shop/venv")
    )
    with pytest.raises(SockdError, match="is no virtual environment"):
        draft(project, venv=str(tmp_path))


def test_what_lies_beside_it_is_named(tmp_path: Path) -> None:
    files(tmp_path, app="from flask import Flask\napp = Flask('x')\n")
    (tmp_path / "Procfile").write_text("release: x\nweb: gunicorn -w 4 app:app\n")
    (tmp_path / "gunicorn.conf.py").write_text("workers = 5\n")
    (tmp_path / ".env").write_text("A=1\n")
    notes = said(draft(tmp_path, "x"), "note")
    assert f"{tmp_path}/gunicorn.conf.py was not read: --from" in notes
    assert 'Procfile was not read: --from "gunicorn -w 4 app:app"' in notes
    assert f"--set app.env_file={tmp_path}/.env" in notes


# The file.


def test_the_file_is_not_overwritten(tmp_path: Path) -> None:
    files(tmp_path, app="from flask import Flask\napp = Flask('x')\n")
    path = tmp_path / "shop.toml"
    words = ("init", "--dir", str(tmp_path), "--output", str(path))
    path.write_text("mine\n")
    done = sockd(tmp_path, *words)
    assert (done.returncode, path.read_text()) == (1, "mine\n")
    assert f"sockd: {path} is there already; nothing was written. --force" in done.stderr
    assert sockd(tmp_path, *words, "--force").returncode == 0
    assert path.read_text().startswith("# /etc/sockd/shop.toml, written by sockd init.\n")
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_on_stdout_and_with_settings(tmp_path: Path) -> None:
    files(tmp_path, app="from flask import Flask\napp = Flask('x')\n")
    settings = (
        *("timeouts.drain=5s", "workers=auto", "threads=4", "limits.body=1GiB"),
        *("nginx.server_name=a.example, b.example", "app.env.A=x = 1", 'app.env.B="\\'),
        *("nginx.static./static/=/srv/a b/", "unit.description=ünï"),
    )
    words = [word for item in settings for word in ("--set", item)]
    done = sockd(tmp_path, "init", "x", "--dir", str(tmp_path), "--output", "-", *words)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "x.toml"
    path.write_text(done.stdout)
    loaded = config.load(path=path, environ={}).settings
    assert (loaded.timeouts.drain, loaded.workers, loaded.threads) == (5, 0, 4)
    assert loaded.limits.body == 1 << 30
    assert loaded.nginx.server_name == ("a.example", "b.example")
    assert loaded.app.env == {"A": "x = 1", "B": '"\\'}
    assert loaded.nginx.static == {"/static/": "/srv/a b/"}
    assert "threads = 4  # --set\n" in done.stdout


line = text(characters(exclude_categories=("Cs", "Cc")), max_size=20)


@given(
    env=dictionaries(line.filter(lambda name: name and "=" not in name), line, max_size=4),
    names=lists(line, max_size=3),
    description=line,
    count=integers(1, 512),
)
def test_what_is_written_is_what_is_read(
    env: dict[str, str], names: list[str], description: str, count: int
) -> None:
    made = Draft("x")
    values = {
        "app.target": "a:b",
        "app.env": env,
        "nginx.server_name": names,
        "unit.description": description,
        "threads": count,
    }
    for key, value in values.items():
        made.put(key, value, "")
    made.check()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "x.toml")
        path.write_text(made.text())
        loaded = config.load(path=path, environ={}).settings
    assert (loaded.app.env, loaded.unit.description) == (env, description)
    assert (loaded.nginx.server_name, loaded.threads) == (tuple(names), count)


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["x", "--set", "threads=many"], 78, "--set: threads: expected a whole number"),
        (["x", "--set", "thraeds=1"], 78, "--set: unknown key thraeds; did you mean threads?"),
        (["x", "--set", "limits.head=1"], 78, "limits.request_line: is larger than limits.head"),
        (["no name"], 78, "'no name' cannot be the name of a service"),
        (["x", "--dir", "nowhere"], 1, "nowhere is no directory"),
        (["x", "--from", "nowhere.ini"], 1, "--from: nowhere.ini cannot be read"),
        (["x", "--from", "nowhere.py"], 1, "--from: nowhere.py cannot be read as Python"),
        (["x", "--from", "conf.yaml"], 2, "--from: conf.yaml: expected gunicorn.conf.py, uws"),
        (["x", "--from", "waitress app:app"], 2, "--from: expected a file, or a command line"),
        (["x", "--from", "gunicorn --nope"], 2, "--from: gunicorn's command line: unrecognized"),
        (["x", "--from", "gunicorn 'x"], 2, "--from: No closing quotation"),
        (["x", "--output", "no/where.toml"], 1, "no/where.toml: No such file or directory"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], code: int, expected: str) -> None:
    files(tmp_path, app="from flask import Flask\napp = Flask('x')\n")
    given = [] if "--dir" in words else ["--dir", str(tmp_path)]
    given += [] if "--output" in words else ["--output", f"{tmp_path}/x.toml"]
    done = sockd(tmp_path, "init", *given, *words)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.toml").exists()
