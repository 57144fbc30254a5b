"""The usual options of uWSGI and what each becomes. Source: its manual, Options.

An option may be written with `-` or `_`; the names here have `-`.
"""

from __future__ import annotations

from pathlib import Path

from sockd.init.draft import SECRET, Draft
from sockd.init.options import (
    Convert,
    Given,
    Left,
    Option,
    account,
    address,
    number,
    seconds,
    to,
    true,
    umask,
)

PROTOCOL = (
    "HTTP, not the uwsgi protocol: nginx uses `proxy_pass` for `uwsgi_pass`, as in the generated "
    "site"
)
JITTER = "`recycle.jitter` is a percentage, 10 by default"
ADAPTED = "the number of workers is fixed; `auto` is one for each core"
APART = "a service of its own does this, under systemd"
NGINX = "nginx does this"
JOURNAL = "everything goes to the journal: `journalctl -u NAME`"
EMPEROR = "each application is a service: one /etc/sockd/NAME.toml each"
GREENLETS = "no greenlets: `threads` serve slow requests at a time"
HOOKS = "`ExecStartPre=`, `ExecStopPost=` in a drop-in: `systemctl edit NAME`"
ALWAYS = "always so"


def _module(draft: Draft, given: Given) -> None:
    text = str(given.value).strip()
    module, _, attribute = text.partition(":")
    before = str(draft.values.get("app.target", "")).partition(":")[2]
    target = f"{module}:{attribute or before or 'application'}"
    draft.put("app.target", target, f"{given.name} of {given.origin}")


def _file(draft: Draft, given: Given) -> None:
    path = Path(str(given.value))
    parts = path.with_suffix("").parts
    if path.is_absolute() or not all(part.isidentifier() for part in parts):
        directory = str(draft.values.get("app.directory", ""))
        if not path.is_absolute() or not directory or not path.is_relative_to(directory):
            raise Left(f"{path}: no module below app.directory; write app.target")
        parts = path.relative_to(directory).with_suffix("").parts
    _module(draft, Given(given.name, ".".join(parts), given.origin))


def _callable(draft: Draft, given: Given) -> None:
    name = str(given.value)
    module = str(draft.values.get("app.target", "")).partition(":")[0]
    if not module:
        raise Left("no module is given; write app.target")
    draft.put("app.target", f"{module}:{name}", f"{given.name} of {given.origin}")


def _mount(draft: Draft, given: Given) -> None:
    prefix, _, app = str(given.value).partition("=")
    if prefix.strip("/"):
        raise Left(f"{given.value}: one application for a service; nginx can give it {prefix}")
    _module(draft, Given(given.name, app, given.origin))


def _listen(draft: Draft, given: Given) -> None:
    text = str(given.value)
    if text.startswith(("=", "@", "fd://")):
        raise Left(f"{text}: no address that systemd listens on")
    found = address(text)
    same_file = given.origin.partition(":")[0] in draft.origins.get("bind", "")
    before = draft.values.get("bind", []) if same_file else []
    draft.put("bind", [*before, found], f"{given.name} of {given.origin}")
    if given.name in ("socket", "uwsgi-socket", "s"):
        draft.say("note", f"{given.origin}: {given.name}: {PROTOCOL}")


def _workers(draft: Draft, given: Given) -> None:
    value = "auto" if "%k" in str(given.value) else number(given.value)
    draft.put("workers", value, f"{given.name} of {given.origin}")


def _env(draft: Draft, given: Given) -> None:
    name, sign, value = str(given.value).partition("=")
    if not sign:
        raise Left(f"{name}: expected NAME=value")
    draft.put("app.env", {name: value}, f"{given.name} of {given.origin}")
    if SECRET.search(name):
        draft.say(
            "note",
            f"{name}: everybody may read NAME.toml; a secret belongs into a file that "
            "app.env_file names",
        )


def _pythonpath(draft: Draft, given: Given) -> None:
    before = draft.values.get("app.env", {}).get("PYTHONPATH", "")
    joined = f"{before}:{given.value}" if before else str(given.value)
    draft.put("app.env", {"PYTHONPATH": joined}, f"{given.name} of {given.origin}")


def _static(draft: Draft, given: Given) -> None:
    url, sign, path = str(given.value).partition("=")
    if not sign or not path.startswith("/") or not url.strip("/"):
        raise Left(f"{given.value}: expected /URL=/DIRECTORY")
    slashed = "/" + url.strip("/") + "/"
    draft.put("nginx.static", {slashed: path.rstrip("/") + "/"}, f"{given.name} of {given.origin}")


def _socket_mode(draft: Draft, given: Given) -> None:
    mode = "0666" if given.value == "true" else str(given.value).rjust(4, "0")
    draft.put("unit.socket_mode", mode, f"{given.name} of {given.origin}")


def _socket_owner(draft: Draft, given: Given) -> None:
    user, _, group = str(given.value).partition(":")
    for key, name in (("unit.socket_user", user), ("unit.socket_group", group)):
        if name:
            draft.put(key, name, f"{given.name} of {given.origin}")


def _master(draft: Draft, given: Given) -> None:
    raise Left("there always is one" if true(given.value) else "there always is a master")


def _row(names: str, becomes: str, why: str, convert: Convert | None = None) -> Option:
    """`names` are the option's and its other names."""
    name, *others = names.split()
    return Option(name, becomes, why, convert, tuple(others))


_ROWS = (
    _row("module wsgi w", "app.target", "without an attribute: `application`", _module),
    _row("wsgi-file file", "app.target", "as a module below `app.directory`", _file),
    _row("callable", "app.target", "the part after the colon", _callable),
    _row("mount", "app.target", "`/` only; others: a service each", _mount),
    _row("manage-script-name", "", "no header sets SCRIPT_NAME"),
    _row("chdir", "app.directory", "", to("app.directory", str)),
    _row("chdir2", "app.directory", "", to("app.directory", str)),
    _row("pythonpath python-path pp", "app.env", "as PYTHONPATH", _pythonpath),
    _row("home virtualenv venv pyhome H", "app.venv", "", to("app.venv", str)),
    _row("env", "app.env", "secrets: `app.env_file`", _env),
    _row("http-socket http11-socket", "bind", "systemd listens", _listen),
    _row("http", "bind", "there is no router process: nginx", _listen),
    _row("socket uwsgi-socket s", "bind", PROTOCOL, _listen),
    _row("https https-socket", "", "nginx speaks TLS: `nginx.certificate`, `.certificate_key`"),
    _row("fastcgi-socket scgi-socket", "", PROTOCOL),
    _row("protocol", "", PROTOCOL),
    _row("chmod-socket", "unit.socket_mode", "without a value: 0666", _socket_mode),
    _row("chown-socket", "unit.socket_user, unit.socket_group", "", _socket_owner),
    _row("listen l", "limits.backlog", "", to("limits.backlog", number)),
    _row("reuse-port so-reuseport", "", "systemd holds one socket for all workers"),
    _row("uid", "unit.user", "not root", account("unit.user")),
    _row("gid", "unit.group", "not root", account("unit.group")),
    _row("umask", "unit.service", "as UMask", umask),
    _row("master M", "", ALWAYS, _master),
    _row("processes workers p", "workers", "`%k`: `auto`", _workers),
    _row("threads", "threads", "", to("threads", number)),
    _row("enable-threads", "", ALWAYS),
    _row("threads-stacksize thread-stacksize", "", "the system's"),
    _row("single-interpreter", "", ALWAYS),
    _row("need-app strict", "", "an application that does not load fails the start"),
    _row("lazy-apps lazy", "preload", "`off`", to("preload", lambda _: "off")),
    _row("py-call-osafterfork py-call-uwsgi-fork-hooks", "", ALWAYS),
    _row("harakiri", "timeouts.request", "60 s by default", to("timeouts.request", seconds)),
    _row("harakiri-verbose", "", "the journal has the request and the stacks of all threads"),
    _row("http-timeout", "", "nginx's `proxy_read_timeout`, in the generated site"),
    _row("socket-timeout so-send-timeout", "timeouts.write", "", to("timeouts.write", seconds)),
    _row("http-keepalive add-header-keepalive so-keepalive", "", "`timeouts.keepalive`, 75 s"),
    _row(
        "worker-reload-mercy reload-mercy",
        "timeouts.drain",
        "",
        to("timeouts.drain", seconds),
    ),
    _row("max-requests", "recycle.max_requests", "", to("recycle.max_requests", number)),
    _row("max-worker-lifetime", "recycle.max_age", "", to("recycle.max_age", seconds)),
    _row("max-requests-delta max-worker-lifetime-delta min-worker-lifetime", "", JITTER),
    _row(
        "reload-on-rss evil-reload-on-rss",
        "recycle.max_memory",
        "private memory, without what workers share",
        to("recycle.max_memory", lambda value: f"{number(value)}MiB"),
    ),
    _row("reload-on-as evil-reload-on-as", "", "`recycle.max_memory` counts memory in use"),
    _row("limit-as", "", "`unit.service = { MemoryMax = ... }`"),
    _row("buffer-size", "limits.head", "", to("limits.head", lambda v: max(number(v), 16384))),
    _row("post-buffering post-buffering-bufsize", "", "bodies are read before the call"),
    _row("limit-post", "limits.body", "", to("limits.body", number)),
    _row("cheap cheaper cheaper-algo cheaper-initial cheaper-step", "", ADAPTED),
    _row("cheaper-overload cheaper-busyness-max cheaper-busyness-min idle", "", ADAPTED),
    _row("gevent gevent-monkey-patch asyncio async ugreen greenlet", "", GREENLETS),
    _row("offload-threads", "", "nginx sends files; sockd sends with sendfile"),
    _row("static-map", "nginx.static", "", _static),
    _row("check-static static-index static-expires static-safe", "", NGINX),
    _row("static-expires-uri static-gzip static-gzip-all", "", NGINX),
    _row("route route-uri route-host rewrite", "", NGINX),
    _row("add-header http-auto-gzip http-auto-chunked", "", NGINX),
    _row("daemonize d daemonize2 logto logto2 log-master", "", JOURNAL),
    _row("logger req-logger log-encoder log-maxsize log-date", "", JOURNAL),
    _row(
        "disable-logging log-4xx log-5xx log-slow log-big",
        "",
        "nginx writes the access log (`nginx.access_log`)",
    ),
    _row(
        "log-format logformat log-x-forwarded-for",
        "",
        "nginx writes the access log (`nginx.access_log`)",
    ),
    _row("memory-report", "", "`systemctl status NAME`, `sockd status NAME`"),
    _row("stats stats-server stats-http", "", "`sockd status --json`"),
    _row("master-fifo", "", "`sockd reload`, `sockd stop`, signals (docs/operating.md)"),
    _row("pidfile pidfile2 safe-pidfile", "", "systemd knows the process"),
    _row("vacuum", "", "systemd removes its sockets: `RemoveOnStop=`"),
    _row("die-on-term", "", ALWAYS),
    _row("no-orphans", "", ALWAYS),
    _row("touch-reload touch-chain-reload py-autoreload py-auto-reload", "", "`systemctl reload`"),
    _row("fs-reload", "", "`systemctl reload NAME` after a change"),
    _row("procname procname-prefix procname-prefix-spaced auto-procname", "", "the unit's name"),
    _row("thunder-lock", "", "the kernel wakes one worker: EPOLLEXCLUSIVE"),
    _row("plugin plugins plugins-dir", "", "there are none to load"),
    _row("py-tracebacker", "", "tracebacks are in the journal"),
    _row("catch-exceptions", "", "never: tracebacks are in the journal, not in answers"),
    _row("ignore-sigpipe ignore-write-errors disable-write-exception", "", ALWAYS),
    _row("wsgi-disable-file-wrapper", "", "`wsgi.file_wrapper` is always there"),
    _row("close-on-exec", "", ALWAYS),
    _row("emperor vassals-dir emperor-tyrant", "", EMPEROR),
    _row("attach-daemon smart-attach-daemon legion", "", APART),
    _row("mule mules farm spooler spooler-processes", "", APART),
    _row("cron cron2 unique-cron", "", "a systemd timer does this"),
    _row("import shared-import", "", "import it in the application's module"),
    _row("queue sharedarea cache cache2", "", "Redis, memcached or the application"),
    _row("locks", "", "no locks are shared"),
    _row(
        "cpu-affinity", "", "`unit.service = { CPUAffinity = ... }`; `workers = auto` counts by it"
    ),
    _row("hook-pre-app hook-post-app hook-as-root hook-as-user", "", HOOKS),
    _row("exec-pre-app exec-asap exec-as-root exec-as-user exec-post-app", "", HOOKS),
    _row("ini include for endfor if endif", "", "files of their own: give each to `--from`"),
    _row("show-config print", "", "`sockd check NAME`"),
)
OPTIONS = {name: option for option in _ROWS for name in (option.name, *option.flags)}
ROWS = _ROWS
