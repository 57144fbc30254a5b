"""A Django project: its server module, and what its settings say to whoever serves it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sockd.init.draft import Draft
from sockd.init.static import Named, find_module, names_of, parse

VARIABLE = "DJANGO_SETTINGS_MODULE"
STATE = "/var/lib"


@dataclass(frozen=True)
class Project:
    """`root` has manage.py; `settings` and `server` are modules' names."""

    root: Path
    settings: str
    settings_of_manage: str
    target: str
    asgi: bool


def find(directory: Path) -> list[Path]:
    """The manage.py of Django in `directory` or, with none there, one level below."""
    here = directory / "manage.py"
    places = [here] if here.is_file() else sorted(directory.glob("*/manage.py"))
    return [path for path in places if _settings_named_in(path) is not None]


def _settings_named_in(path: Path) -> str | None:
    """What a file sets DJANGO_SETTINGS_MODULE to by default."""
    module = parse(path, path.parent)
    if module is None:
        return None
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="setdefault"),
                args=[ast.Constant(value=name), ast.Constant(value=str() as value)],
            ) if name == VARIABLE:
                return value
            case ast.Assign(
                targets=[ast.Subscript(slice=ast.Constant(value=name))],
                value=ast.Constant(value=str() as value),
            ) if name == VARIABLE:
                return value
    return None


def read(manage: Path) -> Project | None:
    """None when there is no module that defines an application."""
    root = manage.parent
    named = _settings_named_in(manage) or ""
    known = _settings(named, root, "")
    for key, is_asgi in (("WSGI_APPLICATION", False), ("ASGI_APPLICATION", True)):
        if key in known and isinstance(known[key].value, str):
            module, _, attribute = known[key].value.rpartition(".")
            if find_module(module, root):
                return _project(root, named, module, attribute, is_asgi)
    package = named.partition(".")[0]
    for last, is_asgi in (("wsgi", False), ("asgi", True)):
        if package and find_module(f"{package}.{last}", root):
            return _project(root, named, f"{package}.{last}", "application", is_asgi)
    return None


def _project(root: Path, named: str, module: str, attribute: str, is_asgi: bool) -> Project:
    found = find_module(module, root)
    assert found is not None
    settings = _settings_named_in(found.path) or named
    return Project(root, settings, named, f"{module}:{attribute}", is_asgi)


def _settings(name: str, root: Path, service: str) -> Mapping[str, Named]:
    """The settings as they are in a service of that name."""
    module = find_module(name, root)
    environ = {"STATE_DIRECTORY": f"{STATE}/{service}", VARIABLE: name}
    return names_of(module, environ) if module else {}


def apply(project: Project, draft: Draft) -> None:
    """What the settings say becomes settings of sockd, and notes."""
    known = _settings(project.settings, project.root, draft.name)
    if project.settings != project.settings_of_manage:
        # `sockd exec` runs manage.py, which would choose its own.
        draft.put("app.env", {VARIABLE: project.settings}, "as in the server's module")
        draft.say(
            "note",
            f"manage.py uses {project.settings_of_manage}, the server {project.settings}: "
            "app.env has the latter for both",
        )
    values = {key: named.value for key, named in known.items() if named.known}
    places = {key: named.place for key, named in known.items()}
    _hosts(values, draft, places)
    _static(values, draft, places)
    _media(values, draft, places)
    for note in _notes(values, project, places):
        draft.say("note", note)


def _hosts(values: Mapping[str, Any], draft: Draft, places: Mapping[str, str]) -> None:
    hosts = values.get("ALLOWED_HOSTS")
    if not isinstance(hosts, (list, tuple)):
        return
    local = ("localhost", "127.0.0.1", "[::1]", "::1", "*", "testserver")
    names = [host for host in hosts if isinstance(host, str) and host and host not in local]
    if names:
        draft.put("nginx.server_name", names, "ALLOWED_HOSTS")
        draft.say("found", f"ALLOWED_HOSTS in {places['ALLOWED_HOSTS']}: {', '.join(names)}")


def _served(values: Mapping[str, Any], kind: str) -> tuple[str, str] | None:
    """URL and directory of STATIC or MEDIA, where nginx can serve them."""
    url, directory = values.get(f"{kind}_URL"), values.get(f"{kind}_ROOT")
    if not directory or not isinstance(url, str) or "//" in url or not url.strip("/"):
        return None
    path = str(directory)
    return (f"/{url.strip('/')}/", path.rstrip("/") + "/") if path.startswith("/") else None


def _media(values: Mapping[str, Any], draft: Draft, places: Mapping[str, str]) -> None:
    served = _served(values, "MEDIA")
    if served is None:
        return
    location, path = served
    if "unit.user" in draft.values:
        draft.put("nginx.media", {location: path}, "MEDIA_URL, MEDIA_ROOT")
        draft.say("found", f"uploads in {places['MEDIA_ROOT']}: nginx serves {location}")
    else:
        draft.say(
            "note",
            f"{places['MEDIA_ROOT']}: nginx can serve uploads once unit.user is set: adduser "
            f"--system --group {draft.name}; sockd init --set unit.user={draft.name}",
        )


def _static(values: Mapping[str, Any], draft: Draft, places: Mapping[str, str]) -> None:
    served = _served(values, "STATIC")
    if served is None:
        return
    location, path = served
    draft.put("nginx.static", {location: path}, "STATIC_URL, STATIC_ROOT")
    draft.say("found", f"static files in {places['STATIC_ROOT']}: nginx serves {location}")
    if Path(path).is_relative_to(STATE) and "unit.user" not in draft.values:
        draft.say(
            "note",
            f"{path} is closed to nginx while unit.user is empty: static files belong beside the "
            "code, or the service needs a user of its own",
        )


def _notes(
    values: Mapping[str, Any], project: Project, places: Mapping[str, str]
) -> Iterator[str]:
    if values.get("DEBUG") is True:
        yield f"{places['DEBUG']}: DEBUG = True shows the code to everybody who makes it fail"
    elif values.get("ALLOWED_HOSTS") == []:
        yield f"{places['ALLOWED_HOSTS']}: ALLOWED_HOSTS is empty: every request gets a 400"
    secret = values.get("SECRET_KEY")
    if isinstance(secret, str) and secret.startswith("django-insecure-"):
        yield f"{places['SECRET_KEY']}: SECRET_KEY is the one that startproject wrote"
    if "STATIC_ROOT" not in places and "django.contrib.staticfiles" in (
        values.get("INSTALLED_APPS") or ()
    ):
        yield (
            "STATIC_ROOT is not set: collectstatic has no place for the files that nginx serves"
        )
    for alias, database in (values.get("DATABASES") or {}).items():
        if not isinstance(database, dict) or not str(database.get("ENGINE")).endswith("sqlite3"):
            continue
        name = str(database.get("NAME"))
        if name.startswith("/") and not Path(name).is_relative_to(STATE):
            yield (
                f"{places['DATABASES']}: database {alias} is {name}, where the service may not "
                'write: Path(os.environ.get("STATE_DIRECTORY", BASE_DIR)) is the place'
            )
