"""A directory, and what another server was told → the draft of a configuration."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sockd import config
from sockd.errors import PermissionDenied, SockdError, UsageError
from sockd.init import applications, django, gunicorn, gunicorn_options, uwsgi, uwsgi_options
from sockd.init.draft import Draft
from sockd.init.options import apply
from sockd.init.static import find_module

USUAL_VENVS = (".venv", "venv", "env", ".env")
OTHER_SERVERS = ("gunicorn.conf.py", "uwsgi.ini")
RELEASE = "current"  # a symlink that deployments switch


@dataclass(frozen=True)
class Request:
    """What `sockd init` was asked: nothing is None, "" or empty."""

    directory: Path
    name: str | None = None
    app: str | None = None
    venv: str | None = None
    sources: Sequence[str] = ()
    """Of `--from`: a file, or a command line."""
    settings: Sequence[tuple[str, str]] = field(default=())


def make(request: Request) -> Draft:
    """SockdError when nothing is found, or several that are alike; ConfigError when what was
    found is no configuration."""
    directory = request.directory.absolute()
    if not directory.is_dir():
        raise SockdError(f"{request.directory} is no directory")
    try:
        project = _pyproject(directory)
        draft = Draft(request.name or _name(directory, project))
        config.valid_name(draft.name)
        _set(request, draft)  # unit.user decides about media
        other = _other_server(request, directory, draft)
        if request.app:
            other["app.target"] = (request.app, "given")
        directory = directory / other.pop("app.directory", (directory, ""))[0]
        _application(directory, other.pop("app.target", None), project, draft)
        _venv(directory, request.venv or other.pop("app.venv", ("", ""))[0], draft)
    except PermissionError as error:
        raise PermissionDenied(f"{error.filename}: no permission to read it") from None
    for key, (value, origin) in other.items():
        draft.put(key, value, origin)
    _set(request, draft)
    _hints(directory, request, draft)
    draft.check()
    return draft


def _set(request: Request, draft: Draft) -> None:
    for key, text in request.settings:
        draft.put_text(key, text, "--set")


def _other_server(request: Request, directory: Path, draft: Draft) -> dict[str, tuple[Any, str]]:
    """Setting → value and origin, of all `--from`; what became of each option is in the draft."""
    made = Draft(draft.name)
    for source in request.sources:
        path = Path(source)
        if re.search(r"\s", source.strip()) and not path.is_file():
            _command_line(source, directory, made)
        elif source.endswith(".ini"):
            apply(uwsgi_options.OPTIONS, uwsgi.read(path, made), made)
        elif source.endswith(".py"):
            apply(gunicorn_options.OPTIONS, gunicorn.read_conf(path, made), made)
        elif path.suffix:
            raise UsageError(
                f'--from: {source}: expected gunicorn.conf.py, uwsgi.ini, or "gunicorn ..."'
            )
        else:
            _command_line(source, directory, made)
    draft.findings += made.findings
    _absolute(made.values, directory)
    return {key: (value, made.origins[key]) for key, value in made.values.items()}


def _command_line(text: str, directory: Path, draft: Draft) -> None:
    line = gunicorn.read_command(text)
    conf = line.conf.removeprefix("file:")
    if conf.startswith("python:"):
        draft.say("left", f"{conf}: give the file to --from")
    elif conf or (directory / gunicorn.CONF).is_file():
        path = directory / (conf or gunicorn.CONF)
        draft.say("found", f"{path}, which this Gunicorn reads")
        apply(gunicorn_options.OPTIONS, gunicorn.read_conf(path, draft), draft)
    apply(gunicorn_options.OPTIONS, line.given, draft)
    if line.venv:
        draft.put("app.venv", line.venv, "where gunicorn lies")


def _absolute(values: dict[str, Any], directory: Path) -> None:
    """Relative paths of the other server start where it was started."""
    for key in ("app.directory", "app.venv", "nginx.certificate", "nginx.certificate_key"):
        if key in values:
            values[key] = str(directory / values[key])
    if "bind" in values:
        values["bind"] = [
            item if ":" in item or item.startswith("/") else str(directory / item)
            for item in values["bind"]
        ]


def _application(
    directory: Path, given: tuple[str, str] | None, project: Mapping[str, Any], draft: Draft
) -> None:
    """Target and directory."""
    manage = django.find(directory)
    if given:
        _given(given, directory, manage, draft)
        return
    entry = project.get("tool", {}).get("fastapi", {}).get("entrypoint")
    if isinstance(entry, str) and ":" in entry:
        draft.say("found", f"tool.fastapi.entrypoint in pyproject.toml: {entry}")
        _put(entry, directory, draft)
        return
    if len(manage) > 1:
        listed = ", ".join(str(path) for path in manage)
        raise SockdError(f"several Django projects: {listed}; choose one with --dir")
    found = django.read(manage[0]) if manage else None
    if found:
        draft.say("found", f"Django: {manage[0]}, settings {found.settings}")
        _put(found.target, found.root, draft)
        django.apply(found, draft)
        return
    chosen = applications.choose(applications.find(directory))
    if not chosen:
        raise SockdError(
            f"no application found in {directory}: no manage.py, and no module with a WSGI or "
            "ASGI application, Flask, FastAPI or the like. Name it: sockd init NAME "
            "module:attribute --dir DIR"
        )
    if len(chosen) > 1:
        raise SockdError(
            "several applications, name one of them: sockd init NAME module:attribute",
            detail="\n".join(f"  {candidate}" for candidate in chosen),
        )
    draft.say("found", str(chosen[0]))
    _put(chosen[0].target, chosen[0].root, draft)


def _given(given: tuple[str, str], directory: Path, manage: Sequence[Path], draft: Draft) -> None:
    target, origin = given
    module = target.partition(":")[0]
    roots = [directory, directory / "src", *(path.parent for path in manage)]
    root = next((root for root in roots if find_module(module, root)), directory)
    if find_module(module, root) is None:
        draft.say("note", f"{origin}: there is no module {module} in {root}; is it installed?")
    _put(target, root, draft)
    for path in manage:
        project = django.read(path) if path.parent == root else None
        if project:
            django.apply(project, draft)


def _put(target: str, root: Path, draft: Draft) -> None:
    draft.put("app.target", target, "")
    draft.put("app.directory", str(root), "")


def _venv(directory: Path, given: str, draft: Draft) -> None:
    if given:
        path = Path(given).absolute()
        if not (path / "pyvenv.cfg").is_file():
            raise SockdError(f"{given} is no virtual environment: it has no pyvenv.cfg")
        draft.put("app.venv", str(path), "")
        return
    root = Path(draft.values["app.directory"])
    # /srv/shop/current and /srv/shop/venv: one for all releases.
    for place in dict.fromkeys([root, directory, root.parent, directory.parent]):
        found = [path for path in _entries(place) if (path / "pyvenv.cfg").is_file()]
        usual = [place / name for name in USUAL_VENVS if place / name in found]
        found = usual[:1] or found
        if len(found) > 1 and place in (root, directory):
            listed = ", ".join(str(path) for path in found)
            raise SockdError(f"several virtual environments: {listed}; choose one with --venv")
        beside = place not in (root, directory)
        if found and not (beside and not usual):
            draft.put("app.venv", str(found[0]), "")
            draft.say("found", f"virtual environment {found[0]} ({_python(found[0])})")
            return
    draft.say("note", "no virtual environment found: the system's Python runs the application")


def _entries(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except OSError:
        return []


def _python(venv: Path) -> str:
    text = (venv / "pyvenv.cfg").read_text(errors="replace")
    match = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+)", text, re.MULTILINE)
    return f"Python {match[1]}" if match else "of an unknown Python"


def _pyproject(directory: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((directory / "pyproject.toml").read_text())
    except (OSError, ValueError):
        return {}


def _name(directory: Path, project: Mapping[str, Any]) -> str:
    """Of the project, else of the directory; `current` is no name for one."""
    own = directory if directory.name != RELEASE else directory.parent
    declared = project.get("project", {}).get("name")
    name = declared if isinstance(declared, str) else own.resolve().name
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:25] or "app"


def _hints(directory: Path, request: Request, draft: Draft) -> None:
    if not request.sources:
        for name in OTHER_SERVERS:
            if (directory / name).is_file():
                draft.say("note", f"{directory / name} was not read: --from {directory / name}")
        match = re.search(r"^web:\s*(.*gunicorn.*)$", _read(directory / "Procfile"), re.MULTILINE)
        if match:
            draft.say("note", f'Procfile was not read: --from "{match[1]}"')
    if (directory / ".env").is_file() and "app.env_file" not in draft.values:
        draft.say(
            "note",
            f"{directory / '.env'}: if the application does not read it itself, "
            f"--set app.env_file={directory / '.env'}",
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
