"""Every option of sockd, one row each.

A row is a dataclass field made by `option`: its name, type, default, documentation, and what a
change of it needs. Reading files (`config`), flags (`cli`), units and the manual are derived from
these rows, so an option is added here and nowhere else. `key` of a row is its dotted path:
`timeouts.drain`.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from ipaddress import IPv6Address
from typing import Any, Literal, NamedTuple, cast

Change = Literal["reload", "restart", "units"]
"""What makes a changed value take effect: `systemctl reload`, a restart of the service, or
`sockd generate-units --install` (then a restart)."""


@dataclass(frozen=True)
class Kind:
    """How a value is written: `parse` takes what TOML (or a flag's text) gives and returns the
    typed value, or raises ValueError saying what was expected."""

    name: str
    parse: Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a string")
    if "\0" in value or "\n" in value:
        raise ValueError("expected one line of text")
    if any("\ud800" <= char <= "\udfff" for char in value):  # bytes that the shell passed
        raise ValueError("expected text in UTF-8")
    return value


def _path(value: Any) -> str:
    """The path of a URL, as a request line has it."""
    text = _text(value)
    if text and not re.fullmatch(r"/[!$-;=@-~]*", text, re.ASCII):
        raise ValueError('expected a path such as "/healthz"')
    return text


def _account(value: Any) -> str:
    """A user or group, by name or number, as systemd takes it."""
    text = _text(value)
    if text and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.@-]{0,30}|\d{1,10}", text):
        raise ValueError("expected the name of a user or group, or its number")
    return text


def _mode(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError('expected the permissions as text, such as "0660"')
    return text.rjust(4, "0")


def _umask(value: Any) -> int | None:
    text = _text(value)
    if text and not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise ValueError('expected three octal digits, such as "027"')
    return int(text, 8) if text else None


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("expected true or false")


_UNITS_OF_TIME = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_OF_SIZE = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DAY = 86400.0
_LARGEST_HEAD = 1 << 30  # the parser counts a head in 32 bits
_LARGEST_BODY = 1 << 50
_LARGEST_COUNT = (1 << 31) - 1


def _quantity(value: Any, units: dict[str, float] | dict[str, int], example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"expected a number or text such as {example}")
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value, re.ASCII)
        if not match or (match[2] and match[2] not in units):
            raise ValueError(f"expected a number or text such as {example}")
        value = float(match[1]) * (units[match[2]] if match[2] else 1)
    if value != value or value < 0:
        raise ValueError("expected a number that is not negative")
    return math.inf if value > 1e18 else float(value)  # an int may be too large for a float


def _duration(value: Any) -> float:
    seconds = _quantity(value, _UNITS_OF_TIME, '"30s", "500ms" or "2min"')
    if seconds > _DAY:
        raise ValueError("expected at most 24h")
    return seconds


def _timeout(value: Any) -> float:
    seconds = _duration(value)
    if seconds < 0.001:
        raise ValueError("expected at least 1ms: with less nothing could ever finish")
    return seconds


def _age(value: Any) -> float:
    seconds = _quantity(value, _UNITS_OF_TIME, '"1h" or "365d"')
    if seconds > 3650 * _DAY:
        raise ValueError("expected at most 3650d")
    return seconds


def _size(value: Any) -> int:
    size = _quantity(value, _UNITS_OF_SIZE, '"64KiB" or "1GiB"')
    if size > _LARGEST_BODY:
        raise ValueError("expected at most 1024TiB")
    return int(size)


def _head_size(value: Any) -> int:
    size = _size(value)
    if size > _LARGEST_HEAD:
        raise ValueError("expected at most 1GiB")
    return size


def _count(value: Any) -> int:
    # More digits than that would be too many for int().
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_COUNT:
        raise ValueError(f"expected a whole number from 0 to {_LARGEST_COUNT}")
    return value


def _percent(value: Any) -> int:
    count = _count(value)
    if count > 100:
        raise ValueError("expected a whole number from 0 to 100")
    return count


def _threads(value: Any) -> int:
    count = _count(value)
    if not 1 <= count <= 512:
        raise ValueError("expected a whole number from 1 to 512")
    return count


def _workers(value: Any) -> int:
    if value == "auto":
        return 0
    try:
        count = _count(value)
    except ValueError:
        count = 0
    if not 1 <= count <= 512:
        raise ValueError('expected "auto" or a whole number from 1 to 512')
    return count


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise ValueError("expected a list of strings")
    return tuple(_text(item) for item in value)


def _addresses(value: Any) -> tuple[str, ...]:
    addresses = _texts(value)
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if address.startswith("/"):
            if len(address.encode()) > 107:  # sun_path with its NUL, unix(7)
                raise ValueError(
                    f"{address} is longer than the 107 bytes that a socket's path has"
                )
        elif not (colon and port.isascii() and port.isdigit() and int(port) < 1 << 16) or not (
            _is_host(host)
        ):
            raise ValueError(
                f'"{address}" is no address; expected "HOST:PORT", "[V6]:PORT", ":PORT" or '
                '"/path.sock"'
            )
    if len(set(addresses)) < len(addresses):
        raise ValueError("an address is listed twice")
    return addresses


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        try:
            return bool(IPv6Address(host[1:-1]))
        except ValueError:
            return False
    return not re.search(r"[^A-Za-z0-9._-]", host)


def _peers(value: Any) -> tuple[str, ...]:
    peers = _texts(value)
    for peer in peers:
        if peer != "unix":
            try:
                ipaddress.ip_network(peer)
            except ValueError:
                raise ValueError(
                    f'expected addresses, networks such as "10.0.0.0/8", or "unix", not "{peer}"'
                ) from None
    return peers


def _requests(value: Any) -> tuple[str, ...]:
    targets = _texts(value)
    for target in targets:
        if not re.fullmatch(r"(https?://[A-Za-z0-9._:\[\]-]+)?/[!-~]*", target) or "#" in target:
            raise ValueError('expected paths such as "/" or URLs such as "https://shop.example/"')
    return targets


def _table(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError('expected a table of strings, such as { NAME = "value" }')
    table = {}
    for name, item in value.items():
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            raise ValueError(f"expected a string for {name}")
        table[_text(name)] = _text(str(item))
    return table


def _paths(value: Any) -> tuple[str, ...]:
    paths = _texts(value)
    for path in paths:
        if not re.fullmatch(r"/[!$-)+-;=@-~]*\*?", path, re.ASCII):
            raise ValueError('expected paths such as "/healthz" or "/static/*"')
    return paths


def _file(value: Any) -> str:
    text = _text(value)
    if text and text != "-" and not text.startswith("/"):
        raise ValueError('expected an absolute path or "-"')
    return text


def _format(value: Any) -> str:
    text = _text(value)
    rest = re.sub(r"%%|%\((?:\{[^{}]+\}[ioe]|[hlutrmUqHsBbfaTDMLp])\)s", "", text)
    if "%" in rest:
        raise ValueError(f'expected fields such as %(h)s and %({{referer}}i)s in "{text}"')
    return text


def _one_of(*words: str) -> Kind:
    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError("expected one of " + ", ".join(f'"{word}"' for word in words))
        return str(value)

    return Kind(" | ".join(words), parse)


TEXT = Kind("string", _text)
PATH = Kind("string", _path)
FLAG = Kind("true | false", _flag)
ACCOUNT = Kind("string", _account)
MODE = Kind("string", _mode)
DURATION = Kind("duration", _duration)
AGE = Kind("age", _age)
TIMEOUT = Kind("duration", _timeout)
SIZE = Kind("size", _size)
HEAD_SIZE = Kind("size", _head_size)
COUNT = Kind("number", _count)
PERCENT = Kind("number", _percent)
THREADS = Kind("number", _threads)
WORKERS = Kind("auto | number", _workers)
UMASK = Kind("string", _umask)
TEXTS = Kind("list of strings", _texts)
ADDRESSES = Kind("list of addresses", _addresses)
PEERS = Kind("list of strings", _peers)
REQUESTS = Kind("list of strings", _requests)
TABLE = Kind("table of strings", _table)
PATHS = Kind("list of strings", _paths)
FILE = Kind("string", _file)
FORMAT = Kind("string", _format)

DEFAULT_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


def option(kind: Kind, default: Any, doc: str, change: Change = "reload") -> Any:
    """One row. `default` is written as an operator would write it."""
    value = kind.parse(default)
    metadata = {"kind": kind, "default": default, "doc": doc, "change": change}
    return field(default_factory=lambda: value, metadata=metadata)


@dataclass(frozen=True)
class App:
    target: str = option(TEXT, "", "the application: `module:attribute` or `module:factory()`")
    interface: str = option(
        _one_of("auto", "wsgi", "asgi"),
        "auto",
        "how it is called; auto: ASGI 3 if it is a coroutine function or has an async `__call__`",
    )
    lifespan: str = option(
        _one_of("auto", "on", "off"),
        "auto",
        "ASGI's startup and shutdown events; on: an application without them fails",
    )
    directory: str = option(
        TEXT, "", "working directory, first on sys.path; a symlink is resolved at each reload"
    )
    venv: str = option(TEXT, "", "virtual environment whose Python runs the application")
    before_fork: str = option(
        TEXT, "", "`module:function`, called once when all is imported, before workers are forked"
    )
    after_fork: str = option(TEXT, "", "`module:function`, called in each worker before it serves")
    on_drain: str = option(
        TEXT, "", "`module:function`, called in a worker that is told to finish"
    )
    on_exit: str = option(TEXT, "", "`module:function`, called in a worker after its last request")
    warmup: tuple[str, ...] = option(
        REQUESTS,
        [],
        "what each worker is asked before it serves: paths, or URLs where the name matters",
    )
    env: dict[str, str] = option(TABLE, {}, "environment variables of the application")
    root_path: str = option(
        PATH,
        "",
        "path below which the application lives, its SCRIPT_NAME; a proxy may have taken it away",
    )
    env_file: str = option(TEXT, "", "file of NAME=value lines, read at each reload")


@dataclass(frozen=True)
class Server:
    loop: str = option(
        _one_of("auto", "asyncio", "uvloop"),
        "auto",
        "event loop of ASGI applications; auto: uvloop if their environment has it",
    )
    health: str = option(
        PATH,
        "",
        "path that answers health checks without the application, 503 while draining; empty: none",
    )
    stream_body: bool = option(
        FLAG,
        False,
        "call the application when the head is read, and let it read the body as it comes",
    )
    request_id: bool = option(
        FLAG,
        False,
        "answer with X-Request-ID, and give applications its value as `sockd.request_id`",
    )
    early_hints: bool = option(
        FLAG,
        False,
        "103 for `wsgi.early_hints`, or the same of ASGI (nginx must be 1.29 or newer)",
    )
    trusted: tuple[str, ...] = option(
        PEERS,
        ["unix"],
        "peers whose Forwarded and X-Forwarded-* headers count: addresses, networks, `unix`",
    )


@dataclass(frozen=True)
class Timeouts:
    boot: float = option(TIMEOUT, "60s", "a generation must be ready within this time")
    header: float = option(TIMEOUT, "10s", "whole request head, from its first byte")
    body: float = option(TIMEOUT, "60s", "each 64 KiB of a request body")
    write: float = option(TIMEOUT, "60s", "each 64 KiB of a response taken by the client")
    keepalive: float = option(TIMEOUT, "75s", "an idle connection; keep it above nginx's 60 s")
    drain: float = option(TIMEOUT, "30s", "requests in hand when a worker is told to end")
    request: float = option(
        DURATION,
        "60s",
        "the application's time for a request, or the next piece of its response; then it is "
        "answered with 504, or cut, and the worker replaced; 0: no limit",
    )
    idle_exit: float = option(
        DURATION,
        0,
        "a service without an open connection ends after so long, and systemd starts it with the "
        "next one; 0: never",
    )


@dataclass(frozen=True)
class Recycle:
    max_requests: int = option(COUNT, 0, "a worker is replaced after so many requests; 0: never")
    max_memory: int = option(
        SIZE, 0, "a worker is replaced when its private memory is so much; 0: never"
    )
    max_age: float = option(AGE, 0, "a worker is replaced after so long; 0: never")
    jitter: int = option(PERCENT, 10, "percent by which these limits differ between workers")


@dataclass(frozen=True)
class Process:
    user: str = option(
        ACCOUNT, "", "whom the application runs as, where root runs sockd without systemd"
    )
    group: str = option(ACCOUNT, "", "its group; empty means that of the user")
    umask: int | None = option(UMASK, "", "file mode creation mask, octal; empty: as it is")


@dataclass(frozen=True)
class Limits:
    body: int = option(SIZE, "1GiB", "request body; larger ones are refused with 413")
    request_line: int = option(HEAD_SIZE, "8KiB", "request line; longer ones are refused with 414")
    header_field: int = option(HEAD_SIZE, "8KiB", "one header field line (431)")
    headers: int = option(COUNT, 100, "header fields in a request (431)")
    head: int = option(HEAD_SIZE, "64KiB", "whole request head (431)")
    queue_time: float = option(
        DURATION,
        "0s",
        "a request that waited longer gets 503 with Retry-After; X-Request-Start of trusted peers "
        "counts; 0: no limit",
    )
    connections: int = option(COUNT, 4096, "open connections of one worker")
    concurrency: int = option(
        COUNT,
        0,
        "requests and WebSockets that a worker of an ASGI application has in hand; beyond that no "
        "connection is accepted; 0: no limit",
    )
    backlog: int = option(COUNT, 4096, "connections that the kernel queues", "units")


@dataclass(frozen=True)
class WebSocket:
    message: int = option(SIZE, "16MiB", "one message; larger ones close the connection (1009)")
    ping: float = option(
        DURATION,
        "20s",
        "a silent client is pinged after so long, and cut after as long again; 0: never",
    )
    compression: bool = option(FLAG, True, "permessage-deflate, if the client can")


@dataclass(frozen=True)
class Log:
    level: str = option(
        _one_of("debug", "info", "notice", "warning", "err"), "info", "least priority logged"
    )
    format: str = option(
        _one_of("text", "json"),
        "text",
        "what entries are on standard error, where that is not the journal",
    )
    access: str = option(
        _one_of("off", "errors", "slow", "all"),
        "off",
        "requests that are logged: those answered with 5xx or cut; those and slow ones; all",
    )
    slow: float = option(
        DURATION,
        0,
        "a request that takes longer is slow: its stack is logged while it runs; 0: never "
        "(and 1s for `log.access`)",
    )
    access_except: tuple[str, ...] = option(
        PATHS, [], "paths that are not logged unless they fail; `/static/*` is all below that"
    )
    access_file: str = option(
        FILE, "", "file for the access log instead of the journal, `-` for standard output"
    )
    access_format: str = option(
        FORMAT, DEFAULT_FORMAT, "of a line in that file, in Gunicorn's notation"
    )


@dataclass(frozen=True)
class Unit:
    description: str = option(TEXT, "", "Description= of the service", "units")
    user: str = option(ACCOUNT, "", "system user; empty means DynamicUser", "units")
    group: str = option(ACCOUNT, "", "system group; empty means that of the user", "units")
    hardening: str = option(
        _one_of("standard", "strict", "off"),
        "standard",
        "how far the service is shut in; strict: no network but the sockets that it serves",
        "units",
    )
    writable: tuple[str, ...] = option(
        TEXTS, [], "directories that it may write to, beside $STATE_DIRECTORY", "units"
    )
    credentials: dict[str, str] = option(
        TABLE,
        {},
        "secrets in $CREDENTIALS_DIRECTORY: { NAME = FILE }, which root alone need read",
        "units",
    )
    env_files: tuple[str, ...] = option(
        TEXTS, [], "EnvironmentFile=: read by systemd as root, when the service starts", "units"
    )
    watchdog: float = option(DURATION, "30s", "WatchdogSec=; 0 turns the watchdog off", "units")
    restart_delay: float = option(DURATION, "100ms", "RestartSec=", "units")
    socket_user: str = option(ACCOUNT, "root", "owner of Unix sockets", "units")
    socket_group: str = option(
        ACCOUNT, "www-data", "group that may connect to Unix sockets", "units"
    )
    socket_mode: str = option(MODE, "0660", "permissions of Unix sockets", "units")
    service: dict[str, str] = option(
        TABLE,
        {},
        'any other directive of [Service], or another value: { MemoryMax = "2G" }',
        "units",
    )
    socket: dict[str, str] = option(TABLE, {}, "the same for [Socket]", "units")


@dataclass(frozen=True)
class Nginx:
    server_name: tuple[str, ...] = option(TEXTS, ["_"], "server_name of the site", "units")
    listen: tuple[str, ...] = option(TEXTS, ["80", "[::]:80"], "listen addresses", "units")
    certificate: str = option(
        TEXT, "", "chain of certificates (PEM); with it the site speaks TLS", "units"
    )
    certificate_key: str = option(TEXT, "", "its private key (PEM)", "units")
    tls_listen: tuple[str, ...] = option(
        TEXTS, ["443", "[::]:443"], "listen addresses for TLS", "units"
    )
    redirect: bool = option(FLAG, True, "with TLS: send plain HTTP there", "units")
    http2: bool = option(FLAG, True, "with TLS: HTTP/2", "units")
    hsts: float = option(AGE, 0, "with TLS: Strict-Transport-Security; 0 sends none", "units")
    acme: str = option(
        TEXT, "", "directory that has .well-known/acme-challenge for certificates", "units"
    )
    servers: tuple[str, ...] = option(
        TEXTS,
        [],
        'with more than one machine: `"local weight=2", "10.0.0.2:8000", "10.0.0.3:8000 backup"`',
        "units",
    )
    static: dict[str, str] = option(
        TABLE, {}, 'directories that nginx serves: { "/static/" = "/srv/shop/static/" }', "units"
    )
    static_age: float = option(
        AGE, "1h", "how long clients keep those files; 365d if the name has a hash", "units"
    )
    media: dict[str, str] = option(
        TABLE, {}, "the same for what the application writes; wants unit.user", "units"
    )
    media_age: float = option(AGE, "1h", "how long clients keep those files", "units")
    unbuffered: tuple[str, ...] = option(
        TEXTS, [], "paths whose bodies and answers pass nginx as they come: `/events/`", "units"
    )
    private: tuple[str, ...] = option(
        TEXTS, ["/metrics", "/status"], "paths closed to all but nginx.allow", "units"
    )
    allow: tuple[str, ...] = option(
        TEXTS, ["127.0.0.1", "::1"], "addresses and networks that may ask for those", "units"
    )
    status: str = option(
        TEXT,
        "",
        "path of the status page, such as `/sockd/`, for nginx.allow; wants NAME-status.socket",
        "units",
    )
    gzip: bool = option(FLAG, True, "compress text on its way to the client", "units")
    access_log: str = option(TEXT, "", "file for an access log in JSON", "units")


@dataclass(frozen=True)
class Settings:
    bind: tuple[str, ...] = option(
        ADDRESSES,
        ["127.0.0.1:8000"],
        "`HOST:PORT`, `[V6]:PORT`, `:PORT` or `/path.sock`; under systemd only the units read it, "
        "whose default is `/run/sockd-NAME.sock`",
        "units",
    )
    workers: int = option(
        WORKERS,
        "auto",
        "worker processes; auto: as many as the cores, the CPU quota and the memory limit allow",
    )
    threads: int = option(
        THREADS, 1, "threads of a worker that run the application; 1 runs it in the worker's own"
    )
    preload: str = option(
        _one_of("auto", "on", "off"),
        "auto",
        "import the application once, and fork the workers from that; auto: unless the import "
        "leaves threads or connections; off: each worker imports it",
    )
    app: App = field(default_factory=App)
    server: Server = field(default_factory=Server)
    timeouts: Timeouts = field(default_factory=Timeouts)
    recycle: Recycle = field(default_factory=Recycle)
    process: Process = field(default_factory=Process)
    limits: Limits = field(default_factory=Limits)
    websocket: WebSocket = field(default_factory=WebSocket)
    log: Log = field(default_factory=Log)
    unit: Unit = field(default_factory=Unit)
    nginx: Nginx = field(default_factory=Nginx)


class Row(NamedTuple):
    """An option as the commands and the manual see it."""

    key: str
    kind: Kind
    default: Any
    doc: str
    change: Change


def rows(table: type[Any] = Settings, prefix: str = "") -> Iterator[Row]:
    """All options in the order of declaration."""
    for item in fields(table):
        if item.metadata:
            m = item.metadata
            yield Row(prefix + item.name, m["kind"], m["default"], m["doc"], m["change"])
        else:
            section = cast(type[Any], item.default_factory)
            yield from rows(section, f"{prefix}{item.name}.")
