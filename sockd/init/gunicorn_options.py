"""Gunicorn's settings: all of version 27, and what each becomes. Source: its manual, Settings."""

from __future__ import annotations

import re

from sockd.init.draft import SECRET, Draft
from sockd.init.options import (
    Convert,
    Given,
    Left,
    Option,
    Takes,
    account,
    address,
    number,
    seconds,
    target,
    to,
    umask,
    words,
)
from sockd.init.static import CORES

HOOK = "hooks of Gunicorn take its own objects; "
TLS = "nginx speaks TLS"
DIRTY = "no such workers: run long tasks in a service of their own (Celery, RQ)"
HTTP2 = "nginx speaks HTTP/2 (`nginx.http2`), and HTTP/1.1 to sockd"
ASGI = "of Gunicorn's ASGI worker"
STRICT = "never: what is ambiguous is refused (docs/http.md)"
JOURNAL = "everything goes to the journal: `journalctl -u NAME`"
LOGGING = "the application's own logging is left alone; sockd writes to the journal"
ACCESS = "nginx writes the access log (`nginx.access_log`)"
STATSD = "`sockd status --json` has the figures"
GEVENT = re.compile(r"gevent|eventlet|tornado")
LEVELS = {"critical": "err", "error": "err", "warning": "warning", "info": "info"}


def _bind(draft: Draft, given: Given) -> None:
    found = []
    for item in [given.value] if isinstance(given.value, str) else given.value:
        if item.startswith("fd://"):
            raise Left("systemd passes the listening sockets")
        found.append(address(item))
    draft.put("bind", found, f"{given.name} of {given.origin}")


def _workers(draft: Draft, given: Given) -> None:
    if given.value is CORES:
        draft.put("workers", "auto", f"{given.name} of {given.origin}")
        draft.say("note", "workers was computed of the number of cores: auto is one for each")
    elif number(given.value) == 0:
        raise Left("a service has one worker at least")
    else:
        draft.put("workers", number(given.value), f"{given.name} of {given.origin}")


def _worker_class(draft: Draft, given: Given) -> None:
    name = str(given.value)
    if GEVENT.search(name):
        raise Left(
            f"{name}: sockd runs no greenlets; threads = 32 serves as many slow requests at a "
            "time, and the application must not be monkey-patched"
        )
    if re.search(r"asgi|uvicorn", name, re.IGNORECASE):
        raise Left(f"{name}: whether the application is WSGI or ASGI is seen when it is loaded")
    if name not in ("sync", "gthread") and not name.endswith(("SyncWorker", "ThreadWorker")):
        raise Left(f"{name}: sockd has one kind of worker, whose threads are `threads`")


def _threads(draft: Draft, given: Given) -> None:
    count = number(given.value)
    if not 1 <= count <= 512:
        raise Left(f"{count} threads: a worker has from 1 to 512")
    draft.put("threads", count, f"{given.name} of {given.origin}")


def _keepalive(draft: Draft, given: Given) -> None:
    if number(given.value) <= 60:
        raise Left(
            f"{given.value} s: nginx keeps connections for 60 s, and would use one just as it "
            "is closed; the default is 75 s"
        )
    draft.put("timeouts.keepalive", seconds(given.value), f"{given.name} of {given.origin}")


def _limit(key: str) -> Convert:
    def convert(draft: Draft, given: Given) -> None:
        size = number(given.value)
        if size == 0:
            raise Left("sockd always has a limit; the default stays")
        draft.put(key, size, f"{given.name} of {given.origin}")
        if size > 64 << 10 and key != "limits.headers":
            draft.put("limits.head", size + (64 << 10), f"room for {given.name}")

    return convert


def _raw_env(draft: Draft, given: Given) -> None:
    values = [given.value] if isinstance(given.value, str) else given.value
    pairs = dict(item.split("=", 1) for item in values)
    draft.put("app.env", pairs, f"{given.name} of {given.origin}")
    secret = [name for name in pairs if SECRET.search(name)]
    if secret:
        draft.say(
            "note",
            f"{', '.join(secret)}: everybody may read NAME.toml; a secret belongs into a file "
            "that app.env_file names",
        )


def _trusted(draft: Draft, given: Given) -> None:
    peers = words(given.value)
    if "*" in peers:
        raise Left(
            "with * every client could say who it is; nginx on this machine is trusted, for "
            "other proxies write their addresses"
        )
    own = [peer for peer in peers if peer not in ("127.0.0.1", "::1")]
    draft.put("server.trusted", ["unix", *peers], f"{given.name} of {given.origin}")
    if not own:
        draft.say("note", "server.trusted: through the Unix socket nginx is trusted anyway")


def _level(draft: Draft, given: Given) -> None:
    level = str(given.value).lower()
    draft.put("log.level", LEVELS.get(level, level), f"{given.name} of {given.origin}")


def _pythonpath(draft: Draft, given: Given) -> None:
    joined = ":".join(words(given.value))
    draft.put("app.env", {"PYTHONPATH": joined}, f"{given.name} of {given.origin}")


def _row(names: str, becomes: str, why: str, convert: Convert | None = None) -> Option:
    """`names` is the setting's, then its flags."""
    name, *flags = names.split()
    takes: Takes = "nothing" if name in NO_VALUE else "values" if name in REPEATED else "value"
    return Option(name, becomes, why, convert, tuple(flags), takes)


NO_VALUE = {
    *("reload", "spew", "check_config", "print_config", "preload_app", "sendfile", "reuse_port"),
    *("daemon", "initgroups", "disable_redirect_access_to_syslog", "capture_output", "syslog"),
    *("enable_stdio_inheritance", "enable_backlog_metric", "suppress_ragged_eofs"),
    *("do_handshake_on_connect", "permit_obsolete_folding", "strip_header_spaces"),
    *("permit_unconventional_http_method", "permit_unconventional_http_version"),
    *("casefold_http_method", "control_socket_disable"),
}
REPEATED = {"bind", "reload_extra_files", "raw_env", "raw_paste_global_conf", "dirty_apps"}

_ROWS = (
    _row("config -c --config", "", "read by `sockd init --from`"),
    _row(
        "wsgi_app", "app.target", "without an attribute: `application`", to("app.target", target)
    ),
    _row("bind -b --bind", "bind", "`unix:/PATH` is `/PATH`; systemd listens", _bind),
    _row("backlog --backlog", "limits.backlog", "", to("limits.backlog", number)),
    _row("workers -w --workers", "workers", "a number of cores: `auto`", _workers),
    _row(
        "worker_class -k --worker-class",
        "",
        (
            "one kind of worker: `sync` is `threads = 1`, `gthread` more; gevent, eventlet and "
            "tornado are not offered, threads take their place; ASGI is seen by the application"
        ),
        _worker_class,
    ),
    _row("threads --threads", "threads", "", _threads),
    _row(
        "worker_connections --worker-connections",
        "limits.connections",
        "",
        to("limits.connections", number),
    ),
    _row(
        "max_requests --max-requests",
        "recycle.max_requests",
        "the replacement is ready first",
        to("recycle.max_requests", number),
    ),
    _row(
        "max_requests_jitter --max-requests-jitter",
        "",
        "`recycle.jitter` is a percentage, 10 by default",
    ),
    _row(
        "timeout -t --timeout",
        "timeouts.request",
        (
            "60 s by default, for each request, also in threads (docs/lifecycle.md); "
            "`timeouts.boot` limits the start, `timeouts.header`, `.body`, `.write` a slow client"
        ),
        to("timeouts.request", seconds),
    ),
    _row(
        "graceful_timeout --graceful-timeout", "timeouts.drain", "", to("timeouts.drain", seconds)
    ),
    _row(
        "keepalive --keep-alive",
        "timeouts.keepalive",
        "only above the 60 s of nginx: a shorter one loses requests",
        _keepalive,
    ),
    _row(
        "limit_request_line --limit-request-line",
        "limits.request_line",
        "0 is not offered",
        _limit("limits.request_line"),
    ),
    _row(
        "limit_request_fields --limit-request-fields",
        "limits.headers",
        "",
        _limit("limits.headers"),
    ),
    _row(
        "limit_request_field_size --limit-request-field_size",
        "limits.header_field",
        "0 is not offered",
        _limit("limits.header_field"),
    ),
    _row("reload --reload", "", "`systemctl reload NAME`; `sockd serve --reload` to develop"),
    _row("reload_engine --reload-engine", "", "as reload"),
    _row("reload_extra_files --reload-extra-file", "", "as reload"),
    _row("spew --spew", "", "a debugger does this"),
    _row("check_config --check-config", "", "`sockd check NAME`"),
    _row("print_config --print-config", "", "`sockd check NAME`"),
    _row(
        "preload_app --preload",
        "preload",
        "`auto` preloads too, where that is safe, and each reload loads new code",
        to("preload", lambda _: "on"),
    ),
    _row("sendfile --no-sendfile", "", "chosen by sockd"),
    _row("reuse_port --reuse-port", "", "systemd holds one socket for all workers"),
    _row("chdir --chdir", "app.directory", "", to("app.directory", str)),
    _row("daemon -D --daemon", "", "systemd runs it"),
    _row("raw_env -e --env", "app.env", "secrets: `app.env_file`", _raw_env),
    _row("pidfile -p --pid", "", "systemd knows the process"),
    _row("worker_tmp_dir --worker-tmp-dir", "", "workers are watched in memory"),
    _row("user -u --user", "unit.user", "not root", account("unit.user")),
    _row("group -g --group", "unit.group", "not root", account("unit.group")),
    _row("umask -m --umask", "unit.service", "as UMask", umask),
    _row("initgroups --initgroups", "", "systemd always does"),
    _row("tmp_upload_dir", "", "large bodies go to /var/tmp, without a name"),
    _row("secure_scheme_headers", "", "`X-Forwarded-Proto` and `Forwarded` of trusted peers"),
    _row(
        "forwarded_allow_ips --forwarded-allow-ips",
        "server.trusted",
        "`*` is not offered; `unix` is added",
        _trusted,
    ),
    _row("accesslog --access-logfile", "", ACCESS),
    _row(
        "disable_redirect_access_to_syslog --disable-redirect-access-to-syslog",
        "",
        ACCESS,
    ),
    _row("access_log_format --access-logformat", "", ACCESS),
    _row("errorlog --error-logfile --log-file", "", JOURNAL),
    _row("loglevel --log-level", "log.level", "`critical` and `error` are `err`", _level),
    _row("capture_output --capture-output", "", JOURNAL),
    _row("logger_class --logger-class", "", LOGGING),
    _row("logconfig --log-config", "", LOGGING),
    _row("logconfig_dict", "", LOGGING),
    _row("logconfig_json --log-config-json", "", LOGGING),
    _row("syslog_addr --log-syslog-to", "", JOURNAL),
    _row("syslog --log-syslog", "", JOURNAL),
    _row("syslog_prefix --log-syslog-prefix", "", JOURNAL),
    _row("syslog_facility --log-syslog-facility", "", JOURNAL),
    _row("enable_stdio_inheritance -R --enable-stdio-inheritance", "", JOURNAL),
    _row("statsd_host --statsd-host", "", STATSD),
    _row("dogstatsd_tags --dogstatsd-tags", "", STATSD),
    _row("statsd_prefix --statsd-prefix", "", STATSD),
    _row("enable_backlog_metric --enable-backlog-metric", "", STATSD),
    _row("proc_name -n --name", "", "the unit's name is the service's"),
    _row("default_proc_name", "", "the unit's name is the service's"),
    _row("pythonpath --pythonpath", "app.env", "as PYTHONPATH", _pythonpath),
    _row(
        "paste --paste --paster",
        "",
        'a module with `application = loadapp("config:/PATH")` does it',
    ),
    _row("on_starting", "", HOOK + "put it before the start: `ExecStartPre=` in a drop-in"),
    _row("on_reload", "", HOOK + "`app.before_fork` is called for each generation"),
    _row("when_ready", "", HOOK + "`systemctl start` returns when workers are ready"),
    _row("pre_fork", "", HOOK + "`app.before_fork`, once for each generation"),
    _row("post_fork", "", HOOK + "`app.after_fork`"),
    _row("post_worker_init", "", HOOK + "`app.after_fork`"),
    _row("worker_int", "", HOOK + "`app.on_drain`"),
    _row("worker_abort", "", HOOK + "the journal tells why a worker ended"),
    _row("pre_exec", "", HOOK + "there is no exec of the master"),
    _row("pre_request", "", HOOK + "a WSGI middleware sees each request"),
    _row("post_request", "", HOOK + "a WSGI middleware sees each response"),
    _row("child_exit", "", HOOK + "the journal tells of each worker's end"),
    _row("worker_exit", "", HOOK + "`app.on_exit`"),
    _row("nworkers_changed", "", HOOK + "`sockd status --json`"),
    _row("on_exit", "", HOOK + "`ExecStopPost=` in a drop-in"),
    _row("ssl_context", "", TLS),
    _row("proxy_protocol --proxy-protocol", "", "nginx takes it: `listen ... proxy_protocol`"),
    _row("proxy_allow_ips --proxy-allow-from", "", "nginx takes it: `set_real_ip_from`"),
    _row("protocol --protocol", "", "HTTP only: nginx uses `proxy_pass` for `uwsgi_pass`"),
    _row("uwsgi_allow_ips --uwsgi-allow-from", "", "HTTP only"),
    _row("keyfile --keyfile", "nginx.certificate_key", TLS, to("nginx.certificate_key", str)),
    _row("certfile --certfile", "nginx.certificate", TLS, to("nginx.certificate", str)),
    _row("ssl_version --ssl-version", "", TLS),
    _row("cert_reqs --cert-reqs", "", TLS),
    _row("ca_certs --ca-certs", "", TLS),
    _row("suppress_ragged_eofs --suppress-ragged-eofs", "", TLS),
    _row("do_handshake_on_connect --do-handshake-on-connect", "", TLS),
    _row("ciphers --ciphers", "", TLS),
    _row("http_protocols --http-protocols", "", HTTP2),
    _row("http2_cleartext --http2-cleartext", "", HTTP2),
    _row("http2_max_concurrent_streams --http2-max-concurrent-streams", "", HTTP2),
    _row("http2_initial_window_size --http2-initial-window-size", "", HTTP2),
    _row("http2_max_frame_size --http2-max-frame-size", "", HTTP2),
    _row("http2_max_header_list_size --http2-max-header-list-size", "", HTTP2),
    _row("raw_paste_global_conf --paste-global", "", "as paste"),
    _row("permit_obsolete_folding --permit-obsolete-folding", "", STRICT),
    _row("strip_header_spaces --strip-header-spaces", "", STRICT),
    _row(
        "permit_unconventional_http_method --permit-unconventional-http-method",
        "",
        "any method that is a token passes",
    ),
    _row("permit_unconventional_http_version --permit-unconventional-http-version", "", STRICT),
    _row("casefold_http_method --casefold-http-method", "", STRICT),
    _row("forwarder_headers --forwarder-headers", "", "no header sets SCRIPT_NAME"),
    _row("header_map --header-map", "", "names with `_` are dropped, always"),
    _row("asgi_loop --asgi-loop", "", ASGI),
    _row("asgi_lifespan --asgi-lifespan", "", ASGI),
    _row("asgi_disconnect_grace_period --asgi-disconnect-grace-period", "", ASGI),
    _row("websocket_max_message_size --websocket-max-message-size", "", ASGI),
    _row("http_parser --http-parser", "", "sockd has one, compiled"),
    _row("root_path --root-path", "", "nginx and the application's own setting"),
    _row("dirty_apps --dirty-app", "", DIRTY),
    _row("dirty_workers --dirty-workers", "", DIRTY),
    _row("dirty_timeout --dirty-timeout", "", DIRTY),
    _row("dirty_threads --dirty-threads", "", DIRTY),
    _row("dirty_graceful_timeout --dirty-graceful-timeout", "", DIRTY),
    _row("on_dirty_starting", "", DIRTY),
    _row("dirty_post_fork", "", DIRTY),
    _row("dirty_worker_init", "", DIRTY),
    _row("dirty_worker_exit", "", DIRTY),
    _row("control_socket --control-socket", "", "`sockd status`, `reload` and `stop`"),
    _row("control_socket_mode --control-socket-mode", "", "root and the service's user"),
    _row("control_socket_disable --no-control-socket", "", "always there"),
)
OPTIONS = {option.name: option for option in _ROWS}
