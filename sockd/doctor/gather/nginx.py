"""nginx's whole configuration, as `nginx -T` prints it, and where it passes requests on.

Source: nginx.org/en/docs, "Configuration file measurement units", ngx_http_core_module and
ngx_http_proxy_module for what is inherited.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sockd.doctor.facts import Missing, Nginx, Route
from sockd.identity import Identity, find
from sockd.units import tools

USER = "www-data"  # Debian's, where none is said
_FILE = re.compile(r"(?m)^# configuration file (.+):$")
_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<sign>[{};])|"(?P<double>(?:\\.|[^"\\])*)"|'(?P<single>(?:\\.|[^'\\])*)'|"""
    r"""(?P<word>(?:\\.|\$\{[^}]*\}|[^\s{};"'\\])(?:\\.|\$\{[^}]*\}|[^\s{};\\])*)""",
    re.DOTALL,
)


@dataclass
class Directive:
    name: str
    words: list[str]
    file: str
    block: list[Directive] = field(default_factory=list)


def look() -> tuple[Nginx | Missing, Identity | None]:
    """And who its workers are."""
    program = tools.find("nginx")
    if program is None:
        return Missing("there is no nginx here"), None
    if os.geteuid() != 0:
        return Missing("only root can have nginx show its configuration"), _identity(USER)
    dump = tools.run(program, "-T")
    is_active = tools.run("systemctl", "is-active", "--quiet", "nginx.service")
    active = is_active.returncode == 0 or not tools.systemd_runs()
    problems = re.findall(r"\[(emerg|warn)\] (?:\d+#\d+: )?(.*)", dump.stdout)
    tree = parse(dump.stdout) if dump.returncode == 0 else []
    user = next((one.words[0] for one in tree if one.name == "user" and one.words), USER)
    return Nginx(
        active,
        next((text for level, text in problems if level == "emerg"), "")
        or ("" if dump.returncode == 0 else "nginx -t fails"),
        tuple(text for level, text in problems if level == "warn"),
        user,
        tuple(routes(tree)),
    ), _identity(user)


def _identity(user: str) -> Identity | None:
    try:
        return find(user, "")
    except KeyError:
        return None


def parse(dump: str) -> list[Directive]:
    """The directives of the main file, with what it includes in their places."""
    parts = _FILE.split(dump)
    files = {
        path: _directives(path, text) for path, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return _included(files[parts[1]], files, Path(parts[1]).parent) if files else []


def _directives(path: str, text: str) -> list[Directive]:
    top: list[Directive] = []
    open_blocks = [top]
    words: list[str] = []
    for match in _TOKEN.finditer(text):
        sign = match["sign"]
        if sign in (";", "{") and words:
            directive = Directive(words[0], words[1:], path)
            open_blocks[-1].append(directive)
            if sign == "{":
                open_blocks.append(directive.block)
            words = []
        elif sign == "}" and len(open_blocks) > 1:
            open_blocks.pop()
        else:
            token = next(
                (match[k] for k in ("double", "single", "word") if match[k] is not None), None
            )
            if token is not None:
                words.append(re.sub(r"\\(.)", r"\1", token))
    return top


def _included(
    found: list[Directive], files: Mapping[str, list[Directive]], base: Path
) -> list[Directive]:
    made: list[Directive] = []
    for directive in found:
        if directive.name == "include" and directive.words:
            pattern = str(base / directive.words[0])
            for path in sorted(files):
                if fnmatch.fnmatchcase(path, pattern) and path != directive.file:
                    made += _included(files[path], files, base)
            continue
        directive.block = _included(directive.block, files, base)
        made.append(directive)
    return made


def routes(tree: Sequence[Directive]) -> Iterator[Route]:
    """Each proxy_pass, with what is in force there."""
    for http in (one for one in tree if one.name == "http"):
        upstreams = {
            one.words[0]: one.block for one in http.block if one.name == "upstream" and one.words
        }
        for server in (one for one in http.block if one.name == "server"):
            names = [
                word for one in server.block if one.name == "server_name" for word in one.words
            ]
            yield from _passes(server, [http, server], tuple(names), upstreams)


def _passes(
    block: Directive,
    around: list[Directive],
    names: tuple[str, ...],
    upstreams: Mapping[str, list[Directive]],
) -> Iterator[Route]:
    for one in block.block:
        if one.name == "proxy_pass" and one.words:
            yield _route(one, around, names, upstreams)
        elif one.name in ("location", "if", "limit_except"):
            yield from _passes(one, [*around, one], names, upstreams)


def _route(
    found: Directive,
    around: list[Directive],
    names: tuple[str, ...],
    upstreams: Mapping[str, list[Directive]],
) -> Route:
    target = re.sub(r"^https?://", "", found.words[0])
    own = target.partition("/")[0] if not target.startswith("unix:") else target
    upstream = own if own in upstreams else ""
    inside = upstreams.get(own, [])
    servers = [one.words[0] for one in inside if one.name == "server" and one.words]
    location = next(
        (" ".join(one.words) for one in reversed(around) if one.name == "location"), ""
    )
    return Route(
        names,
        f" {location}" if location else "",
        tuple(map(_address, servers or [own])),
        upstream,
        _in_force(around)
        | {one.name: tuple(one.words) for one in inside if one.name.startswith("keepalive")},
        found.file,
    )


def _in_force(around: list[Directive]) -> dict[str, tuple[str, ...]]:
    """The nearest of each name; the header lines of a block replace all those around it."""
    made: dict[str, tuple[str, ...]] = {}
    for block in around:
        own: dict[str, tuple[str, ...]] = {}
        for one in block.block:
            if one.name == "proxy_set_header" and one.words:
                own[one.name] = (*own.get(one.name, ()), one.words[0].lower())
            elif not one.block and not one.name.startswith("keepalive"):
                own[one.name] = tuple(one.words)
        made |= own
    return made


def _address(text: str) -> str:
    """`unix:/run/shop.sock:/` → `/run/shop.sock`; a host without a port has 80."""
    if text.startswith("unix:"):
        return text.removeprefix("unix:").partition(":")[0]
    return text if re.search(r":\d+$", text) else f"{text}:80"
