"""What the template of the nginx site is given, derived from the configuration."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
from typing import Any

from sockd.config import Config
from sockd.errors import ConfigError
from sockd.settings import Nginx
from sockd.units.values import MARGIN, Names, bound

UNLIMITED = 86400.0  # s; nginx wants a number where the application may take as long as it likes
HTTP2_DIRECTIVE = [1, 25, 1]  # the nginx that has `http2 on;` and warns of `listen ... http2`

_ADDRESS = re.compile(r"unix:/\S+|\[[0-9A-Fa-f:.]+\](:\d{1,5})?|[A-Za-z0-9._-]+(:\d{1,5})?")
_PARAMETER = re.compile(
    r"weight=\d+|max_conns=\d+|max_fails=\d+|fail_timeout=\d+(ms|s|m|h)?|backup|down"
)


def site(names: Names, config: Config, version: list[int]) -> dict[str, Any]:
    settings = config.settings
    nginx, limits = settings.nginx, settings.limits
    line = max(limits.request_line, limits.header_field)
    tls = _tls(nginx)
    private = _private(nginx)
    health = settings.server.health
    if not nginx.listen and not tls:
        raise ConfigError("nginx.listen: expected at least one address")
    words = ["ssl", "http2"] if nginx.http2 and version < HTTP2_DIRECTIVE else ["ssl"]
    return {
        "names": names,
        "settings": settings,
        "variable": _variable(names.name),
        "servers": _servers(nginx.servers, bound(names, config)),
        "plain": [_listen("nginx.listen", text) for text in nginx.listen],
        "secure": [_listen("nginx.tls_listen", text, *words) for text in nginx.tls_listen]
        if tls
        else [],
        "http2": tls and nginx.http2 and version >= HTTP2_DIRECTIVE,
        "redirect": tls and nginx.redirect and bool(nginx.listen),
        "tls_port": _port(nginx.tls_listen[0]) if tls else "",
        "acme": _acme(nginx.acme),
        "static": _directories("nginx.static", nginx.static),
        "media": _directories("nginx.media", nginx.media),
        "unbuffered": [_path("nginx.unbuffered", path) for path in nginx.unbuffered],
        "private": [rf"^{re.escape(path)}(/|$)" for path in private],
        "status": _status(nginx),
        "status_socket": f"/run/sockd-{names.name}-status.sock",
        "health": "" if _below(health, private) else health,
        "allow": [_network(text) for text in nginx.allow],
        "access_log": _file("nginx.access_log", nginx.access_log),
        "header_buffer": line,
        "header_buffers": max(1, math.ceil(limits.head / line)),
        # Until a worker is ready nothing reads, and after that comes the response, or sockd's 504.
        "answer_timeout": math.ceil(
            settings.timeouts.boot + (settings.timeouts.request or UNLIMITED) + MARGIN
        ),
    }


def _variable(name: str) -> str:
    """Part of the names of variables, which are nginx's, not one site's."""
    if name.isalnum():
        return f"sockd_{name}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"sockd_{re.sub(r'[^A-Za-z0-9]', '_', name)}_{digest}"


def _tls(nginx: Nginx) -> bool:
    if bool(nginx.certificate) != bool(nginx.certificate_key):
        raise ConfigError("nginx.certificate and nginx.certificate_key: expected both or none")
    _file("nginx.certificate", nginx.certificate)
    _file("nginx.certificate_key", nginx.certificate_key)
    if nginx.certificate and not nginx.tls_listen:
        raise ConfigError("nginx.tls_listen: expected at least one address")
    return bool(nginx.certificate)


def _servers(given: tuple[str, ...], bind: tuple[str, ...]) -> list[list[str]]:
    """Each with its parameters; `local` is this machine's own."""
    own = _upstream(bind)
    if not given:
        return [[own]]
    servers = []
    for text in given:
        address, *parameters = text.split()
        if address != "local" and not _ADDRESS.fullmatch(address):
            raise ConfigError(f'nginx.servers: "{address}" is no address; expected "HOST:PORT"')
        for parameter in parameters:
            if not _PARAMETER.fullmatch(parameter):
                raise ConfigError(
                    f'nginx.servers: "{parameter}": expected weight=N, max_conns=N, max_fails=N, '
                    "fail_timeout=TIME, backup or down"
                )
        servers.append([own if address == "local" else address, *parameters])
    return servers


def _upstream(bind: tuple[str, ...]) -> str:
    """The first Unix socket, else the first address, as nginx on the same machine connects."""
    for address in bind:
        if address.startswith("/"):
            return f"unix:{address}"
    host, _, port = bind[0].rpartition(":")
    local = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    return f"{local.get(host, host)}:{port}"


def _listen(key: str, text: str, *words: str) -> list[str]:
    parts = text.split()
    if not parts:
        raise ConfigError(f'{key}: "{text}": expected an address')
    return [*parts, *(word for word in words if word not in parts)]


def _port(listen: str) -> str:
    """What a URL has to name behind the host."""
    port = re.fullmatch(r"(?:.*:)?(\d+)", listen.split()[0])
    return f":{port[1]}" if port and port[1] != "443" else ""


def _acme(directory: str) -> str:
    return _directory(_file("nginx.acme", directory)) if directory else ""


def _file(key: str, path: str) -> str:
    if path and not path.startswith("/"):
        raise ConfigError(f'{key}: "{path}": expected an absolute path')
    return path


def _path(key: str, path: str) -> str:
    if not path.startswith("/") or path.strip("/") == "":
        raise ConfigError(f'{key}: "{path}": expected a path such as "/events/"')
    return path


def _private(nginx: Nginx) -> list[str]:
    """Without a slash at their ends. A location with a longer prefix would open what is below."""
    paths = [_path("nginx.private", path).rstrip("/") for path in nginx.private]
    for key in ("static", "media", "unbuffered"):
        for other in getattr(nginx, key):
            if _below(other, paths):
                raise ConfigError(f'nginx.{key}: "{other}" lies below a path of nginx.private')
    return paths


def _status(nginx: Nginx) -> str:
    if not nginx.status:
        return ""
    path = _directory(_path("nginx.status", nginx.status))
    taken = [*nginx.static, *nginx.media, *nginx.unbuffered]
    if any(_directory(other) == path for other in taken):
        raise ConfigError(f'nginx.status: "{path}" is another location already')
    return path


def _below(path: str, others: list[str]) -> bool:
    return any(f"{path}/".startswith(f"{other}/") for other in others)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text)) if "/" in text else str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(f'nginx.allow: "{text}" is no address or network') from None


def _directories(key: str, table: dict[str, str]) -> dict[str, str]:
    for url, path in table.items():
        if not url.startswith("/") or url.strip("/") == "":
            raise ConfigError(f'{key}: "{url}": expected a path such as "/static/"')
        if not path.startswith("/"):
            raise ConfigError(f'{key}: "{path}": expected an absolute path')
    return {_directory(url): _directory(path) for url, path in sorted(table.items())}


def _directory(path: str) -> str:
    """With a slash at the end: `location /static` with `alias /srv/static/` would also answer
    /static../secret."""
    return path.rstrip("/") + "/"
