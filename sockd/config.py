"""The configuration of one service, from where an operator may have written it.

Later ones win: the defaults in `settings`, NAME.toml, NAME.toml.d/*.toml in the order of their
names, variables SOCKD_*, flags. A table of strings (`app.env`) is merged entry by entry,
everything else is replaced. Every mistake found is reported, not only the first, with the place
where it stands. Messages never hold values, which may be secret.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from sockd import toml_lines
from sockd.errors import ConfigError, PermissionDenied, UsageError
from sockd.settings import TABLE, Row, Settings, rows

DIRECTORY = Path("/etc/sockd")
ROWS: Mapping[str, Row] = MappingProxyType({row.key: row for row in rows()})
SECTIONS = frozenset(key.rpartition(".")[0] for key in ROWS) - {""}
VARIABLES: Mapping[str, str] = MappingProxyType(
    {"SOCKD_" + key.upper().replace(".", "_"): key for key in ROWS}
)
FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "app.target": "APP",
        "bind": "--bind",
        "workers": "--workers",
        "app.directory": "--dir",
        "app.venv": "--venv",
    }
)
"""Keys that the command line gives otherwise than by `--set`."""

BUILD_VARIABLES = frozenset({"SOCKD_SANITIZE"})
"""SOCKD_* that are no settings: setup.py reads them."""

MOST = 4 << 20
"""Bytes of a file; what has no end is no configuration."""

_PATHS = ("app.directory", "app.venv", "app.env_file")
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
)  # also part of a unit's name, systemd.unit(5)
_NO_OVERRIDES: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True)
class Config:
    name: str
    path: Path | None
    """The file that was read, None when there was none."""
    settings: Settings
    sources: Mapping[str, str]
    """Where a key was set: "FILE:LINE", "SOCKD_X" or a flag; a key at its default is missing.
    Entries of tables have their own: `app.env.NAME`."""

    def source(self, key: str) -> str:
        return self.sources.get(key, "default")


def load(
    name: str | None = None,
    path: Path | None = None,
    overrides: Mapping[str, object] = _NO_OVERRIDES,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read the configuration of the service `name`, or that in the file `path`; with neither, what
    `environ` and `overrides` (key → value as TOML or a flag's text has it) say, as "app".

    A service of which they give the application needs no file. Relative paths start at the
    directory of NAME.toml, those of variables and flags at the current one. Raises ConfigError and
    PermissionDenied.
    """
    if path is None and name is not None:
        path = DIRECTORY / f"{valid_name(name)}.toml"
        if ("app.target" in overrides or "SOCKD_APP_TARGET" in environ) and not path.exists():
            path = None
    elif path is not None:
        path = path.absolute()
        name = valid_name(name or path.name.removesuffix(".toml"))
    reader = _Reader()
    if path is not None:
        for file in (path, *_drop_ins(path)):
            reader.read_file(file, base=path.parent)
    reader.read_environment(environ)
    reader.read_overrides(overrides)
    if not reader.errors:
        settings = _build(Settings, reader.values)
        reader.errors += _contradictions(settings, reader.sources, path)
    if reader.errors:
        raise ConfigError("\n".join(reader.errors))
    return Config(name or "app", path, settings, MappingProxyType(reader.sources))


def sources_of(config: Config) -> list[Path]:
    """The files that were read for it."""
    return [config.path, *_drop_ins(config.path)] if config.path else []


def waiting(before: Config, after: Config) -> list[str]:
    """One sentence for each way in which settings that have changed take effect, if a reload is
    not it."""
    ways: dict[str, list[str]] = {"restart": [], "units": []}
    for row in ROWS.values():
        if row.change in ways and _value(before, row.key) != _value(after, row.key):
            ways[row.change].append(row.key)
    how = {
        "restart": "a restart",
        "units": f"`sockd generate-units --install {after.name}` and a restart",
    }
    return [f"{', '.join(keys)} changed: needs {how[way]}" for way, keys in ways.items() if keys]


def _value(config: Config, key: str) -> object:
    found: object = config.settings
    for name in key.split("."):
        found = getattr(found, name)
    return found


def only_name() -> str:
    """The name of the one service that DIRECTORY configures; UsageError when there is not one."""
    try:
        names = sorted(file.stem for file in DIRECTORY.glob("*.toml"))
    except OSError:
        names = []
    if not names:
        raise UsageError(f"name a service: no *.toml in {DIRECTORY}")
    if len(names) > 1:
        raise UsageError(f"several services are configured, name one of them: {', '.join(names)}")
    return names[0]


def valid_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a service: letters, digits and . _ - only, "
            "the first a letter or digit"
        )
    return name


class _Reader:
    """Takes one source after the other; keeps values, where they came from, and mistakes."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.errors: list[str] = []

    def read_file(self, path: Path, base: Path) -> None:
        try:
            text = _read_text(path)
            document = _parse(path, text)
        except ConfigError as error:
            self.errors.append(str(error))
            return
        lines = toml_lines.locate(text, document)

        def source(keys: tuple[str, ...]) -> str:
            return f"{path}:{lines[keys]}" if keys in lines else str(path)

        self._read_table(document, (), source, base)

    def _read_table(
        self, table: dict[str, Any], keys: tuple[str, ...], source: Any, base: Path
    ) -> None:
        for key, value in table.items():
            here = (*keys, key)
            dotted = ".".join(here)
            # A quoted key may hold a dot: "timeouts.drain" = 5 is no timeouts.drain.
            known = "." not in key
            if known and dotted in SECTIONS:
                if isinstance(value, dict):
                    self._read_table(value, here, source, base)
                else:
                    hint = "; the application is app.target" if dotted == "app" else ""
                    self.errors.append(
                        f"{source(here)}: {dotted}: expected a table, [{dotted}]{hint}"
                    )
            elif known and dotted in ROWS:
                if ROWS[dotted].kind is TABLE and isinstance(value, dict):
                    for entry, item in value.items():
                        self._set(dotted, {entry: item}, source((*here, entry)), base)
                else:
                    self._set(dotted, value, source(here), base)
            elif isinstance(value, dict):
                tables = [f"[{name}]" for name in SECTIONS]
                self.errors.append(
                    f"{source(here)}: unknown table [{dotted}]{_nearest(f'[{dotted}]', tables)}"
                )
            elif not known and dotted in ROWS:
                self.errors.append(
                    f'{source(here)}: unknown key "{key}"; without the quotes it is {dotted}'
                )
            else:
                self.errors.append(f"{source(here)}: unknown key {dotted}{_nearest(dotted, ROWS)}")

    def read_environment(self, environ: Mapping[str, str]) -> None:
        for name in sorted(environ):
            if name in VARIABLES:
                self._set(VARIABLES[name], environ[name], name, Path.cwd())
            elif name.startswith("SOCKD_") and name not in BUILD_VARIABLES:
                self.errors.append(f"{name}: unknown variable{_nearest(name, VARIABLES)}")

    def read_overrides(self, overrides: Mapping[str, object]) -> None:
        for key, value in overrides.items():
            table = next(
                (t for t in ROWS if ROWS[t].kind is TABLE and key.startswith(t + ".")), None
            )
            source = FLAGS.get(key, "--set")
            if key in ROWS:
                self._set(key, value, source, Path.cwd())
            elif table:
                self._set(table, {key.removeprefix(table + "."): value}, source, Path.cwd())
            elif key in SECTIONS:
                names = ", ".join(name for name in ROWS if name.startswith(key + "."))
                self.errors.append(f"{source}: {key} is a table; its settings are {names}")
            else:
                self.errors.append(f"{source}: unknown key {key}{_nearest(key, ROWS)}")

    def _set(self, key: str, raw: object, source: str, base: Path) -> None:
        row = ROWS[key]
        try:
            value = row.kind.parse(raw)
        except ValueError as error:
            self.errors.append(f"{source}: {key}: {error}")
            return
        if row.kind is TABLE:
            self.sources.update({f"{key}.{entry}": source for entry in value})
            value = {**self.values.get(key, {}), **value}
        if key in _PATHS and value:
            value = str(base / value)
        self.values[key] = value
        self.sources[key] = source


def _drop_ins(path: Path) -> list[Path]:
    directory = path.with_name(path.name + ".d")
    try:
        return sorted(file for file in directory.iterdir() if file.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        raise PermissionDenied(f"{directory}: no permission to list this directory") from None


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; create it, name another file with --config FILE, or give the "
            "application, module:attribute, as for units that were made of flags"
        ) from None
    except PermissionError:
        raise PermissionDenied(f"{path}: no permission to read this file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(raw) > MOST:
        raise ConfigError(f"{path}: larger than {MOST >> 20} MiB: no configuration is")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8, which TOML is written in") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message)
        if not place:
            raise ConfigError(f"{path}: {message}") from None
        last = text.rstrip("\n").count("\n") + 1
        where = f"{place[2]}:{place[3]}" if place[2] else f"{last}"
        raise ConfigError(f"{path}:{where}: {place[1]}") from None
    except ValueError:  # of int()
        raise ConfigError(f"{path}: a number has too many digits") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None


def _nearest(key: str, names: Iterable[str]) -> str:
    """ "; did you mean …?" or nothing. A right last part under a wrong table goes first."""
    names = list(names)
    same = [name for name in names if name.rpartition(".")[2] == key.rpartition(".")[2]]
    found = difflib.get_close_matches(key, same or names, n=1, cutoff=0.0 if same else 0.6)
    return f"; did you mean {found[0]}?" if found else ""


def _build(table: type[Any], values: Mapping[str, Any], prefix: str = "") -> Any:
    given = {}
    for item in fields(table):
        key = prefix + item.name
        if not item.metadata:
            section = cast(type[Any], item.default_factory)
            given[item.name] = _build(section, values, key + ".")
        elif key in values:
            given[item.name] = values[key]
    return table(**given)


def _contradictions(
    settings: Settings, sources: Mapping[str, str], path: Path | None
) -> Iterator[str]:
    """What no single value shows: what is missing, and what cannot hold together."""

    def at(key: str, message: str) -> str:
        return f"{sources[key]}: {key}: {message}" if key in sources else f"{key}: {message}"

    if not settings.app.target:
        yield (
            f'{path}: no application: write target = "module:attribute" below [app]'
            if path
            else "no application: give it as module:attribute, or name a configuration"
        )
    elif not _is_target(settings.app.target):
        yield at("app.target", "expected module:attribute or module:factory()")
    for hook in ("before_fork", "after_fork", "on_drain", "on_exit"):
        target = getattr(settings.app, hook)
        if target and (target.endswith(")") or not _is_target(target)):
            yield at(f"app.{hook}", "expected module:function")
    if settings.process.group and not settings.process.user:
        yield at("process.group", "needs process.user")
    for name in settings.app.env:
        if not name or "=" in name:
            yield at("app.env", 'a variable\'s name is not empty and has no "="')
    if not settings.bind:
        yield at("bind", "expected at least one address")
    if 0 < settings.unit.watchdog < 1:
        yield at("unit.watchdog", "expected 0 (off) or at least 1s")
    limits = settings.limits
    for key in ("request_line", "header_field", "headers", "head", "connections", "backlog"):
        if not getattr(limits, key):
            yield at(f"limits.{key}", "expected more than 0: every request would be refused")
    for key in ("request_line", "header_field"):
        if getattr(limits, key) > limits.head:
            yield at(f"limits.{key}", "is larger than limits.head, the whole request head")


def _is_target(text: str) -> bool:
    module, colon, attribute = text.partition(":")
    names = [*module.split("."), *attribute.removesuffix("()").split(".")]
    return bool(colon) and all(name.isidentifier() for name in names)
