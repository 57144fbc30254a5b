"""The configuration that is being written: values with where each comes from, and what to say."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from sockd import config
from sockd.errors import ConfigError
from sockd.settings import TABLE, WORKERS

Word = Literal["found", "mapped", "left", "note"]

SECRET = re.compile(r"SECRET|PASSW|TOKEN|CREDENTIAL|API_?KEY|DATABASE_URL|DSN", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """A line of the report: what was found in the directory, which option of another server
    became what or was left out and why, and what the operator should know."""

    word: Word
    text: str


@dataclass
class Draft:
    """`values` are key → value as TOML has it, tables of strings as dictionaries."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def put(self, key: str, value: Any, origin: str) -> None:
        """Set a key, whatever it was; entries of a table are added."""
        if config.ROWS[key].kind is TABLE:
            value = {**self.values.get(key, {}), **value}
        self.values[key] = value
        self.origins[key] = origin

    def put_text(self, key: str, text: str, origin: str) -> None:
        """As a flag's KEY=VALUE; typed as TOML would have it. ConfigError."""
        for table, row in config.ROWS.items():
            if row.kind is TABLE and key.startswith(f"{table}."):
                self.put(table, {key.removeprefix(f"{table}."): text}, origin)
                return
        if key not in config.ROWS:
            config.load(None, None, {"app.target": "a:b", key: text}, {})  # says what is wrong
        row = config.ROWS[key]
        try:
            parsed = row.kind.parse(text)
        except ValueError as error:
            raise ConfigError(f"{origin}: {key}: {error}") from None
        value: Any = text
        if isinstance(parsed, bool):
            value = parsed
        elif isinstance(parsed, tuple):
            value = list(parsed)
        elif re.fullmatch(r"\d{1,9}", text) and row.kind.parse(int(text)) == parsed:
            value = int(text)
        elif row.kind is WORKERS:
            value = "auto"
        self.put(key, value, origin)

    def say(self, word: Word, text: str) -> None:
        finding = Finding(word, text)
        if finding not in self.findings:
            self.findings.append(finding)

    def check(self) -> None:
        """ConfigError for what `sockd serve` would refuse."""
        config.valid_name(self.name)
        try:
            config.load(None, None, self.values, {})
        except ConfigError as error:
            lines = str(error).splitlines()
            raise ConfigError("\n".join(self._with_origin(line) for line in lines)) from None

    def _with_origin(self, line: str) -> str:
        """Instead of the flag that the value would have been given by."""
        for key, origin in self.origins.items():
            flag = f"{config.FLAGS.get(key, '--set')}: {key}: "
            if origin and line.startswith(flag):
                return f"{origin}: {key}: {line.removeprefix(flag)}"
        return line

    def text(self) -> str:
        """The TOML file. What it says is what `values` say."""
        lines = [f"# /etc/sockd/{self.name}.toml, written by sockd init."]
        lines += ["# Every setting, and its default: docs/configuration.md"]
        for section, keys in self._sections():
            lines += ["", *([f"[{section}]"] if section else [])]
            lines += [
                f"{key.removeprefix(section + '.')} = {_toml(self.values[key])}"
                + (f"  # {self.origins[key]}" if self.origins[key] else "")
                for key in keys
            ]
        text = "\n".join(lines) + "\n"
        assert _flat(tomllib.loads(text)) == self.values, text
        return text

    def _sections(self) -> Iterator[tuple[str, list[str]]]:
        """In the order of the settings; the top of the file first."""
        grouped: dict[str, list[str]] = {"": []}
        for key in config.ROWS:
            if key in self.values:
                grouped.setdefault(key.rpartition(".")[0], []).append(key)
        yield from ((section, keys) for section, keys in grouped.items() if keys)


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in document.items():
        if prefix + key in config.SECTIONS:
            made.update(_flat(value, f"{prefix}{key}."))
        else:
            made[prefix + key] = value
    return made


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return str(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)
