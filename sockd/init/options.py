"""Options of another server, one row each, and what each becomes here.

The tables of docs/migrating.md are these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sockd.init.draft import Draft
from sockd.init.static import Unknown

Takes = Literal["value", "nothing", "values"]


@dataclass(frozen=True)
class Given:
    """An option that was found set."""

    name: str
    value: Any
    origin: str
    """Where: "gunicorn.conf.py:3", or "the command line"."""


class Left(Exception):
    """The value at hand becomes nothing; says why."""


Convert = Callable[[Draft, Given], None]


@dataclass(frozen=True)
class Option:
    """`becomes` is the setting, or "" when there is none; `why` is what to know about it: how the
    value is changed, what takes the option's place, or why nothing does."""

    name: str
    becomes: str
    why: str
    convert: Convert | None = None
    """Raises Left, and ValueError for what is no value of this option."""
    flags: tuple[str, ...] = ()
    takes: Takes = "value"


def table(options: Iterable[Option]) -> str:
    """The rows as in docs/migrating.md."""
    rows = []
    for option in options:
        names = ", ".join(f"`{name}`" for name in (option.name, *option.flags))
        becomes = ", ".join(f"`{key}`" for key in option.becomes.split(", ") if key)
        rows.append(f"| {names} | {becomes or '–'} | {option.why} |\n")
    return "| option | becomes | |\n| --- | --- | --- |\n" + "".join(rows)


def apply(options: Mapping[str, Option], given: Iterable[Given], draft: Draft) -> None:
    """Each option becomes its setting, or a finding says why not."""
    for item in given:
        option = options.get(item.name)
        where = f"{item.origin}: {item.name}"
        if option is None:
            draft.say("left", f"{where}: sockd init does not know this option")
            continue
        if option.convert is not None and isinstance(item.value, Unknown):
            draft.say(
                "left", f"{where}: {item.value}; sockd init runs no code: set {option.becomes}"
            )
            continue
        if option.convert is None:
            draft.say("left", f"{where}: {option.why}")
            continue
        before = dict(draft.values)
        try:
            option.convert(draft, item)
        except Left as reason:
            draft.say("left", f"{where}: {reason}")
            continue
        except (ValueError, TypeError, AttributeError) as error:
            shown = str(error) if type(error) is ValueError else "not a value of this option"
            draft.say("left", f"{where}: {shown}: {item.value!r}")
            continue
        changed = [key for key in draft.values if draft.values[key] != before.get(key)]
        for key in changed:
            draft.say("mapped", f"{where} → {key} = {draft.values[key]!r}")
        if not changed and option.becomes:
            draft.say("mapped", f"{where}: as found")


# What rows are made of.


def to(key: str, change: Callable[[Any], Any] = lambda value: value) -> Convert:
    """The value, changed, for the setting `key`."""

    def convert(draft: Draft, given: Given) -> None:
        draft.put(key, change(given.value), f"{given.name} of {given.origin}")

    return convert


def number(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return int(value)


def seconds(value: Any) -> str:
    return f"{number(value)}s"


def address(text: str) -> str:
    """HOST, HOST:PORT or unix:PATH as `bind` has it."""
    text = str(text).strip()
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        return "/" + path.lstrip("/") if path.startswith("//") else path
    if text.startswith("/"):
        return text
    text = text.removeprefix("tcp://")
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]") or not port.isdigit():
        host, port = text.removesuffix(":"), "8000"
    # systemd listens on addresses, not on names.
    host = {"localhost": "127.0.0.1", "*": ""}.get(host, host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{host}:{port}"


def target(value: Any) -> str:
    """An application as `app.target` has it."""
    text = str(value).strip()
    module, colon, attribute = text.partition(":")
    if colon and "(" in attribute and not attribute.endswith("()"):
        raise Left(f"{text}: a factory is called without arguments, as {module}:create()")
    return text if colon else f"{module}:application"


def words(value: Any) -> list[str]:
    if isinstance(value, str):
        value = value.split(",")
    return [str(item).strip() for item in value if str(item).strip()]


def account(key: str) -> Convert:
    """Puts a user or group under `key`; root is left."""

    def convert(draft: Draft, given: Given) -> None:
        if str(given.value) in ("0", "root"):
            raise Left("nothing runs as root: without unit.user systemd makes a user")
        draft.put(key, str(given.value), f"{given.name} of {given.origin}")

    return convert


def umask(draft: Draft, given: Given) -> None:
    """Digits are octal, also without a 0 before them."""
    mask = given.value if isinstance(given.value, int) else int(str(given.value), 8)
    if not 0 <= mask <= 0o777:
        raise ValueError("expected permissions in octal")
    draft.put("unit.service", {"UMask": f"{mask:04o}"}, f"{given.name} of {given.origin}")


def true(value: Any) -> bool:
    return value in (True, 1) or str(value).strip().lower() in ("1", "true", "yes", "on")
